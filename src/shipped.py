"""Results that come with the project, and how a search gets their place."""

import filelock

from src.errors import UserError
from src.results import ResultsFolder

NOTE = "SHIPPED.md"
"""The file that tells results that came with the project from those of a search made here."""
ASIDE = "shipped"
"""The folder that they are moved to."""


def are_shipped(folder: ResultsFolder) -> bool:
    """Return whether the folder holds results that came with the project."""
    return (folder.path / NOTE).exists()


def set_aside(folder: ResultsFolder) -> bool:
    """Move results that came with the project into a folder of their own, to make room.

    Cut short, it goes on the next time: the note goes last.

    Returns:
        Whether there were any.

    Raises:
        UserError: another search is in the folder.
    """
    if not are_shipped(folder):
        return False
    try:
        with filelock.FileLock(folder.lock, timeout=0):
            aside = folder.path / ASIDE
            aside.mkdir(exist_ok=True)
            # The test log stays: whoever has looked at the test images has done so.
            ours = (aside, folder.lock, folder.test_log, folder.path / NOTE)
            for path in folder.path.iterdir():
                if path not in ours:
                    path.rename(aside / path.name)
            (folder.path / NOTE).rename(aside / NOTE)
    except filelock.Timeout as error:
        raise UserError(f"another search is beginning in {folder.path}; try again") from error
    return True
