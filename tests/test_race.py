"""The race to 99 %: several processes train one model."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import contestants, images, racer
from src.data.catalog import DataSpec
from src.data.files import Images
from src.data.split import load_training_data
from src.training.device import choose_compute

RACE = replace(racer.Race(), conv1=8, conv2=8, dense_units=16, batch_size=50, epochs=1.0)


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=1000), "")
    return data.train, data.validation


@pytest.mark.parametrize("workers", [2, 3])  # parts of a batch of 50 are equal, and are not
def test_a_team_trains_the_model_that_one_would(
    workers: int, digits: tuple[Images, Images]
) -> None:
    looks, alone = racer.run(RACE, digits, 0.0, seed=3, workers=1, precision="32")
    theirs, together = racer.run(RACE, digits, 0.0, seed=3, workers=workers, precision="32")
    assert [epochs for epochs, _ in looks] == [epochs for epochs, _ in theirs] == [1.0]
    assert theirs[0][1] == pytest.approx(looks[0][1], abs=0.006)
    for one, other in zip(alone.parameters(), together.parameters(), strict=True):
        # Equal but for the order of sums.
        assert (one - other).norm() < 1e-3 * one.norm() + 1e-6


def test_it_looks_until_it_is_there(digits: tuple[Images, Images]) -> None:
    looks, _ = racer.run(RACE, digits, 0.0, seed=0, workers=2)
    first = looks[-1][1]
    assert len(looks) == 1
    looks, model = racer.run(RACE, digits, first + 0.05, seed=0, workers=2)
    assert [epochs for epochs, _ in looks] == [1 + 0.25 * i for i in range(len(looks))]
    assert all(accuracy < first + 0.05 for _, accuracy in looks[:-1])
    assert looks[-1][1] >= first + 0.05
    compute = choose_compute("cpu", "auto", threads=1)
    assert looks[-1][1] == racer.read(model, digits[1], compute) / len(digits[1])


def test_it_gives_up(digits: tuple[Images, Images]) -> None:
    looks, _ = racer.run(replace(RACE, most=1.5), digits, 1.1, seed=0, workers=2)
    assert [epochs for epochs, _ in looks] == [1.0, 1.25, 1.5]


def test_racer_says_when_it_is_there_and_leaves_its_model(tmp_path: Path) -> None:
    file = images.write(
        tmp_path / "images.npz", load_training_data(DataSpec(dataset="mnist_5k"), "")
    )
    program = [sys.executable, "-m", "benchmarks.racer", f"--images={file}", "--target=0.8"]
    report = contestants.race([*program, f"--weights={tmp_path}/model.pt"])
    assert report["peer"] == "ours"
    assert report["accuracy"] >= 0.8
    assert report["seconds"] > 0
    model = racer.untrained(racer.Race())
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No such file"):
        contestants.race([sys.executable, "-m", "benchmarks.racer", f"--images={tmp_path}/none"])
