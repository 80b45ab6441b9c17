import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from optuna.trial import TrialState

from src import report
from src.core.interrupt import Interrupted, Interruption, Signals
from src.data.split import TrainingData
from src.results.lock import FolderLock
from src.results.tables import COLUMNS
from src.training.checkpoint import load_model
from src.training.fitted import Fitted
from src.training.spec import FitSpec
from tests.conftest import ENOUGH, Rows, Workplace, start_python, start_search, wait_until


def without_seconds(workplace: Workplace) -> Rows:
    """Return the table, but for what no two runs have in common."""
    return [{name: row[name] for name in COLUMNS if name != "seconds"} for row in workplace.rows()]


def wait_for_trial(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if f"trial {number:3d} " in line:
            return
    raise AssertionError("the search ended before that trial")


@pytest.mark.parametrize(
    ("options", "trials"),
    [
        # One worker, because what is stopped depends on who reaches a rung first.
        (("--workers=1",), 5),
        # Synchronous rungs do not; only what TPE proposes would.
        (
            (
                "--promotion=synchronous",
                "--min_epochs=0.3",
                "--sampler=random",
                "--workers=2",
                "--batch_sizes=[32]",
            ),
            17,
        ),
    ],
    ids=["stopping", "synchronous"],
)
def test_killed_search_ends_like_an_uninterrupted_one(
    options: tuple[str, ...],
    trials: int,
    workplace: Workplace,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    process = start_search(workplace, environment, *options)
    wait_for_trial(process, 2)
    process.kill()
    process.communicate()
    assert workplace.tune(*options) == 0
    whole = Workplace(tmp_path / "whole")
    assert whole.tune(*options) == 0

    assert len(whole.rows()) == trials
    assert without_seconds(workplace) == without_seconds(whole)
    one, other = (
        json.loads((w.results / "mnist_5k/best.json").read_text()) for w in (workplace, whole)
    )
    assert one["val_accuracy"] == other["val_accuracy"]
    assert one["search"]["interrupted"]
    assert [run["how"] for run in one["search"]["runs"]] == [None, "finished"]
    assert not other["search"]["interrupted"]


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        ("--workers=1",),
        # What is stopped depends on who reaches a rung first, unless there is none, or all wait.
        ("--workers=2", "--sampler=random", "--reduction_factor=10", "--iterations=12"),
        ("--workers=2", "--sampler=random", "--promotion=synchronous", "--min_epochs=0.3"),
    ],
    ids=["stopping", "without rungs", "synchronous"],
)
def test_search_killed_twenty_times_is_the_same_to_the_last_digit(
    options: tuple[str, ...], workplace: Workplace, tmp_path: Path, environment: dict[str, str]
) -> None:
    options = ("--limit=600", *options)
    whole = Workplace(tmp_path / "whole")
    assert whole.tune(*options, max_epochs=9) == 0
    moments = random.Random(len(options))
    for _ in range(20):
        process = start_search(workplace, environment, *options, "--max_epochs=9")
        assert process.stdout is not None
        while "images train" not in process.stdout.readline():
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.expovariate(1.0))
        process.kill()
        process.communicate()
    assert workplace.tune(*options, max_epochs=9) == 0
    assert sorted(without_seconds(workplace), key=str) == sorted(without_seconds(whole), key=str)
    assert set(workplace.states()) <= {TrialState.COMPLETE, TrialState.PRUNED}
    names = {path.name for path in (workplace.results / "mnist_5k").iterdir()}
    assert names == {path.name for path in (whole.results / "mnist_5k").iterdir()}


@pytest.mark.parametrize(
    ("number", "code", "to"),
    [
        (signal.SIGINT, 130, "group"),  # a terminal sends Ctrl-C to the workers too
        *(
            pytest.param(number, code, to, marks=pytest.mark.long)
            for number, code, to in [
                (signal.SIGTERM, 143, "process"),
                (signal.SIGINT, 130, "process"),
                (signal.SIGTERM, 143, "group"),
            ]
        ),
    ],
)
def test_signal_stops_in_the_middle_and_leaves_no_trial_running(
    number: signal.Signals,
    code: int,
    to: str,
    workplace: Workplace,
    environment: dict[str, str],
) -> None:
    # Long trials without a rung, so that the signal comes in the middle of two.
    long = ("--max_epochs=81", "--reduction_factor=100", "--iterations=2", "--patience=null")
    process = start_search(workplace, environment, "--limit=1000", "--workers=2", *long)
    wait_until(lambda: sum(1 for t in workplace.trials() if t.intermediate_values) == 2)
    (os.killpg if to == "group" else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=ENOUGH)
    assert process.returncode == code, err
    assert "the same command goes on from here" in out
    assert "Traceback" not in err
    found = workplace.states()
    assert found.count(TrialState.WAITING) == 2
    assert TrialState.RUNNING not in found


def test_interrupted_search_tells_of_the_batch_sizes_that_have_not_begun(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    options = ("--workers=1", "--batch_sizes=[32,64]", "--iterations=20")  # of 5 trials each
    process = start_search(workplace, environment, *options)
    wait_until(lambda: TrialState.COMPLETE in workplace.states())
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=ENOUGH)
    assert process.returncode == 130
    rows = workplace.rows()
    assert {row["batch_size"] for row in rows} == {"32"}
    folder = workplace.results / "mnist_5k"
    assert json.loads((folder / "best.json").read_text())["search"]["batch_sizes"] == [32, 64]
    assert report.main(["--dataset=mnist_5k", f"--results_dir={workplace.results}"]) == 0
    page = (folder / "report.html").read_text()
    assert f"Not ended yet, and not shown: {200 - len(rows)} trials of the plan." in page


def test_timeout_stops_in_the_middle_and_the_same_command_goes_on(workplace: Workplace) -> None:
    # One trial, of more epochs than there is time for.
    same = ["--limit=400", "--patience=null", "--reduction_factor=2000", "--workers=1"]

    def reported() -> int:
        trials = workplace.trials()
        assert all(trial.state == TrialState.WAITING for trial in trials)
        return sum(len(trial.intermediate_values) for trial in trials)

    def run_until_more_is_reported() -> None:
        before, begun = reported(), time.monotonic()
        while reported() == before:
            assert time.monotonic() - begun < ENOUGH
            assert workplace.tune(*same, "--timeout=3s", max_epochs=1000) == 0

    run_until_more_is_reported()
    (stopped,) = workplace.trials()
    run_until_more_is_reported()
    (again,) = workplace.trials()
    assert again.params == stopped.params
    assert again.user_attrs.items() >= stopped.user_attrs.items()
    assert again.intermediate_values.items() > stopped.intermediate_values.items()


@dataclass(frozen=True)
class StubbornFit:
    """Never ends, though it is asked to; makes a file when it is."""

    asked: Path

    def __call__(
        self,
        spec: FitSpec,
        data: TrainingData,
        interruption: Interruption,
        callbacks: Sequence[Callback],
    ) -> Fitted:
        while True:
            if interruption.pending():
                self.asked.touch()
            time.sleep(0.05)


STUBBORN = """
import sys
from pathlib import Path
from tests import conftest, test_interruption
folder = Path(sys.argv[1])
stubborn = test_interruption.StubbornFit(folder / "asked")
sys.exit(conftest.Workplace(folder).tune("--workers=2", fit=stubborn))
"""


def test_signal_is_not_lost_on_a_library_that_passes_over_errors() -> None:
    # So tqdm asks for the terminal's size as a download begins.
    with Signals() as signals, pytest.raises(Interrupted, match="SIGTERM"), signals.at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: False)
        except Exception:
            pass
        raise AssertionError("the signal was passed over")


def test_second_ctrl_c_ends_it_at_once(workplace: Workplace, environment: dict[str, str]) -> None:
    process = start_python(["-c", STUBBORN, str(workplace.folder)], environment)
    wait_until(lambda: workplace.states().count(TrialState.RUNNING) == 2)
    os.killpg(process.pid, signal.SIGINT)
    wait_until((workplace.folder / "asked").exists)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=ENOUGH)
    assert process.returncode == 130
    assert workplace.states() == [TrialState.WAITING] * 2
    with pytest.raises(ProcessLookupError):  # none of its processes is left
        os.killpg(process.pid, 0)


def test_results_that_cannot_be_written_end_the_search_in_order(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    in_the_way = workplace.results / "mnist_5k/32-all.csv"
    in_the_way.mkdir(parents=True)
    # When the first batch size is published, trials of the second are being trained.
    assert workplace.tune("--batch_sizes=[32,64]", "--workers=2") == 2
    assert re.search(r"32-all\..*: Is a directory", capsys.readouterr().err)
    assert TrialState.RUNNING not in workplace.states()
    in_the_way.rmdir()
    assert workplace.tune("--batch_sizes=[32,64]", "--workers=2") == 0
    done = [row for row in workplace.rows() if row["state"] != "FAIL"]
    assert [row["batch_size"] for row in done] == ["32"] * 5 + ["64"] * 5


def test_second_search_in_the_same_folder_is_refused(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workplace.results / "mnist_5k"
    folder.mkdir(parents=True)
    with FolderLock(folder / ".lock"):  # test_lock.py has it between processes
        assert workplace.tune() == 2
    assert "another search is running in" in capsys.readouterr().err


def test_damaged_journal_is_refused_and_left_alone(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = searched.results / "mnist_5k/study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], b"not json\n", *lines[3:]])
    journal.write_bytes(damaged)
    assert searched.tune() == 2
    assert "study.journal is damaged in line 4" in capsys.readouterr().err
    assert journal.read_bytes() == damaged
    assert len(searched.rows()) == 5


def test_line_that_a_crash_cut_short_costs_nothing(searched: Workplace) -> None:
    before = searched.rows()
    journal = searched.results / "mnist_5k/study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker_i')
    assert searched.tune("--iterations=2") == 0
    assert searched.tune("--iterations=2") == 0
    assert searched.rows()[:5] == before
    assert len(searched.rows()) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.journal", b"", "is missing or empty, though all.csv shows trials"),
        ("study.journal", None, "is missing or empty, though all.csv shows trials"),
        ("study.journal", b'{"op_co', "is missing or empty, though all.csv shows trials"),
        ("64-best.ckpt", b"PK", "64-best.ckpt is refused: it is damaged"),
    ],
)
def test_lost_state_is_refused_and_the_results_stay(
    name: str,
    content: bytes | None,
    message: str,
    searched: Workplace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = searched.results / "mnist_5k"
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert searched.tune("--iterations=2") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to begin a new search" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_search_goes_on_without_models_but_for_the_best(
    finished_search: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_search.results, tmp_path / "results")
    workplace = Workplace(tmp_path)
    folder = workplace.results / "mnist_5k"
    (folder / "32-best.ckpt").unlink()
    (folder / "64-best.ckpt").unlink()
    before = {name: (folder / name).read_bytes() for name in ("all.csv", "best-model.ckpt")}
    options = ("--batch_sizes=[32,64]", "--tensorboard=all")
    assert workplace.tune(*options, max_epochs=9) == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert workplace.tune(*options, "--iterations=2", max_epochs=9) == 0
    assert len(workplace.rows()) > before["all.csv"].count(b"\n")
    best = max(float(row["val_accuracy"]) for row in workplace.rows() if row["state"] == "COMPLETE")
    assert load_model(folder / "best-model.ckpt").val_accuracy == pytest.approx(best, abs=1e-6)
    for name in ("32-best.ckpt", "64-best.ckpt", "best-model.ckpt"):
        (folder / name).unlink(missing_ok=True)
    assert workplace.tune(*options, "--iterations=2", max_epochs=9) == 2
    error = capsys.readouterr().err
    assert "there is no checkpoint" in error
    assert "to begin a new search" in error


def test_lock_that_a_killed_process_left_does_not_hold_up_the_next(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Optuna's journal lock is a link named so; with a relative path it leads nowhere.
    folder = workplace.results / "mnist_5k"
    folder.mkdir(parents=True)
    (folder / "study.journal.lock").symlink_to("results/mnist_5k/study.journal")
    monkeypatch.chdir(workplace.folder)
    assert workplace.tune("--results_dir=results") == 0
    assert len(workplace.rows()) == 5


def test_two_searches_keep_their_curves_apart(searched: Workplace, tmp_path: Path) -> None:
    curves = searched.logs / "mnist_5k/batch_64"
    before = {path: path.read_bytes() for path in curves.rglob("*") if path.is_file()}
    assert before
    other = (f"--results_dir={tmp_path}/other", "--tensorboard=all", "--seed=1")
    assert searched.tune(*other) == 0
    after = {path: path.read_bytes() for path in curves.rglob("*") if path.is_file()}
    assert after == before
    assert len(list((searched.logs / "mnist_5k/batch_64-2").iterdir())) == 5


def test_odd_names_are_printed_so_that_they_can_be_typed(
    searched: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red] é"
    searched.results.rename(folder)
    assert searched.tune(f"--results_dir={folder}") == 0
    out = capsys.readouterr().out
    (following,) = re.findall(r"python -m src\.evaluate (.*)", out)
    assert shlex.split(following) == [f"{folder}/mnist_5k/best-model.ckpt"]


@pytest.mark.parametrize("option", ["results_dir", "log_dir"])
def test_folder_that_cannot_be_written_is_refused_before_training(
    option: str, workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert workplace.tune(f"--{option}={tmp_path}/file") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write to ")
    assert f"--{option}" in error
