from pathlib import Path

import pytest
import yaml

from src import tune
from src.tune import TuneOptions
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_is_whole_short_and_accepted(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert set(yaml.safe_load(text)) == set(TuneOptions.__dataclass_fields__)
    assert tune.main([f"--config={path}", "--plan"]) == 0
    assert "trials for each batch size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "batch_sizes", "trials"),
    [
        ("mnist", list(range(16, 257, 16)), "3,440 in all"),
        ("emnist_digits", list(range(32, 257, 32)), "1,720 in all"),
        ("emnist_letters_digits", list(range(32, 257, 32)), "1,720 in all"),
    ],
)
def test_published_searches_are_the_published_ones(
    name: str, batch_sizes: list[int], trials: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = REPOSITORY / f"configs/{name}.yaml"
    options = yaml.safe_load(path.read_text())
    assert options["dataset"] == name
    assert options["batch_sizes"] == batch_sizes
    assert (options["max_epochs"], options["reduction_factor"]) == (30, 2)
    assert (options["iterations"], options["patience"]) == (5, 3)
    assert tune.main([f"--config={path}", "--plan"]) == 0
    out = capsys.readouterr().out
    assert trials in out
    assert f"{trials.split()[0]} trials in all" in path.read_text()


def test_mnist_validates_where_the_published_search_did() -> None:
    assert yaml.safe_load((REPOSITORY / "configs/mnist.yaml").read_text())["validation"] == "tail"
