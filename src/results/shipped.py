"""Move results that came with the project aside when a search begins in their place."""

import re

from src.results.folder import ResultsFolder

NOTE = "SHIPPED.md"
"""The file that tells results that came with the project from those of a search made here. Its
list names the others that came with it, one a line: "- `name`"."""

ASIDE = "shipped"
"""Name of the folder that they are moved to."""


def are_shipped(folder: ResultsFolder) -> bool:
    """Return whether the folder holds results that came with the project."""
    return (folder.path / NOTE).exists()


def set_aside(folder: ResultsFolder) -> None:
    """Move results that came with the project, and nothing else, into a folder of their own.

    Nobody else may be writing to the folder. Cut short, it goes on the next time: the note goes
    last. The test log stays: whoever has looked at the test images has done so.
    """
    note = folder.path / NOTE
    if not note.exists():
        return
    listed = re.findall(r"^- `([\w./-]+)`$", note.read_text(errors="replace"), re.MULTILINE)
    for name in (*listed, NOTE):
        source, target = folder.path / name, folder.path / ASIDE / name
        if ".." in name.split("/") or source == folder.test_log or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        if source.parent != folder.path and not any(source.parent.iterdir()):
            source.parent.rmdir()
