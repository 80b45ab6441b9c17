"""The lock of a results folder, for one search at a time."""

import errno
import os
import socket
from pathlib import Path

import filelock

from src.core.errors import UserError
from src.core.files import naming

try:
    import fcntl
except ImportError:  # Windows, where filelock's own locks hold
    fcntl = None  # type: ignore[assignment]

_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FolderLock:
    """Holds a results folder; a context manager.

    The lock is the operating system's (flock), which ends with its process, on a file that names
    the holder. On a file system where flock is missing, or does nothing, as on some network
    mounts, a file that is there while its holder runs stands in for it. If that process is gone,
    the file is taken over on the same machine, and must be deleted by hand on another.

    Args:
        path: the file that is locked.
        timeout: seconds to wait for another holder.

    Raises:
        UserError: on entering, if another process holds the folder.
    """

    def __init__(self, path: Path, timeout: float = 0) -> None:
        self._path = path
        self._timeout = timeout
        self._lock: filelock.BaseFileLock
        self._held: tuple[Path, int, bytes]
        """The file that is locked, its inode and content."""

    def __enter__(self) -> "FolderLock":
        try:
            self._lock = filelock.FileLock(self._path, self._timeout, fallback_to_soft=False)
            works = self._acquire_flock()
            if not works:
                stand_in = self._path.with_name(f"{self._path.name}-holder")
                self._lock = filelock.SoftFileLock(stand_in, self._timeout)
                self._lock.acquire()
        except filelock.Timeout as error:
            raise self._taken() from error
        try:
            if works:
                with naming(self._path):
                    self._path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
            held = Path(self._lock.lock_file)
            self._held = (held, held.stat().st_ino, held.read_bytes())
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def check(self) -> None:
        """Make sure that the folder is still held, whatever has become of the file.

        Raises:
            UserError: the file is gone or another one, so that others may be at work.
        """
        held, inode, content = self._held
        try:
            same = held.stat().st_ino == inode and held.read_bytes() == content
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"{held} was removed or replaced while this search was running, so another search "
                "may be at work in its folder; this one has stopped. The same command goes on when "
                "no other runs"
            )

    def _acquire_flock(self) -> bool:
        """Take the operating system's lock; return whether there is one that does something."""
        try:
            self._lock.acquire()
        except NotImplementedError:  # as filelock says that flock is missing
            return False
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            raise
        if fcntl is None:
            return True
        with self._path.open("r+b") as again:  # NFS locks no file that cannot be written
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # held, by us
                return True
        self._lock.release()
        return False

    def _taken(self) -> UserError:
        held = Path(self._lock.lock_file)
        holder, way_out = "", "wait for it"
        try:
            pid, host = held.read_text().split("\n")[:2]
            holder = f" (process {int(pid)} on {host})"
        except (OSError, ValueError):
            pass
        if isinstance(self._lock, filelock.SoftFileLock):
            way_out += f", or delete {held} if that process is gone"
        return UserError(
            f"another search is running in {self._path.parent}{holder}; {way_out}, choose another "
            "folder with `--results_dir`, or share one on a server with `--storage`"
        )
