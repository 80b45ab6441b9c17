"""Studies in a journal file of the results folder, for one search at a time."""

import contextlib
import json
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from src.core.errors import UserError
from src.core.files import replacing
from src.results.folder import ResultsFolder
from src.results.shipped import set_aside
from src.search.store import Store

_CHECK = "check"
"""Key of a line's checksum in the journal."""


class Journal(Store):
    """One file in the results folder, for one search at a time."""

    shared = False

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._lock = filelock.FileLock(folder.lock, timeout=0)

    def __enter__(self) -> "Journal":
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"another search is running in {self._folder.path}; wait for it, choose another "
                "folder with `--results_dir`, or share one on a server with `--storage`"
            ) from error
        try:
            set_aside(self._folder)
            if self._folder.database.exists():
                raise UserError(
                    f"{self._folder.path} holds a search whose studies are on a server; go on with "
                    "it with `--storage`, or choose another folder with `--results_dir`"
                )
            self._folder.sweep()
            self.storage = open_journal(self._folder)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do nothing: there are no others."""
        yield

    def release_abandoned(self, study: optuna.Study, ours: Collection[int]) -> None:
        """Let the trials of a search that was killed wait to be gone on with."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in ours:
                continue
            self.storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)

    def heartbeat(self, trial: optuna.Trial) -> None:
        """Do nothing: there is nobody to see it."""

    def keep_model(self, name: str, content: bytes) -> None:
        """Write it to the results folder."""
        with replacing(self._folder.checkpoint(name)) as temporary:
            temporary.write_bytes(content)

    def fetch_models(self) -> None:
        """Do nothing: they are there."""


class _OwnJournal(JournalFileBackend):
    """Optuna's journal file for the search that holds its results folder.

    Every line ends with a checksum over it and all lines before it. Optuna reads past them.
    Optuna's own lock is a file that a killed process leaves behind for its successor to wait on.

    Args:
        path: the file.
        whole: bytes of its whole lines.
        check: checksum of the last of them.
    """

    def __init__(self, path: Path, whole: int, check: int) -> None:
        super().__init__(str(path), lock_obj=_NoLock(str(path)))
        self._path = path
        self._whole = whole
        self._check = check

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines; first cut off what a crash or a full disk has left of one."""
        if self._path.stat().st_size > self._whole:
            os.truncate(self._path, self._whole)
        check, checked = self._check, []
        for log in logs:
            check = zlib.crc32(json.dumps(log, separators=(",", ":")).encode(), check)
            checked.append({**log, _CHECK: f"{check:08x}"})
        try:
            super().append_logs(checked)
        except OSError as error:  # which does not say where
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._whole, self._check = self._path.stat().st_size, check


class _NoLock(JournalFileSymlinkLock):
    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_journal(folder: ResultsFolder) -> BaseStorage:
    """Open the journal that holds all studies of a data set; make it if it is not there.

    Nobody else may write to it. A last line that a crash cut short does not count: nothing was
    built on it.

    Raises:
        UserError: the journal is damaged, or lost while its tables are there.
    """
    begin_anew = f"restore it, or move {folder.path} away to begin a new search"
    if folder.journal.exists() and not folder.journal.is_file():
        raise UserError(f"{folder.journal} is no file; {begin_anew}")
    content = folder.journal.read_bytes() if folder.journal.exists() else b""
    whole = content.rfind(b"\n") + 1
    if not whole and folder.all_csv.exists():
        raise UserError(
            f"{folder.journal} is missing or empty, though {folder.all_csv.name} shows trials; "
            f"{begin_anew}"
        )
    check = 0
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        body, _, told = line.rpartition(b',"' + _CHECK.encode() + b'":"')
        check = zlib.crc32(body + b"}", check)
        if told != b'%08x"}' % check:
            raise UserError(
                f"{folder.journal} is damaged in line {number}, or written by another version; "
                f"{begin_anew}"
            )
    try:
        return JournalStorage(_OwnJournal(folder.journal, whole, check))
    except OSError:
        raise
    except Exception as error:  # whatever a forged line makes Optuna raise
        raise UserError(
            f"{folder.journal} is damaged ({type(error).__name__}: {error}); {begin_anew}"
        ) from error
