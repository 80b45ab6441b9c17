"""What was published and what a search found, trained again with the same seeds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import rematch
from src.core.errors import UserError
from src.core.files import write_json
from src.core.interrupt import Interruption
from src.core.seeding import FINALIST, derive_seed
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.reporting.analysis import best_by_batch_size
from src.reporting.findings import read_findings
from src.reporting.prior_work import PUBLISHED, Published, PublishedTrial
from src.results.folder import ResultsFolder
from src.training.fit import fit
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from tests.conftest import Workplace
from tests.simulated import simulate_search
from tests.test_report import column, make_report

SMALL = Hyperparameters(
    conv1=8, conv2=8, dense_units=16, dropout_rate=0.1, learning_rate=0.003, batch_size=32
)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """As if there had been a search on the small data set, at two batch sizes."""
    trials = {
        batch_size: PublishedTrial(
            val_accuracy=0.9, hyperparameters=replace(SMALL, batch_size=batch_size)
        )
        for batch_size in (32, 48)
    }
    told = Published(best=0.9, by_batch_size=trials)
    monkeypatch.setitem(PUBLISHED, "mnist_5k", told)
    return told


@pytest.fixture
def folder(finished_search: Workplace, tmp_path: Path) -> ResultsFolder:
    shutil.copytree(finished_search.results, tmp_path / "results")
    return ResultsFolder(tmp_path / "results", "mnist_5k")


def run(folder: ResultsFolder, *options: str) -> int:
    return rematch.COMMAND.main(
        ["--dataset=mnist_5k", f"--results_dir={folder.path.parent}", "--workers=2", *options]
    )


def test_both_train_with_the_same_seeds_as_the_search_did(
    folder: ResultsFolder, published: Published
) -> None:
    assert run(folder, "--seeds=2") == 0
    found = json.loads(folder.rematch_json.read_text())["fits"]
    # Of batch sizes only 32 was both searched and published.
    assert sorted((one["whose"], one["seed"]) for one in found) == [
        *(("ours", 0), ("ours", 1), ("published", 0), ("published", 1)),
    ]
    best = best_by_batch_size(read_findings(folder).trials)[32].hyperparameters
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=100), "data")
    for one in found:
        hyperparameters = best if one["whose"] == "ours" else SMALL
        assert Hyperparameters(**one["hyperparameters"]) == hyperparameters
        seed = derive_seed(0, FINALIST, one["seed"])
        fitted = fit(FitSpec(hyperparameters, 9, 3, seed), data, Interruption())
        assert fitted.best is not None
        assert one["val_accuracy"] == round(fitted.best.val_accuracy, 6)
        assert one["epochs"] == len(fitted.history)


def test_same_command_trains_what_is_missing(
    folder: ResultsFolder, published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--seeds=2") == 0
    before = json.loads(folder.rematch_json.read_text())
    first, *_ = before["fits"]
    bettered = {**first, "hyperparameters": {**first["hyperparameters"], "conv1": 64}}
    write_json(folder.rematch_json, before | {"fits": [first, bettered]})
    assert run(folder, "--seeds=2") == 0
    assert "3 fits are to be trained, 1 are done." in capsys.readouterr().out
    after = json.loads(folder.rematch_json.read_text())["fits"]

    def results(fits: list[dict[str, object]]) -> list[str]:
        return sorted(str({k: v for k, v in one.items() if k != "seconds"}) for one in fits)

    assert results(after) == results(before["fits"])
    assert after[0] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds=1"], "`seeds` (=1) must be >= 2"),
        (["--workers=0"], "`workers` (=0) must be >= 1"),
        (["--batch_sizes=[48]"], "must be of those that are both published and searched (=[32])"),
        (["--dataset=mnist"], "there is no search in"),
    ],
)
def test_wrong_rematch_is_refused_in_one_line(
    options: list[str],
    message: str,
    folder: ResultsFolder,
    published: Published,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(folder, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_report_shows_means_intervals_and_their_difference(tmp_path: Path) -> None:
    folder = simulate_search(tmp_path, batch_sizes=(16, 208))
    best = best_by_batch_size(read_findings(folder).trials)
    luck = np.random.default_rng(0)
    accuracies = {
        (16, "published"): luck.normal(0.991, 0.0002, 3).round(6),
        (16, "ours"): luck.normal(0.9911, 0.0002, 3).round(6),
        (208, "published"): luck.normal(0.992, 0.0002, 3).round(6),
        (208, "ours"): luck.normal(0.995, 0.0002, 3).round(6),
    }
    fits = [
        {
            "whose": whose,
            "hyperparameters": vars(
                best[size].hyperparameters
                if whose == "ours"
                else PUBLISHED["mnist"].by_batch_size[size].hyperparameters
            ),
            "seed": seed,
            "val_accuracy": value,
            "epochs": 9,
            "seconds": 100.0 + seed,
            "device": "simulated",
            "git_commit": None,
        }
        for (size, whose), values in accuracies.items()
        for seed, value in enumerate(values.tolist())
    ]
    # A seed that one side alone has, and a configuration that the search has bettered since.
    alone = {**fits[0], "seed": 3, "val_accuracy": 0.5}
    stale = {**fits[3], "hyperparameters": {**fits[3]["hyperparameters"], "conv1": 33}}
    told = json.loads(folder.best_json.read_text())
    document = {
        "dataset": "mnist", "max_epochs": 30, "patience": 3, "data": told["data"],
        "fits": [*fits, alone, stale], "provenance": {},
    }  # fmt: skip
    write_json(folder.rematch_json, document)
    page = make_report(folder)
    table = page.table("The best of each batch size, trained again")
    assert column(table, "published") == ["0.99350", "0.99450"]
    for row, size in zip(table, (16, 208), strict=True):
        ours, theirs = accuracies[size, "ours"], accuracies[size, "published"]
        assert row["ours, again"] == f"{ours.mean():.5f} ± {ours.std(ddof=1):.5f}"
        low, high = stats.t.interval(0.95, 2, theirs.mean(), stats.sem(theirs))
        assert row["its 95 % interval"] == f"{low:.5f} to {high:.5f}"
        welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
        shown = row["its interval"].replace("−", "-")
        assert shown == f"{welch.low:+.5f} to {welch.high:+.5f}"
        assert row["size and time, ours"].endswith(", 101 s")
    gains = [np.mean(accuracies[s, "ours"] - accuracies[s, "published"]) for s in (16, 208)]
    assert f"by {np.mean(gains):+.5f} on average over 2 batch sizes" in page.text
    assert "leaves out 0: 1 in our favour and 0 in favour of what was published, of 2," in page.text
    assert "chose ours and not the published one, which favours ours" in page.text
    assert (folder.figures / "rematch.png").exists()
    write_json(folder.rematch_json, document | {"data": told["data"] | {"validation": "tail"}})
    assert "12,000 validation images chose both and measure both" in make_report(folder).text


def test_damaged_rematch_is_named(tmp_path: Path) -> None:
    folder = simulate_search(tmp_path)
    folder.rematch_json.write_text('{"fits": [{"val_accuracy": 2}]}')
    with pytest.raises(UserError, match=r"rematch\.json is damaged"):
        read_findings(folder)
