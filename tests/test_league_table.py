"""A table of real training, and a real search beside what the league says of it."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.league.check import CheckOptions
from benchmarks.league.check import run as check
from benchmarks.league.record import read_table
from benchmarks.league.surrogate import SPACE, Surrogate
from benchmarks.league.table import TABLES, TableOptions, load_others
from src.core.interrupt import Interruption
from src.core.seeding import TRIAL, derive_seed
from src.data.split import load_training_data
from src.search.hyperband import make_plan
from src.training.device import choose_compute
from src.training.fit import fit
from src.training.spec import FitSpec

TINY = (
    *("table", "--dataset=mnist_5k", "--batch_size=32", "--limit=300", "--validating=200"),
    *("--hidden=200", "--configurations=8", "--repeated=3", "--seeds=2", "--max_epochs=3"),
    "--looks=[0.33333]",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "tiny"
    assert main([*TINY, f"--output={path}"]) == 0
    return path


def test_table_has_every_fit_and_goes_on_where_it_was_stopped(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_table(path)
    assert [(one.configuration, one.seed) for one in table.curves] == [
        *((number, 0) for number in range(8)),
        *((number, 1) for number in range(3)),
    ]
    assert {tuple(round(look.epochs, 3) for look in one.looks) for one in table.curves} == {
        (0.333, 1, 2, 3)
    }
    (rows,) = path.parent.glob(".tiny-*")
    next(rows.iterdir()).unlink()
    assert main([*TINY, f"--output={path}"]) == 0
    assert "1 of 11 fits are to be trained" in " ".join(capsys.readouterr().out.split())
    again = read_table(path)  # all but the seconds
    assert [
        [(look.epochs, look.val_accuracy, look.hidden_accuracy) for look in one.looks]
        for one in again.curves
    ] == [
        [(look.epochs, look.val_accuracy, look.hidden_accuracy) for look in one.looks]
        for one in table.curves
    ]


def test_its_accuracies_are_those_of_fits_on_images_that_are_apart(path: Path) -> None:
    made = TableOptions(
        dataset="mnist_5k", batch_size=32, limit=300, validating=200, hidden=200, max_epochs=3
    )
    data = load_training_data(made.data_spec, made.data_dir)
    validation, hidden = load_others(made, made.data_dir)
    train = {image.numpy().tobytes() for image in data.train.pixels}
    others = [image.numpy().tobytes() for part in (validation, hidden) for image in part.pixels]
    assert len(others) == 400
    assert not train.intersection(others)
    assert len(set(others)) == len(others)
    first = read_table(path).curves[0]
    spec = FitSpec(
        first.hyperparameters,
        max_epochs=3,
        patience=None,
        seed=derive_seed(0, TRIAL, 32, 0, 0),
        compute=choose_compute("auto", "auto", threads=1),
    )
    fitted = fit(spec, replace(data, validation=validation), Interruption(), [])
    whole = [look for look in first.looks if look.is_whole]
    assert [look.val_accuracy for look in whole] == [
        pytest.approx(epoch.val_accuracy, abs=1e-6) for epoch in fitted.history
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in TABLES.glob("*.json")))
def test_published_table_is_whole(name: str) -> None:
    table = read_table(TABLES / name)
    about = table.about
    seeds = Counter(one.configuration for one in table.curves)
    assert len(seeds) == about["configurations"] >= 200
    assert sum(count == about["seeds"] for count in seeds.values()) == about["repeated"] >= 40
    looks = [*about["looks"], *range(1, about["max_epochs"] + 1)]
    for one in table.curves:
        assert [look.epochs for look in one.looks] == pytest.approx(looks[: len(one.looks)])
    surrogate = Surrogate(table)
    # From a third of an epoch on, rows left out are foretold.
    assert min(surrogate.regression.explained[2:]) > 0.4
    # And no configuration is promised what no row gives reason for.
    rows = SPACE.points([vars(one.hyperparameters) for one in table.curves])
    drawn = SPACE.draw(20_000, np.random.default_rng(0))
    best_row, best = (
        math.exp(surrogate.regression.predict(points)[:, -2].min()) for points in (rows, drawn)
    )
    assert best > 0.9 * best_row


def test_search_trains_what_its_replay_says(path: Path, tmp_path: Path) -> None:
    options = CheckOptions(
        table=path,
        promotion="synchronous",
        iterations=1,
        seeds=1,
        replays=5,
        output=tmp_path / "check.json",
    )
    assert check(options) == 0
    real, low, middle, high = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert real["images"] == make_plan(3, 3).epochs_if_exact * 240
    assert low["images"] == high["images"] == real["images"]
    assert low["validation"] <= middle["validation"] <= high["validation"]
    assert 0.3 < real["validation"] <= 1
    assert abs(real["hidden"] - real["validation"]) < 0.15
