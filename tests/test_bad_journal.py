"""A journal that is damaged: one line that names it, or a search with all of its trials.

Examples are drawn by hypothesis, the same ones each time; HYPOTHESIS_PROFILE=thorough draws more.
"""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Rows, Workplace
from tests.test_bad_input import COMMON, THOROUGH, damages, put_in_place

few = settings(COMMON, max_examples=300 if THOROUGH else 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A search whose budget is spent: going on with it trains nothing."""
    workplace = Workplace(tmp_path_factory.mktemp("journal"))
    assert workplace.tune() == 0
    return workplace


def go_on(finished: Workplace, change: Callable[[bytes], bytes], folder: Path) -> tuple[int, Rows]:
    """Go on with a copy of the search; return the exit code and the trials that it then shows."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished.folder, folder)
    workplace = Workplace(folder)
    journal = workplace.results / "mnist_5k/study.journal"
    changed = change(journal.read_bytes())
    journal.write_bytes(changed)
    code = workplace.tune()
    if code:
        assert journal.read_bytes() == changed, "what could be mended by hand is left as it is"
    return code, workplace.rows()


def ended(rows: Rows) -> Rows:
    """Return the trials that count."""
    return [row for row in rows if row["state"] != "FAIL"]


def check(
    finished: Workplace,
    change: Callable[[bytes], bytes],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    altered: bool,
) -> None:
    capsys.readouterr()
    code, rows = go_on(finished, change, folder)
    error = capsys.readouterr().err
    if code == 0:
        assert len(ended(rows)) == 5, "the planned trials"
        if not altered:  # seconds tell a trial that was kept from one that was trained again
            assert ended(rows) == ended(finished.rows()), "none is lost without a word"
    else:
        assert code == 2
        assert "study.journal" in error
        assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
        assert rows == finished.rows(), "earlier results stay"


@few
@given(damage=damages())
def test_damaged_journal_is_refused_by_name_or_costs_no_finished_trial(
    damage: Callable[[bytes], bytes],
    finished: Workplace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(finished, damage, tmp_path / "copy", capsys, altered=True)


@few
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_journal_with_one_bit_flipped_is_refused_by_name_or_costs_no_finished_trial(
    where: float,
    bit: int,
    finished: Workplace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def flip(content: bytes) -> bytes:
        position = int(where * len(content))
        return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]

    check(finished, flip, tmp_path / "copy", capsys, altered=True)


@few
@given(where=st.floats(0, 1, exclude_max=True))
def test_journal_cut_short_is_refused_by_name_or_costs_no_finished_trial(
    where: float, finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(content: bytes) -> bytes:
        return content[: int(where * len(content))]

    check(finished, cut, tmp_path / "copy", capsys, altered=False)


@few
@given(where=st.floats(0, 1, exclude_max=True))
def test_journal_without_one_of_its_lines_is_refused_by_name_or_costs_no_finished_trial(
    where: float, finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drop(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        del lines[int(where * len(lines))]
        return b"".join(lines)

    check(finished, drop, tmp_path / "copy", capsys, altered=False)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/hcr-escaped", "..", 3, None, ["x"]])
def test_journal_that_names_another_folder_for_its_curves_cannot_lead_there(
    name: object, finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lead_away(content: bytes) -> bytes:
        check, lines = 0, []
        for line in content.splitlines():
            log = json.loads(line)
            del log["check"]
            if "log_name" in log.get("user_attr", {}):
                log["user_attr"]["log_name"] = name
            check = zlib.crc32(json.dumps(log, separators=(",", ":")).encode(), check)
            log["check"] = f"{check:08x}"
            lines.append(json.dumps(log, separators=(",", ":")).encode() + b"\n")
        return b"".join(lines)

    shutil.copytree(finished.folder, tmp_path / "a/b/copy")
    workplace = Workplace(tmp_path / "a/b/copy")
    journal = workplace.results / "mnist_5k/study.journal"
    journal.write_bytes(lead_away(journal.read_bytes()))
    assert workplace.tune("--iterations=2") == 2
    assert "names" in capsys.readouterr().err
    outside = [
        path
        for path in tmp_path.rglob("events.out.*")
        if not path.is_relative_to(workplace.logs / "mnist_5k")
    ]
    assert not outside
    assert not Path("/tmp/hcr-escaped").exists()


@pytest.mark.parametrize("what", ["folder"])
def test_journal_that_is_no_file_is_refused_by_name(
    what: str, finished: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy")
    workplace = Workplace(tmp_path / "copy")
    put_in_place(what, workplace.results / "mnist_5k/study.journal")
    assert workplace.tune() == 2
    assert "study.journal" in capsys.readouterr().err
    assert workplace.rows() == finished.rows()
