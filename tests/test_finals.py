"""The finals of small searches on real digits."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy import stats

from src import evaluate, finalists
from src.core.interrupt import Interruption
from src.core.intervals import spread
from src.core.seeding import FINALIST, derive_seed
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.search.finals import Finals
from src.search.planned_study import MakeCheckpoint, Slot, Slots, StartedTrial
from src.training.checkpoint import dump_model, load_model
from src.training.device import PLAIN_CPU
from src.training.fit import fit
from src.training.spec import FitSpec
from src.workers.messages import Ended
from tests.conftest import Workplace, start_search


@pytest.fixture
def searched(finished_search: Workplace, tmp_path: Path) -> Workplace:
    """A copy of a finished search."""
    workplace = Workplace(tmp_path)
    shutil.copytree(finished_search.results, workplace.results)
    return workplace


def run_finals(workplace: Workplace, *options: str) -> int:
    folders = (f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}")
    return finalists.main(["--dataset=mnist_5k", "--device=cpu", *folders, *options])


def read(workplace: Workplace, name: str) -> Any:
    return json.loads((workplace.results / "mnist_5k" / name).read_text())


def without_seconds(workplace: Workplace) -> list[dict[str, Any]]:
    """Return the finalists, but for what no two runs have in common."""
    finalists: list[dict[str, Any]] = read(workplace, "finalists.json")["finalists"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in finalists]


def test_finalists_are_the_best_trials_and_are_compared_by_their_means(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=3") == 0
    decision = read(searched, "finalists.json")
    rows = [row for row in searched.rows() if row["state"] == "COMPLETE"]
    rows.sort(key=lambda row: -float(row["val_accuracy"]))
    expected = {(int(row["batch_size"]), int(row["trial"])): row for row in rows[:2]}
    found = {(row["batch_size"], row["trial"]): row for row in decision["finalists"]}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        values = np.array(row["val_accuracies"])
        assert row["seeds"] == [0, 1, 2]
        assert len(set(values)) > 1
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["std"] == pytest.approx(values.std(ddof=1), abs=1e-6)
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert row["ci95"] == pytest.approx([interval.low, interval.high], abs=1e-5)
        assert row["search_val_accuracy"] == float(expected[key]["val_accuracy"])
        assert row["optimism"] == pytest.approx(row["search_val_accuracy"] - row["mean"], abs=2e-6)
        for name in ("conv1", "conv2", "dense_units"):
            assert row["hyperparameters"][name] == int(expected[key][name])
    means = [row["mean"] for row in decision["finalists"]]
    assert means == sorted(means, reverse=True)
    assert [row["rank"] for row in decision["finalists"]] == [1, 2]
    printed = capsys.readouterr().out
    assert all(f"{mean:.5f}" in printed for mean in means)


def test_winners_best_seed_is_the_model_that_is_saved(searched: Workplace) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=2") == 0
    winner = read(searched, "finalists.json")["finalists"][0]
    model = load_model(searched.results / "mnist_5k/best-model.ckpt")
    assert model.val_accuracy == max(winner["val_accuracies"])
    assert model.hyperparameters.batch_size == winner["batch_size"]
    best = read(searched, "best.json")
    assert best["val_accuracy"] == model.val_accuracy
    assert best["finals"]["mean"] == winner["mean"]
    assert best["search"]["trials"]["COMPLETE"] > 2
    folders = (f"--results_dir={searched.results}", f"--log_dir={searched.logs}")
    assert evaluate.main([str(searched.results / "mnist_5k/best-model.ckpt"), *folders]) == 0


def test_a_finalists_fit_follows_from_the_seed_alone(searched: Workplace) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=2") == 0
    row = read(searched, "finalists.json")["finalists"][1]
    name = f"finalist-{row['batch_size']}-{row['trial']}.ckpt"
    model = load_model(searched.results / "mnist_5k" / name)
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=200), "nowhere")
    best = max(row["val_accuracies"])
    seed = derive_seed(0, FINALIST, row["val_accuracies"].index(best))
    spec = FitSpec(model.hyperparameters, max_epochs=9, patience=3, seed=seed)
    fitted = fit(spec, data, replace(PLAIN_CPU, precision="32"), Interruption())
    assert fitted.best is not None
    assert fitted.best.val_accuracy == best


def test_more_seeds_add_to_what_was_trained(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=2") == 0
    before = read(searched, "finalists.json")
    assert run_finals(searched, "--finalists=2", "--seeds=3") == 0
    assert "2 of 6 fits are to be trained" in capsys.readouterr().out
    after = read(searched, "finalists.json")
    old = {row["trial"]: row["val_accuracies"] for row in before["finalists"]}
    assert all(row["val_accuracies"][:2] == old[row["trial"]] for row in after["finalists"])
    assert run_finals(searched, "--finalists=2", "--seeds=3") == 0
    assert "0 of 6 fits are to be trained" in capsys.readouterr().out
    assert read(searched, "finalists.json") == after


def test_finals_are_the_last_stage_of_tune(workplace: Workplace) -> None:
    assert workplace.tune("--finalists=2", "--seeds=2", "--workers=1") == 0
    decision = read(workplace, "finalists.json")
    assert len(decision["finalists"]) == 2
    apart = Workplace(workplace.folder / "apart")
    assert apart.tune("--workers=1") == 0
    assert run_finals(apart, "--finalists=2", "--seeds=2") == 0
    assert without_seconds(apart) == without_seconds(workplace)


def test_earlier_finalists_stay_in_the_running(searched: Workplace) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=2") == 0
    before = read(searched, "finalists.json")["finalists"]
    assert run_finals(searched, "--finalists=1", "--seeds=2") == 0
    after = read(searched, "finalists.json")
    assert after["finalists"] == before
    assert [run["how"] for run in after["runs"]] == ["finished"]
    origin = read(searched, "best.json")
    assert "finalists" not in origin["search"]["provenance"]["command"]


def test_more_seeds_for_fewer_finalists_take_nobody_out(searched: Workplace) -> None:
    assert run_finals(searched, "--finalists=3", "--seeds=2") == 0
    assert run_finals(searched, "--finalists=1", "--seeds=4") == 0
    found = read(searched, "finalists.json")["finalists"]
    assert [len(row["seeds"]) for row in found] == [4, 2, 2]  # a mean of two is luckier
    means = [row["mean"] for row in found[1:]]
    assert means == sorted(means, reverse=True)


def test_better_seed_of_unfinished_finals_changes_no_winner(searched: Workplace) -> None:
    assert run_finals(searched, "--finalists=1", "--seeds=2") == 0
    folder = searched.results / "mnist_5k"
    before = read(searched, "finalists.json")
    winner = before["finalists"][0]
    kept = folder / f"finalist-{winner['batch_size']}-{winner['trial']}.ckpt"
    assert kept.read_bytes() == (folder / "best-model.ckpt").read_bytes()
    # As it is when a search on a machine beside this one has trained a third seed, and no more.
    model = load_model(kept)
    slot = f"{winner['batch_size']}-{winner['trial']}-2"
    better = replace(model, val_accuracy=1.0, provenance=model.provenance | {"slot": slot})
    kept.write_bytes(dump_model(better))
    assert searched.tune("--batch_sizes=[32,64]", max_epochs=9) == 0
    assert load_model(folder / "best-model.ckpt").val_accuracy == model.val_accuracy
    assert read(searched, "best.json")["val_accuracy"] == max(winner["val_accuracies"])
    assert read(searched, "finalists.json") == before


def test_equal_seeds_leave_the_first_ones_model(
    searched: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever is done first: with two workers that is luck.
    def end(self: Slots, trial: StartedTrial, ended: Ended, make: MakeCheckpoint) -> object:
        assert ended.fitted.best is not None
        best = replace(ended.fitted.best, val_accuracy=0.5)
        return end_really(
            self, trial, replace(ended, fitted=replace(ended.fitted, best=best)), make
        )

    end_really = Slots.end
    monkeypatch.setattr(Slots, "end", end)
    monkeypatch.setattr(Slots, "_open_slot", last_open_slot)
    assert run_finals(searched, "--finalists=1", "--seeds=3", "--workers=1") == 0
    assert read(searched, "finalists.json")["winner"]["seed"] == 0
    assert read(searched, "best.json")["provenance"]["slot"].endswith("-0")


def last_open_slot(slots: Slots) -> Slot | None:
    taken = slots._slots(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return next((slot for slot in reversed(slots.slots) if slot not in taken), None)


def diverge(monkeypatch: pytest.MonkeyPatch, which: Callable[[str], bool]) -> None:
    """Let fits of the finals in these slots come to nothing."""

    def end(self: Slots, trial: StartedTrial, ended: Ended, make: MakeCheckpoint) -> object:
        if isinstance(self, Finals) and which(str(trial.slot)):
            diverged = replace(ended.fitted, diverged="the loss is nan")
            ended = replace(ended, fitted=diverged)
        return end_really(self, trial, ended, make)

    end_really = Slots.end
    monkeypatch.setattr(Slots, "end", end)


def test_finalist_that_diverged_with_a_seed_comes_after_those_that_did_not(
    searched: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_finals(searched, "--finalists=2", "--seeds=2") == 0
    first = read(searched, "finalists.json")["finalists"][0]
    name = f"{first['batch_size']}-{first['trial']}"
    diverge(monkeypatch, lambda slot: slot == f"{name}-2")
    assert run_finals(searched, "--finalists=2", "--seeds=3") == 0
    one, other = read(searched, "finalists.json")["finalists"]
    assert (one["seeds"], other["seeds"]) == ([0, 1, 2], [0, 1])
    assert (one["diverged"], other["diverged"]) == ([], [2])
    assert f"{other['batch_size']}-{other['trial']}" == name
    assert "2, 1 diverged" in capsys.readouterr().out


def test_finals_that_come_to_nothing_leave_the_searchs_results(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diverge(monkeypatch, lambda slot: not slot.endswith("-0"))
    assert workplace.tune("--finalists=2", "--seeds=2", "--workers=1") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "no finalist has learnt with two seeds" in error
    assert len(workplace.rows()) == 5
    best = max(row["val_accuracy"] for row in workplace.rows() if row["state"] == "COMPLETE")
    assert read(workplace, "best.json")["val_accuracy"] == float(best)
    assert not (workplace.results / "mnist_5k/finalists.json").exists()


def test_search_that_goes_on_keeps_the_winner(workplace: Workplace) -> None:
    assert workplace.tune("--finalists=1", "--seeds=2") == 0
    winner = (workplace.results / "mnist_5k/best-model.ckpt").read_bytes()
    assert workplace.tune("--iterations=2") == 0
    assert len(workplace.rows()) == 10
    assert (workplace.results / "mnist_5k/best-model.ckpt").read_bytes() == winner


@pytest.mark.parametrize(
    "send", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_interrupted_finals_go_on(
    send: signal.Signals, workplace: Workplace, environment: dict[str, str],
) -> None:  # fmt: skip
    whole = Workplace(workplace.folder / "whole")
    # With several workers, what is pruned depends on who comes first.
    options = ("--finalists=2", "--seeds=2", "--workers=1")
    assert whole.tune(*options) == 0
    process = start_search(workplace, environment, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("finalist:"):
            process.send_signal(send)
            break
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 130)
    assert workplace.tune(*options) == 0
    assert without_seconds(workplace) == without_seconds(whole)
    assert not (workplace.results / "mnist_5k/running").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds=1"], "`seeds` (=1) must be >= 2"),
        (["--finalists=0"], "`finalists` (=0) must be >= 1"),
        (["--dataset=mnist"], "there is no search in"),
    ],
)
def test_wrong_finals_are_refused_in_one_line(
    options: list[str], message: str, searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_finals(searched, *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_interval_is_students() -> None:
    # Student's t with 4 degrees of freedom is 2.776 at 97.5 % (any table).
    found = spread([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.mean == pytest.approx(0.3)
    assert found.std == pytest.approx(math.sqrt(0.025))
    assert found.high - found.mean == pytest.approx(2.776 * math.sqrt(0.025 / 5), rel=1e-3)
