"""The finals of small searches on real digits."""

import json
import math
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from src import evaluate, finalists
from src.core.errors import UserError
from src.core.interrupt import Interruption
from src.core.intervals import spread
from src.core.seeding import FINALIST, derive_seed
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.reporting.publish import publish_search
from src.results.folder import ResultsFolder
from src.results.records import OUTCOME, TrialOutcome
from src.search.finals import choose_finalists, run_finals
from src.search.journal import Journal, open_journal
from src.search.studies import SLOT, ended_trials, load_decision, load_studies
from src.training.checkpoint import dump_model, load_model
from src.training.fit import fit
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.training.task import make_task
from tests.conftest import ENOUGH, Workplace, start_search
from tests.fake_workers import FakeWorkers, Script, open_session


@pytest.fixture
def searched(finished_search: Workplace, tmp_path: Path) -> Workplace:
    """A copy of a finished search."""
    workplace = Workplace(tmp_path)
    shutil.copytree(finished_search.results, workplace.results)
    return workplace


def finalists_command(workplace: Workplace, *options: str) -> int:
    folders = (f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}")
    return finalists.main(["--dataset=mnist_5k", "--device=cpu", *folders, *options])


def read(workplace: Workplace, name: str) -> Any:
    return json.loads((workplace.results / "mnist_5k" / name).read_text())


def accuracies_by_trial(decision: Any) -> dict[tuple[int, int], list[float]]:
    """Return the finalists' accuracies; the trials of each batch size are numbered from 0."""
    return {
        (row["batch_size"], row["trial"]): row["val_accuracies"] for row in decision["finalists"]
    }


def fits_of(workplace: Workplace, finalist: tuple[int, int]) -> list[TrialOutcome]:
    """Return what each seed of a finalist (batch size, trial) has shown."""
    storage = open_journal(ResultsFolder(workplace.results, "mnist_5k"))
    finals = optuna.load_study(study_name="mnist_5k-finals", storage=storage)
    name = "-".join(map(str, finalist))
    return [
        TrialOutcome.from_attribute(trial.user_attrs[OUTCOME])
        for trial in finals.trials
        if str(trial.user_attrs[SLOT]).startswith(f"{name}-")
    ]


def without_seconds(workplace: Workplace) -> list[dict[str, Any]]:
    """Return the finalists, but for what no two runs have in common."""
    finalists: list[dict[str, Any]] = read(workplace, "finalists.json")["finalists"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in finalists]


def test_finalists_are_the_best_trials_and_are_compared_by_their_means(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalists_command(searched, "--finalists=2", "--seeds=3") == 0
    decision = read(searched, "finalists.json")
    rows = [row for row in searched.rows() if row["state"] == "COMPLETE"]
    rows.sort(key=lambda row: -float(row["val_accuracy"]))
    expected = {(int(row["batch_size"]), int(row["trial"])): row for row in rows[:2]}
    found = {(row["batch_size"], row["trial"]): row for row in decision["finalists"]}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        values = np.array(row["val_accuracies"])
        assert row["seeds"] == [0, 1, 2]
        # On twenty images all three seeds may come to one accuracy; their losses differ.
        curves = [fit.history for fit in fits_of(searched, key)]
        assert len(curves) == len(set(curves)) == 3
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["std"] == pytest.approx(values.std(ddof=1), abs=1e-6)
        half = stats.t.ppf(0.975, df=2) * values.std(ddof=1) / math.sqrt(3)
        assert row["ci95"] == pytest.approx([row["mean"] - half, row["mean"] + half], abs=1e-5)
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
    assert finalists_command(searched, "--finalists=2", "--seeds=2") == 0
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
    assert finalists_command(searched, "--finalists=2", "--seeds=2") == 0
    row = read(searched, "finalists.json")["finalists"][1]
    name = f"finalist-{row['batch_size']}-{row['trial']}.ckpt"
    model = load_model(searched.results / "mnist_5k" / name)
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=100), "nowhere")
    best = max(row["val_accuracies"])
    spec = FitSpec(
        hyperparameters=model.hyperparameters,
        max_epochs=9,
        patience=3,
        seed=derive_seed(0, FINALIST, row["val_accuracies"].index(best)),
    )
    fitted = fit(spec, data, Interruption())
    assert fitted.best is not None
    assert fitted.best.val_accuracy == best


def test_more_seeds_add_to_what_was_trained(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalists_command(searched, "--finalists=2", "--seeds=2") == 0
    before = read(searched, "finalists.json")
    assert finalists_command(searched, "--finalists=2", "--seeds=3") == 0
    assert "2 of 6 fits are to be trained" in capsys.readouterr().out
    after = read(searched, "finalists.json")
    old = accuracies_by_trial(before)
    assert {key: values[:2] for key, values in accuracies_by_trial(after).items()} == old
    assert finalists_command(searched, "--finalists=2", "--seeds=3") == 0
    assert "0 of 6 fits are to be trained" in capsys.readouterr().out
    assert read(searched, "finalists.json") == after


def test_finals_are_the_last_stage_of_tune(workplace: Workplace) -> None:
    assert workplace.tune("--finalists=2", "--seeds=2", "--workers=1") == 0
    decision = read(workplace, "finalists.json")
    assert len(decision["finalists"]) == 2
    apart = Workplace(workplace.folder / "apart")
    assert apart.tune("--workers=1") == 0
    assert finalists_command(apart, "--finalists=2", "--seeds=2") == 0
    assert without_seconds(apart) == without_seconds(workplace)


def test_earlier_finalists_stay_in_the_running(searched: Workplace) -> None:
    assert finalists_command(searched, "--finalists=2", "--seeds=2") == 0
    before = read(searched, "finalists.json")["finalists"]
    assert finalists_command(searched, "--finalists=1", "--seeds=2") == 0
    after = read(searched, "finalists.json")
    assert after["finalists"] == before
    assert [run["how"] for run in after["runs"]] == ["finished"]
    origin = read(searched, "best.json")
    assert "finalists" not in origin["search"]["provenance"]["command"]


def test_better_seed_of_unfinished_finals_changes_no_winner(searched: Workplace) -> None:
    assert finalists_command(searched, "--finalists=1", "--seeds=2") == 0
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


def decide(
    workplace: Workplace, script: Script, *, finalists: int, seeds: int, workers: int = 1
) -> dict[str, Any]:
    """Run finals whose fits follow a script; return what was decided."""
    folder = ResultsFolder(workplace.results, "mnist_5k")
    with open_session(Journal(folder), folder, FakeWorkers(workers, script)) as session:
        studies = load_studies(session.store.storage, "mnist_5k")
        chosen = choose_finalists(studies, finalists)
        assert run_finals(chosen, studies, seeds, session).conclude(session) == 0
        decision = load_decision(session)
        publish_search(studies, session)
    assert decision is not None
    written: dict[str, Any] = json.loads(json.dumps(asdict(decision)))
    return written


def test_equal_seeds_leave_the_first_ones_model(searched: Workplace) -> None:
    # Whoever is done first: with three workers that is the seed with the shortest curve.
    lengths = {derive_seed(0, FINALIST, seed): 3 - seed for seed in range(3)}

    def script(job: FitSpec) -> list[float]:
        return [0.5] * lengths[job.seed]

    decision = decide(searched, script, finalists=1, seeds=3, workers=3)
    assert decision["finalists"][0]["epochs"] == [3, 2, 1]
    assert decision["winner"]["seed"] == 0
    assert read(searched, "best.json")["provenance"]["slot"].endswith("-0")


def test_more_seeds_for_fewer_finalists_take_nobody_out(searched: Workplace) -> None:
    seeds = {derive_seed(0, FINALIST, seed): seed for seed in range(4)}

    def script(job: FitSpec) -> list[float]:
        hp = job.hyperparameters
        return [(hp.conv1 + hp.conv2 + hp.dense_units) / 1000 + 0.01 * seeds[job.seed]]

    decide(searched, script, finalists=3, seeds=2)
    found = decide(searched, script, finalists=1, seeds=4)["finalists"]
    assert [len(row["seeds"]) for row in found] == [4, 2, 2]  # a mean of two is luckier
    means = [row["mean"] for row in found[1:]]
    assert means == sorted(means, reverse=True)


def test_smallest_finalist_within_one_standard_error_of_the_best_is_named(
    searched: Workplace,
) -> None:
    seeds = [derive_seed(0, FINALIST, seed) for seed in range(3)]
    folder = ResultsFolder(searched.results, "mnist_5k")

    def size(hp: Hyperparameters) -> int:
        return sum(p.numel() for p in make_task(hp, 10).parameters())

    finished = [
        record
        for study in load_studies(open_journal(folder), "mnist_5k").values()
        for record in ended_trials(study)
        if record.state == "COMPLETE"
    ]
    diverges, small, middle, *_, large = sorted(finished, key=lambda one: size(one.hyperparameters))
    # The best one's seeds have a mean of 0.9 and a standard error of 0.01 / √3 = 0.00577.
    means = {large.hyperparameters: 0.9, middle.hyperparameters: 0.8943}
    means[small.hyperparameters] = 0.8942
    means[diverges.hyperparameters] = 0.95

    def script(job: FitSpec) -> list[float]:
        if job.hyperparameters == diverges.hyperparameters and job.seed == seeds[2]:
            return [math.nan]
        return [means.get(job.hyperparameters, 0.1) + 0.01 * (seeds.index(job.seed) - 1)]

    decision = decide(searched, script, finalists=99, seeds=3)
    assert decision["finalists"][0]["hyperparameters"] == asdict(large.hyperparameters)
    named = decision["finalists"][decision["smallest"] - 1]
    assert named["hyperparameters"] == asdict(middle.hyperparameters)


def diverging(job: FitSpec) -> bool:
    """Tell whether this is the third seed of a finalist at batch size 32."""
    return job.seed == derive_seed(0, FINALIST, 2) and job.hyperparameters.batch_size == 32


def test_finalist_that_diverged_with_a_seed_comes_after_those_that_did_not(
    searched: Workplace,
) -> None:
    def script(job: FitSpec) -> list[float]:
        if diverging(job):
            return [math.nan]
        return [0.9 if job.hyperparameters.batch_size == 32 else 0.8]

    decision = decide(searched, script, finalists=99, seeds=3)
    order = [(row["batch_size"], row["seeds"], row["diverged"]) for row in decision["finalists"]]
    assert (64, [0, 1, 2], []) in order
    assert (32, [0, 1], [2]) in order
    assert order == sorted(order, key=lambda one: len(one[2]))  # though 0.9 is the better mean


def test_finals_that_come_to_nothing_leave_the_searchs_results(searched: Workplace) -> None:
    before = read(searched, "best.json")
    with pytest.raises(UserError, match="no finalist has learnt with two seeds"):
        decide(
            searched,
            lambda job: [0.5 if job.seed == derive_seed(0, FINALIST, 0) else math.nan],
            finalists=2,
            seeds=2,
        )
    assert read(searched, "best.json") == before
    assert not (searched.results / "mnist_5k/finalists.json").exists()


def test_search_that_goes_on_keeps_the_winner(workplace: Workplace) -> None:
    assert workplace.tune("--finalists=1", "--seeds=2") == 0
    winner = (workplace.results / "mnist_5k/best-model.ckpt").read_bytes()
    assert workplace.tune("--iterations=2") == 0
    assert len(workplace.rows()) == 10
    assert (workplace.results / "mnist_5k/best-model.ckpt").read_bytes() == winner


@pytest.mark.long
@pytest.mark.parametrize("send", [signal.SIGKILL, signal.SIGINT])
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
    process.communicate(timeout=ENOUGH)
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
    assert finalists_command(searched, *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_interval_is_students() -> None:
    # Student's t with 4 degrees of freedom is 2.776 at 97.5 % (any table).
    found = spread([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.mean == pytest.approx(0.3)
    assert found.std == pytest.approx(math.sqrt(0.025))
    assert found.high - found.mean == pytest.approx(2.776 * math.sqrt(0.025 / 5), rel=1e-3)
