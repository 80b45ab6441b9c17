"""What libraries say of every fit and every study, and nobody needs."""

import logging
import warnings

import optuna


def silence_libraries() -> None:
    """Drop it, in this process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6 with torch >= 2.13: about their own internals.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
