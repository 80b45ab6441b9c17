"""Files that are written whole or not at all, and files that work can go on without."""

import contextlib
import itertools
import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core.errors import UserError

_TOKEN = 4
"""Random bytes in the name of a file that is being written."""


def make_writable(path: Path, option: str) -> None:
    """Make the folder and make sure that files can be written to it.

    Raises:
        UserError: they cannot; the message names the option that chooses another folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {path} ({error.strerror}); "
            f"make it writable or choose another folder with `{option}`"
        ) from error


def short_path(path: Path) -> str:
    """Return a path as a person would type it: without the working directory that it is in."""
    folder = _working_directory()
    if folder is None or not path.is_relative_to(folder):
        return str(path)
    short = str(path.relative_to(folder))
    if short.startswith("~"):  # read again, it would be in a home folder
        return str(path)
    return f"./{short}" if short.startswith("-") else short  # or it would be taken for an option


def shorten_paths(text: str) -> str:
    """Leave the working directory out of the paths in a text for people."""
    folder = _working_directory()
    if folder is None:
        return text
    return re.sub(rf"(?<![\w./-]){re.escape(str(folder) + os.sep)}(?=[^\s-])", "", text)


def _working_directory() -> Path | None:
    """Return the working directory, if it is there and paths in it are shorter without it."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # somebody removed it
        return None
    return None if folder == Path(folder.anchor) else folder


def free_name(folder: Path, name: str) -> str:
    """Return `name`, or `name-2`, `name-3`, …: the first that the folder has nothing of."""
    names = (name if i == 1 else f"{name}-{i}" for i in itertools.count(1))
    return next(free for free in names if not (folder / free).exists())


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name the file in an error that names none, as that of a full disk, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: give a temporary path that becomes `path` when the block succeeds.

    A crash at any moment leaves the old file or the new one, never a part of one.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(_TOKEN)}{path.suffix}")
    try:
        with naming(path, temporary):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in `replacing`; nobody else may be writing there."""
    for left in folder.glob(f".*.{'?' * 2 * _TOKEN}.*"):
        left.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Unwritten:
    """A file that could not be written or used, though nothing depends on it."""

    what: str
    """What such files hold."""
    path: Path
    reason: str
    """What the system says."""
    folder: Path
    """Of other files of the same kind in here nothing more is said."""


_said: set[tuple[str, Path]] = set()

_collected: list[Unwritten] | None = None


def warn_unwritten(unwritten: Unwritten) -> None:
    """Say on standard error, once for each folder, which file the work goes on without."""
    if _collected is not None:
        _collected.append(unwritten)
    elif (unwritten.what, unwritten.folder) not in _said:
        _said.add((unwritten.what, unwritten.folder))
        print(
            f"warning: {unwritten.path}: {unwritten.reason}; going on without {unwritten.what}",
            file=sys.stderr,
        )


@contextlib.contextmanager
def collecting_unwritten() -> Iterator[list[Unwritten]]:
    """Collect the warnings of a block instead, for another process to give."""
    global _collected
    _collected = []
    try:
        yield _collected
    finally:
        _collected = None


@contextlib.contextmanager
def optional(what: str, path: Path, folder: Path | None = None) -> Iterator[None]:
    """Write a file that nothing depends on; where that fails, warn and go on.

    Args:
        what: what such files hold, for the warning.
        path: the file.
        folder: within which one warning is enough; None: the file's own.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        warn_unwritten(Unwritten(what, path, reason, folder or path.parent))
