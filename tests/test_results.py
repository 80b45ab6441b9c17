import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.core.decode import pick
from src.core.errors import UserError
from src.core.files import replacing, write_json
from src.results.records import (
    BestSummary,
    Decision,
    PublishedDecision,
    TestMetrics,
    TestRecord,
    TrialOutcome,
    TrialRecord,
)
from src.results.tables import read_epochs, read_trials, write_epochs, write_trials
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters
from tests.conftest import REPOSITORY

SHIPPED = sorted(note.parent for note in (REPOSITORY / "results").glob("*/SHIPPED.md"))

LATER = {"weight_decay": 0.0}
"""Options of the recipe that some of what is shipped has no word for, and what it stood for."""


def with_later_columns(table: str) -> str:
    header, *rows = table.splitlines()
    for name, value in LATER.items():
        if name not in header.split(","):
            header, rows = f"{header},{name}", [f"{row},{value}" for row in rows]
    return "\n".join([header, *rows, ""])


def with_later_options(value: Any) -> Any:
    """Return a document, or a part of it, in which every configuration has all options."""
    if isinstance(value, list):
        return [with_later_options(one) for one in value]
    if not isinstance(value, dict):
        return value
    whole = {}
    for name, one in value.items():
        whole[name] = with_later_options(one)
        if name == "weight_averaging" and isinstance(one, bool):
            whole |= LATER | {later: value[later] for later in LATER if later in value}
    return whole


shipped = pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)


@shipped
def test_tables_are_written_again_as_they_were_read(folder: Path, tmp_path: Path) -> None:
    curves = read_epochs(folder / "curves.csv")
    trials = [
        dataclasses.replace(trial, history=curves[trial.batch_size, trial.trial])
        for trial in read_trials(folder / "all.csv")
    ]
    write_trials(tmp_path / "all.csv", trials)
    write_epochs(tmp_path / "curves.csv", trials)
    assert (tmp_path / "all.csv").read_text() == with_later_columns(
        (folder / "all.csv").read_text()
    )
    assert (tmp_path / "curves.csv").read_bytes() == (folder / "curves.csv").read_bytes()


def test_parts_of_the_first_epoch_are_written_with_four_decimals_and_read_back(
    tmp_path: Path,
) -> None:
    looks = [Epoch(epoch, 0.5, 0.8, 0.5, 0.8) for epoch in (1 / 27, 1 / 3, 1, 2)]
    short, long = (trial_of(i, looks[: 2 * (i + 1)]) for i in range(2))
    write_trials(tmp_path / "all.csv", [short, long])
    write_epochs(tmp_path / "curves.csv", [short, long])
    assert column(tmp_path / "all.csv", "epochs") == ["0.3333", "2"]
    assert column(tmp_path / "curves.csv", "epoch") == [
        *("0.037", "0.3333"),
        *("0.037", "0.3333", "1", "2"),
    ]
    assert [record.epochs for record in read_trials(tmp_path / "all.csv")] == [0.3333, 2]
    curves = read_epochs(tmp_path / "curves.csv")
    assert [look.epoch for look in curves[64, 1]] == [0.037, 0.3333, 1, 2]
    assert [look.is_whole for look in curves[64, 1]] == [False, False, True, True]
    again = [
        dataclasses.replace(record, history=curves[64, record.trial])
        for record in read_trials(tmp_path / "all.csv")
    ]
    for name, write in (("all.csv", write_trials), ("curves.csv", write_epochs)):
        write(tmp_path / "again.csv", again)
        assert (tmp_path / "again.csv").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    "epochs",
    [
        *([2], [1, 3], [1, 1], [0, 1], [-0.5, 1], [1, 1.5, 2], [1, 0.5], [0.5, 2]),
        *([0.3, 0.1, 1], [0.3, 0.3, 1], [float("nan")], [float("inf")]),
    ],
    ids=str,
)
def test_looks_must_rise_within_the_first_epoch_and_epochs_count_from_1(
    epochs: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "curves.csv"
    looks = [Epoch(epoch, 0.5, 0.8, 0.5, 0.8) for epoch in epochs]
    write_epochs(path, [trial_of(0, looks)])
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_epochs(path)


def trial_of(number: int, history: list[Epoch]) -> TrialRecord:
    return TrialRecord(
        val_accuracy=None,
        hyperparameters=Hyperparameters(
            conv1=32, conv2=32, dense_units=32, dropout_rate=0.5, learning_rate=0.001, batch_size=64
        ),
        epochs=history[-1].epoch,
        trial=number,
        state="PRUNED",
        bracket=3,
        seconds=1.5,
        reason="",
        history=tuple(history),
    )


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


@shipped
def test_documents_are_written_again_as_they_were_read(folder: Path, tmp_path: Path) -> None:
    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / name).read_text())
        return found

    again = {
        "best.json": BestSummary.from_document(read("best.json")).to_document(),
        "finalists.json": pick(PublishedDecision, read("finalists.json")).to_document(),
        "metrics.json": dataclasses.asdict(pick(TestMetrics, read("metrics.json"))),
    }
    for name, document in again.items():
        write_json(tmp_path / name, document)
        write_json(tmp_path / "there.json", with_later_options(read(name)))
        assert (tmp_path / name).read_text() == (tmp_path / "there.json").read_text()
    for line in (folder / "test-log.jsonl").read_text().splitlines():
        assert json.dumps(dataclasses.asdict(pick(TestRecord, json.loads(line)))) == line


@shipped
def test_attributes_in_a_journal_are_written_again_as_they_were_read(folder: Path) -> None:
    lines = map(json.loads, (folder / "study.journal").read_text().splitlines())
    attributes = [line.get("user_attr", {}) for line in lines]
    outcomes = [one["outcome"] for one in attributes if "outcome" in one]
    decisions = [one["decision"] for one in attributes if "decision" in one]
    assert len(outcomes) > 34
    for outcome in outcomes:
        assert TrialOutcome.from_attribute(outcome).to_attribute() == outcome
    decided = decisions[-1]  # those before, of earlier finals, it has replaced
    again = json.loads(json.dumps(pick(Decision, decided).to_document()))
    assert again == with_later_options(decided)


def test_outcome_of_an_error_is_its_reason_alone() -> None:
    attribute = {"reason": "RuntimeError: no memory"}
    assert TrialOutcome.from_attribute(attribute).to_attribute() == attribute
    diverged: dict[str, Any] = {
        "reason": "diverged", "val_accuracy": None, "history": [], "device": "cpu", "seconds": 0.5,
    }  # fmt: skip
    assert TrialOutcome.from_attribute(diverged).to_attribute() == diverged


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="No space") as caught, replacing(path) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text("x")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_writing_leaves_an_old_or_a_new_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "value.json"
    program = (
        "import sys; from pathlib import Path; from src.core.files import write_json\n"
        "for i in range(10**9):\n"
        "    write_json(Path(sys.argv[1]), {'value': [i] * 5000})\n"
        "    print(flush=True)"
    )
    for delay in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3 + 7 * delay):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_text()
        assert content.startswith("{\n")
        assert content.endswith("]\n}\n")
        assert content.count(",") == 4999


def test_written_files_have_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    write_json(tmp_path / "best.json", {})
    (tmp_path / "new").touch()
    assert (tmp_path / "best.json").stat().st_mode == (tmp_path / "new").stat().st_mode
