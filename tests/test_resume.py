"""A fit that is interrupted goes on as if it had not been."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.training.device import PLAIN_CPU, Compute
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec

CONFIGURATION = Hyperparameters(
    conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
)


class After(Interruption):
    """Stops a fit after so many chunks of batches."""

    def __init__(self, chunks: int) -> None:
        self._left = chunks

    def pending(self) -> Interrupted | None:
        self._left -= 1
        return Interrupted("enough", 1) if self._left < 0 else None


Run = Callable[..., Fitted]


@pytest.fixture
def run() -> Run:
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=500), "nowhere")

    def run(
        state: Path | None,
        interruption: Interruption | None = None,
        configuration: Hyperparameters = CONFIGURATION,
        data: TrainingData = data,
        max_epochs: int = 6,
        patience: int | None = 2,
        compute: Compute = PLAIN_CPU,
    ) -> Fitted:
        spec = FitSpec(configuration, max_epochs, patience, 5, compute, state=state)
        return fit(spec, data, interruption or Interruption())

    return run


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert one.best == other.best
    assert one.early_stopped == other.early_stopped
    assert one.weights is not None
    assert other.weights is not None
    assert one.confusion is not None
    assert other.confusion is not None
    assert torch.equal(one.confusion, other.confusion)
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name])


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 3e-3},
        {"learning_rate": 1e-1},  # stops early
        {
            "schedule": "one_cycle",
            "label_smoothing": 0.1,
            "augmentation": "affine_elastic",
            "weight_averaging": True,
            "weight_decay": 0.1,
        },
    ],
    ids=["plain", "stops early", "recipe"],
)
def test_fit_interrupted_again_and_again_is_bit_for_bit_the_whole_one(
    precision: Literal["32", "bf16"], changes: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    compute = replace(PLAIN_CPU, precision=precision)
    configuration = replace(CONFIGURATION, **changes)
    whole = run(None, configuration=configuration, compute=compute)
    if configuration.learning_rate == 1e-1:
        assert whole.early_stopped
    state = tmp_path / "running/state.ckpt"
    epochs = []
    while True:
        # An epoch has a training and a validation chunk: stop in the middle of the second one.
        fitted = run(state, After(3), configuration=configuration, compute=compute)
        epochs.append(len(fitted.history))
        if fitted.interrupted is None or len(epochs) > 6:
            break
    assert epochs == sorted(set(epochs))  # each run got further
    assert len(epochs) == len(whole.history)
    assert_same(fitted, whole)
    assert {path.name for path in state.parent.iterdir()} == {"state.ckpt"}


def test_seconds_before_the_interruption_count(run: Run, tmp_path: Path) -> None:
    state = tmp_path / "state.ckpt"
    first = run(state, After(3))
    content = torch.load(state, weights_only=True)
    kept = content["callbacks"]["FitState"]["seconds"]
    assert 0 < kept < first.seconds
    assert run(state).seconds > kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: bytes([*content[:9000], content[9000] ^ 1, *content[9001:]]),
        lambda content: b"garbage" * 1000,
    ],
    ids=["empty", "cut short", "one bit", "garbage"],
)
def test_damaged_state_costs_the_epochs_and_nothing_else(
    damage: Callable[[bytes], bytes], run: Run, tmp_path: Path
) -> None:
    state = tmp_path / "state.ckpt"
    run(state, After(5))
    state.write_bytes(damage(state.read_bytes()))
    assert_same(run(state), run(None))


@pytest.mark.parametrize("other", [{"patience": 3}, {"max_epochs": 5}, {"configuration": None}])
def test_state_of_another_fit_is_not_gone_on_from(
    other: dict[str, object], run: Run, tmp_path: Path
) -> None:
    state = tmp_path / "state.ckpt"
    run(state, After(3))
    if "configuration" in other:
        other = {"configuration": replace(CONFIGURATION, dense_units=48)}
    assert_same(run(state, **other), run(None, **other))


def test_state_of_another_version_is_not_gone_on_from(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.ckpt"
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    run(state, After(3))
    monkeypatch.undo()
    fitted = run(state, After(3))
    assert len(fitted.history) == 1


def test_state_that_runs_code_is_not_loaded(run: Run, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    state = tmp_path / "state.ckpt"
    torch.save({"callbacks": {"FitState": {"fit": Hostile()}}}, state)
    run(state, max_epochs=1)
    assert not (tmp_path / "ran").exists()


def test_state_that_cannot_be_written_does_not_end_the_fit(run: Run, tmp_path: Path) -> None:
    (tmp_path / "running").touch()  # no folder
    assert_same(run(tmp_path / "running/state.ckpt"), run(None))
