from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer

from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.data.stretches import make_stretches
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.network import to_inputs
from src.training.spec import FitSpec
from src.training.task import CharacterTask

CONFIGURATION = Hyperparameters(
    conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
)
RECIPE = replace(
    CONFIGURATION,
    schedule="one_cycle",
    label_smoothing=0.1,
    augmentation="affine_elastic",
    weight_averaging=True,
    weight_decay=0.1,
)
LOOKS = (1 / 9, 1 / 3, 2 / 3)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return load_training_data(DataSpec(dataset="mnist_5k"), "nowhere")


def run(
    data: TrainingData,
    configuration: Hyperparameters,
    looks: tuple[float, ...],
    *callbacks: Callback,
    max_epochs: int = 2,
    patience: int | None = None,
    state: Path | None = None,
    interruption: Interruption | None = None,
) -> Fitted:
    spec = FitSpec(configuration, max_epochs, patience, seed=5, looks=looks, state=state)
    return fit(spec, data, interruption or Interruption(), callbacks)


@given(
    st.sets(st.fractions(Fraction(1, 50), Fraction(49, 50)), max_size=4),
    st.integers(1, 4),
    st.integers(1, 300),
)
def test_stretches_cover_every_step_once_and_looks_come_when_their_share_is_reached(
    looks: set[Fraction], max_epochs: int, steps: int
) -> None:
    stretches = make_stretches(max_epochs, [float(look) for look in sorted(looks)], steps)
    taken = [(s.epoch, step) for s in stretches for step in range(s.begin, s.end)]
    assert taken == [(epoch, step) for epoch in range(max_epochs) for step in range(steps)]
    assert [s.epochs for s in stretches if s.ends_epoch] == list(range(1, max_epochs + 1))
    for stretch in stretches:
        if not stretch.ends_epoch:
            assert (stretch.end - 1) / steps < stretch.epochs <= stretch.end / steps + 1e-12


@pytest.mark.parametrize("configuration", [CONFIGURATION, RECIPE], ids=["plain", "recipe"])
def test_looks_change_nothing_of_what_is_trained(
    configuration: Hyperparameters, data: TrainingData
) -> None:
    plain, looked = run(data, configuration, ()), run(data, configuration, LOOKS)
    assert [epoch.epoch for epoch in looked.history] == [*LOOKS, 1, 2]
    assert looked.history[len(LOOKS) :] == plain.history
    assert looked.best == plain.best
    assert plain.weights is not None
    assert looked.weights is not None
    assert all(torch.equal(plain.weights[name], looked.weights[name]) for name in plain.weights)


class Reader(Callback):
    """Reads every n-th validation image with the plain network, whenever the fit validates."""

    def __init__(self, data: TrainingData, n: int) -> None:
        self.images = data.validation[torch.arange(0, len(data.validation), n)]
        self.read: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CharacterTask)
        with torch.inference_mode():
            labels = pl_module.model.eval()(to_inputs(self.images.pixels)).argmax(1)
        self.read.append((labels == self.images.labels).double().mean().item())


@pytest.mark.parametrize(
    ("looks", "images", "n"),
    [((0.2, 0.5), 1000, 1), ((0.2, 0.5), 12_000, 5), ((0.01, 0.2), 12_000, 12)],
)
def test_a_look_reads_every_nth_validation_image(
    looks: tuple[float, ...], images: int, n: int, data: TrainingData
) -> None:
    again = torch.arange(images) % len(data.validation)
    many = replace(data, validation=data.validation[again])
    reader = Reader(many, n)
    fitted = run(many, CONFIGURATION, looks, reader, max_epochs=1)
    assert [epoch.val_accuracy for epoch in fitted.history[:2]] == pytest.approx(
        reader.read[:2], abs=1e-6
    )


class After(Interruption):
    """Interrupts at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def pending(self) -> Interrupted | None:
        self.left -= 1
        return Interrupted("enough", 1) if self.left < 0 else None


@pytest.mark.parametrize("configuration", [CONFIGURATION, RECIPE], ids=["plain", "recipe"])
def test_fit_that_goes_on_after_a_look_is_bit_for_bit_the_whole_one(
    configuration: Hyperparameters, data: TrainingData, tmp_path: Path
) -> None:
    whole = run(data, configuration, LOOKS)
    looked: list[float] = []
    for questions in range(4, 100):
        state = tmp_path / "running/state.ckpt"
        fitted = run(data, configuration, LOOKS, state=state, interruption=After(questions))
        looked.append(fitted.history[-1].epoch if fitted.history else 0)
        if fitted.interrupted is None:
            break
    assert set(looked) >= {1 / 3, 1}  # it was interrupted after looks, and went on from them
    assert fitted.history == whole.history
    assert fitted.best == whole.best
    assert whole.weights is not None
    assert fitted.weights is not None
    assert all(torch.equal(whole.weights[name], fitted.weights[name]) for name in whole.weights)


def test_patience_counts_whole_epochs(data: TrainingData) -> None:
    hasty = replace(CONFIGURATION, learning_rate=0.1)
    plain = run(data, hasty, (), max_epochs=6, patience=1)
    looked = run(data, hasty, LOOKS, max_epochs=6, patience=1)
    assert plain.early_stopped
    assert looked.early_stopped
    assert looked.history[len(LOOKS) :] == plain.history
