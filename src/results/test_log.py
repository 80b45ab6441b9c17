"""The log of every look at a test split."""

import errno
import json
import os
from dataclasses import asdict

from src.core.errors import UserError
from src.results.folder import ResultsFolder
from src.results.records import Opened, TestRecord


def record_test(folder: ResultsFolder, record: TestRecord) -> Opened:
    """Add a line to the test log, before anybody sees what it says.

    Raises:
        UserError: the log is damaged.
    """
    with folder.test_log.open("a+b", buffering=0) as file:

        def read() -> bytes:
            file.seek(0)
            return file.read()

        before = read()
        _tested_models(folder, before)
        whole = not before or before.endswith(b"\n")
        line = b"\n" * (not whole) + json.dumps(asdict(record)).encode() + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.test_log))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(len(before))  # half a line would be in the way of the next
            raise
        hashes = _tested_models(folder, read())  # others' lines of meanwhile, too
    return Opened(len(hashes), len(set(hashes)))


def _tested_models(folder: ResultsFolder, log: bytes) -> list[str]:
    """Return the hashes of the models that a test log's lines are about."""
    try:
        return [str(json.loads(line)["checkpoint_sha256"]) for line in log.splitlines() if line]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder.test_log} is damaged: a line is no record of a test; mend or move it"
        ) from error
