"""Log every look at a test split: test-log.jsonl."""

import errno
import json
import os
from dataclasses import asdict

from src.core.decode import parse_json, pick
from src.core.errors import UserError
from src.results.folder import ResultsFolder
from src.results.records import Opened, TestRecord


def record_test(folder: ResultsFolder, record: TestRecord) -> Opened:
    """Append a line to the test log; to be called before the result is shown.

    Raises:
        UserError: the log is damaged.
    """
    with folder.test_log.open("a+b", buffering=0) as file:

        def read() -> bytes:
            file.seek(0)
            return file.read()

        before = read()
        _parse(folder, before)
        whole = not before or before.endswith(b"\n")
        line = b"\n" * (not whole) + json.dumps(asdict(record)).encode() + b"\n"
        written = file.write(line)
        try:
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.test_log))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(file.tell() - written)  # half a line would be in the way of the next
            raise
        looks = _parse(folder, read())  # others' lines of meanwhile, too
    return Opened(len(looks), len({look.checkpoint_sha256 for look in looks}))


def read_tests(folder: ResultsFolder) -> list[TestRecord]:
    """Read the test log; without one, nobody has looked.

    Raises:
        UserError: the log is damaged.
    """
    return _parse(folder, folder.test_log.read_bytes()) if folder.test_log.exists() else []


def _parse(folder: ResultsFolder, log: bytes) -> list[TestRecord]:
    try:
        return [pick(TestRecord, parse_json(line)) for line in log.splitlines() if line]
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder.test_log} is damaged: a line is no record of a test; mend or move it"
        ) from error
