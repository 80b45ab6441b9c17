"""Silence what libraries say of every fit and every study."""

import logging
import warnings


def silence_libraries() -> None:
    """Drop log records below a warning, and a warning of Lightning's, in this process.

    The loggers' own levels would not do: Lightning and Optuna set theirs when they are imported,
    which they need not be yet.
    """
    logging.disable(logging.INFO)
    # Lightning 2.6 with torch >= 2.13: about their own internals.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
