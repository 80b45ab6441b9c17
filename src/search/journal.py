"""Studies in a journal file of the results folder, for one search at a time."""

import contextlib
import json
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from src.core.errors import UserError
from src.core.files import naming, replacing
from src.results.folder import ResultsFolder
from src.results.lock import FolderLock
from src.results.shipped import set_aside
from src.search.store import Store

_CHECK = "check"
"""Key of a line's checksum in the journal."""


class Journal(Store):
    """One file in the results folder, for one search at a time."""

    shared = False

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._lock = FolderLock(folder.lock)

    def __enter__(self) -> "Journal":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock)
            set_aside(self._folder)
            if self._folder.database.exists():
                raise UserError(
                    f"{self._folder.path} holds a search whose studies are on a server; go on with "
                    "it with `--storage`, or choose another folder with `--results_dir`"
                )
            self._folder.sweep()
            self.storage = open_journal(self._folder, self._lock)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do nothing: there are no others."""
        yield

    def release_abandoned(self, study: optuna.Study, ours: Collection[int]) -> None:
        """Requeue the trials of a search that was killed: who holds the folder is alone."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in ours:
                study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)

    def _record_heartbeat(self, trial_id: int) -> None:
        """Do nothing: there is nobody to see it."""

    def keep_model(self, name: str, content: bytes) -> None:
        """Write it to the results folder."""
        with replacing(self._folder.checkpoint(name)) as temporary:
            temporary.write_bytes(content)

    def fetch_models(self) -> None:
        """Do nothing: they are there."""


class _CheckedLog(BaseJournalBackend):
    """Optuna's log of operations: a line of JSON each, with a checksum over it and all before it.

    A line is the operation with `"check"` as its last key: CRC-32 of the line without that key,
    begun with the checksum of the line before. Optuna reads past the key. Nobody else may write to
    the file; it is cut only where a crash, or a failure of this process, has left a part of a line,
    and not before there is a line to write.

    Args:
        path: the file.
        size: of the file, in bytes.
        ends: where each whole line ends, in bytes, after a 0 for the beginning.
        check: checksum of the last of them.
        lock: shows that the file is still ours; None: it is only read.
    """

    def __init__(
        self, path: Path, size: int, ends: list[int], check: int, lock: FolderLock | None = None
    ) -> None:
        self._path = path
        self._size = size
        self._ends = ends
        self._check = check
        self._lock = lock

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Give the operations from this number on."""
        if log_number_from + 1 < len(self._ends):
            start = self._ends[log_number_from]
            with self._path.open("rb") as file:
                file.seek(start)
                yield from map(json.loads, file.read(self._ends[-1] - start).splitlines())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, and flush them to the disk.

        Raises:
            UserError: the journal may be another search's now.
            OSError: it cannot be written; it is as before.
        """
        self._check_ours()
        check, lines = self._check, []
        for log in logs:
            body = json.dumps(log, separators=(",", ":")).encode()
            check = zlib.crc32(body, check)
            lines.append(body[:-1] + b',"%s":"%08x"}\n' % (_CHECK.encode(), check))
        try:
            with naming(self._path), self._path.open("ab") as file:
                if self._size > self._ends[-1]:  # by a part of a line
                    file.truncate(self._ends[-1])
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._path, self._ends[-1])
            self._size = self._path.stat().st_size
            raise
        self._check = check
        for line in lines:
            self._ends.append(self._ends[-1] + len(line))
        self._size = self._ends[-1]

    def _check_ours(self) -> None:
        if self._lock is None:
            raise UserError(f"{self._path} is open for reading only")
        self._lock.check()
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size != self._size:
            raise UserError(
                f"{self._path} has {size:,} bytes, where this search has left {self._size:,}: it "
                "was removed, or another one has written to it. This one has stopped; the same "
                "command goes on when no other runs"
            )


def open_journal(folder: ResultsFolder, lock: FolderLock | None = None) -> BaseStorage:
    """Open the journal that holds all studies of a data set; make it if it is not there.

    A last line that a crash cut short does not count: nothing was built on it.

    Args:
        folder: whose journal.
        lock: the folder's, held; None: the journal is only read.

    Raises:
        UserError: the journal is damaged, or lost while its tables are there.
    """
    path = folder.journal
    begin_anew = f"restore it, or move {folder.path} away to begin a new search"
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; {begin_anew}")
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    if not lines and folder.all_csv.exists():
        raise UserError(
            f"{path} is missing or empty, though {folder.all_csv.name} shows trials; {begin_anew}"
        )
    check, ends = 0, [0]
    for number, line in enumerate(lines, start=1):
        body, _, recorded = line.rpartition(b',"' + _CHECK.encode() + b'":"')
        check = zlib.crc32(body + b"}", check)
        if recorded != b'%08x"}\n' % check:
            raise UserError(
                f"{path} is damaged in line {number}, or written by another version; {begin_anew}"
            )
        ends.append(ends[-1] + len(line))
    try:
        return JournalStorage(_CheckedLog(path, len(content), ends, check, lock))
    except OSError:
        raise
    except Exception as error:  # whatever a forged line makes Optuna raise
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); {begin_anew}"
        ) from error
