"""The finals of small searches on real digits."""

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from src import evaluate, finalists
from src.checkpoint import load_model
from src.config import DataSpec
from src.data import load_training_data
from src.device import PLAIN_CPU
from src.fit import fit
from src.interrupt import Interruption
from src.metrics import spread
from src.seeding import FINALIST, derive_seed
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
    fitted = fit(
        model.hyperparameters,
        data,
        max_epochs=9,
        patience=3,
        seed=derive_seed(0, FINALIST, row["val_accuracies"].index(best)),
        compute=replace(PLAIN_CPU, precision="32"),
        interruption=Interruption(),
    )
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
    assert workplace.tune("--finalists=2", "--seeds=2") == 0
    decision = read(workplace, "finalists.json")
    assert len(decision["finalists"]) == 2
    apart = Workplace(workplace.folder / "apart")
    assert apart.tune() == 0
    assert run_finals(apart, "--finalists=2", "--seeds=2") == 0
    assert read(apart, "finalists.json")["finalists"] == decision["finalists"]


def test_search_that_goes_on_keeps_the_winner(workplace: Workplace) -> None:
    assert workplace.tune("--finalists=1", "--seeds=2") == 0
    winner = (workplace.results / "mnist_5k/best-model.ckpt").read_bytes()
    assert workplace.tune("--iterations=2") == 0
    assert len(workplace.rows()) == 10
    assert (workplace.results / "mnist_5k/best-model.ckpt").read_bytes() == winner


@pytest.mark.parametrize("send", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_finals_go_on(
    send: signal.Signals, workplace: Workplace, environment: dict[str, str],
) -> None:  # fmt: skip
    whole = Workplace(workplace.folder / "whole")
    options = ("--finalists=2", "--seeds=2")
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
    decision = read(workplace, "finalists.json")
    assert decision["finalists"] == read(whole, "finalists.json")["finalists"]
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
