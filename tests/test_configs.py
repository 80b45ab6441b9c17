from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from src import tune
from src.training.hyperparameters import RECIPE, Hyperparameters
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def options_of(path: Path) -> Namespace:
    return tune.COMMAND.parser().parse_args([f"--config={path}"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_names_no_default_value(path: Path) -> None:
    defaults, options = tune.COMMAND.parser().get_defaults(), options_of(path)
    for name in yaml.safe_load(path.read_text()):
        assert options[name] != defaults[name], name


@pytest.mark.parametrize(
    ("name", "batch_sizes", "trials"),
    [
        ("mnist_published", range(16, 257, 16), "3,440"),
        ("emnist_digits", range(32, 257, 32), "1,720"),
        ("emnist_letters_digits", range(32, 257, 32), "1,720"),
    ],
)
def test_published_searches_are_the_published_ones(
    name: str, batch_sizes: range, trials: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # README: 30 epochs, factor 2, 5 iterations; 16 batch sizes for MNIST.
    path = REPOSITORY / f"configs/{name}.yaml"
    options = options_of(path)
    assert options.dataset == name.removesuffix("_published")
    assert options.batch_sizes == tuple(batch_sizes)
    assert (options.max_epochs, options.reduction_factor) == (30, 2)
    assert (options.iterations, options.patience) == (5, 3)
    assert tune.main([f"--config={path}", "--plan"]) == 0
    assert f"{trials} in all" in capsys.readouterr().out
    assert f"{trials} trials in all" in path.read_text()


def test_quickstart_has_the_rungs_that_the_readme_draws(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune.main([f"--config={REPOSITORY}/configs/quickstart.yaml", "--plan"]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(planned) == 3
    readme = (REPOSITORY / "README.md").read_text()
    for line in planned:
        assert line.rstrip() in readme


@pytest.mark.parametrize("name", ["mnist", "mnist_published"])
def test_mnist_trains_as_the_published_search_did(name: str) -> None:
    options = options_of(REPOSITORY / f"configs/{name}.yaml")
    assert options.validation == "tail"
    assert options.batch_sizes == tuple(range(16, 257, 16))
    assert (options.max_epochs, options.patience) == (30, 3)
    for name in RECIPE:
        assert getattr(options, name) == getattr(Hyperparameters, name), name


def test_mnist_is_searched_with_what_its_file_says(capsys: pytest.CaptureFixture[str]) -> None:
    path = REPOSITORY / "configs/mnist.yaml"
    assert tune.main([f"--config={path}", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "│ 64 → 0.469 │ 16 → 2 │ 4 → 8  │ 1 → 30 │" in out
    assert "128 trials for each batch size, 2,048 in all" in out
    assert "128 trials\n# a batch size, 2,048 in all" in path.read_text()
