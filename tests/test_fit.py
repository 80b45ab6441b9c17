import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.core.errors import UserError
from src.core.interrupt import Interruption
from src.data.batches import Chunk
from src.data.catalog import DataSpec
from src.data.files import Images
from src.data.split import TrainingData, load_training_data
from src.training.device import PLAIN_CPU as CPU
from src.training.device import Compute, autocast, choose_compute
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.network import TwoConvNet, to_inputs
from src.training.spec import FitSpec
from src.training.task import make_task

SMALL = Hyperparameters(
    conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return load_training_data(DataSpec(dataset="mnist_5k", limit=500), "nowhere")


def confusion_counts(model: TwoConvNet, images: Images, compute: Compute) -> torch.Tensor:
    """Count images by true and predicted class, on the plain path."""
    with torch.inference_mode(), autocast(compute):
        predicted = model.eval()(to_inputs(images.pixels)).argmax(dim=1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for label, reading in zip(images.labels.tolist(), predicted.tolist(), strict=True):
        counts[label, reading] += 1
    return counts


def run(
    data: TrainingData,
    hyperparameters: Hyperparameters = SMALL,
    *,
    max_epochs: int = 3,
    patience: int | None = None,
    seed: int = 0,
    compute: Compute = CPU,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    spec = FitSpec(hyperparameters, max_epochs, patience, seed, compute)
    return fit(spec, data, Interruption(), callbacks)


def test_same_seed_gives_the_same_numbers_and_another_seed_others(data: TrainingData) -> None:
    first = run(data)
    torch.rand(17)  # whatever has used the global generator before
    second, other = run(data), run(data, seed=1)
    assert first.history == second.history
    assert first.weights is not None
    assert second.weights is not None
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert first.history != other.history


def test_it_learns_real_digits(data: TrainingData) -> None:
    fitted = run(data, max_epochs=8)
    assert fitted.best is not None
    assert fitted.best.val_accuracy > 0.8
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss / 2


@pytest.mark.parametrize(
    ("precision", "learning_rate", "averaging"),
    [("32", 0.03, False), ("bf16", 0.03, False), ("32", 0.05, True)],
)
def test_kept_weights_are_the_best_epochs(
    data: TrainingData, precision: str, learning_rate: float, averaging: bool
) -> None:
    compute = dataclasses.replace(CPU, precision=precision)  # type: ignore[arg-type]
    # So large a step that accuracy goes up and down: with rounding, each processor in its own way.
    hyperparameters = dataclasses.replace(
        SMALL, learning_rate=learning_rate, weight_averaging=averaging
    )
    longer = run(data, hyperparameters, max_epochs=8, compute=compute)
    accuracies = [epoch.val_accuracy for epoch in longer.history]
    end = max(n for n in range(2, 9) if accuracies[n - 1] <= max(accuracies[: n - 1]))
    fitted = run(data, hyperparameters, max_epochs=end, compute=compute)
    assert fitted.best is not None
    assert fitted.best.epoch == 1 + accuracies.index(max(accuracies[:end])) < end
    assert fitted.weights is not None
    task = make_task(hyperparameters, classes=10)
    task.load_state_dict(fitted.weights)
    counts = confusion_counts(task.model, data.validation, compute)
    assert counts.sum() == 100
    # The plain path rounds in another order: with bf16, an image in doubt may tip.
    one_image = 0.0 if precision == "32" else 0.01
    read = counts.trace().item() / 100
    assert read == pytest.approx(fitted.best.val_accuracy, abs=one_image + 1e-6)


def test_schedule_spans_all_epochs(data: TrainingData) -> None:
    class Rates(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, *_: object
        ) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates: list[float] = []
    hyperparameters = dataclasses.replace(SMALL, schedule="cosine")
    run(data, hyperparameters, max_epochs=2, callbacks=[Rates()])
    # An epoch is one chunk of 13 steps; the rate is that of its last one (SGDR, eq. 5).
    expected = [1.5e-3 * (1 + math.cos(math.pi * step / 26)) for step in (12, 25)]
    assert rates == pytest.approx(expected)


def test_distortions_differ_in_every_epoch(data: TrainingData) -> None:
    hyperparameters = dataclasses.replace(SMALL, augmentation="affine_elastic", learning_rate=1e-9)
    losses = [epoch.train_loss for epoch in run(data, hyperparameters).history]
    assert len(set(losses)) == 3
    still = dataclasses.replace(SMALL, dropout_rate=0.0, learning_rate=1e-9)
    assert len({round(epoch.train_loss, 4) for epoch in run(data, still).history}) == 1


def test_logged_figures_are_those_of_a_plain_loop(data: TrainingData) -> None:
    fitted = run(data, max_epochs=1)
    assert fitted.weights is not None
    task = make_task(SMALL, classes=10).eval()
    task.load_state_dict(fitted.weights)
    with torch.no_grad():
        logits = task.model(data.validation.pixels[:, None].float() / 255)
    loss = torch.nn.functional.cross_entropy(logits, data.validation.labels)
    accuracy = (logits.argmax(1) == data.validation.labels).float().mean()
    assert fitted.history[0].val_loss == pytest.approx(loss.item(), abs=1e-5)
    assert fitted.history[0].val_accuracy == pytest.approx(accuracy.item(), abs=1e-6)


def test_every_image_is_trained_on_once_an_epoch_in_another_order(data: TrainingData) -> None:
    class Order(Callback):
        def __init__(self) -> None:
            self.labels: list[list[int]] = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.labels.append([])

        def on_train_batch_start(
            self,
            trainer: Trainer,
            pl_module: LightningModule,
            batch: Chunk,
            batch_idx: int,
        ) -> None:
            self.labels[-1] += batch.images.labels[batch.indices].tolist()

    order, again = Order(), Order()
    run(data, callbacks=[order])
    run(data, callbacks=[again])
    assert order.labels == again.labels
    assert len({tuple(labels) for labels in order.labels}) == 3
    for labels in order.labels:
        assert sorted(labels) == sorted(data.train.labels.tolist())


def test_global_step_counts_optimizer_steps(data: TrainingData) -> None:
    class Steps(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append((trainer.current_epoch, trainer.global_step))

    seen: list[tuple[int, int]] = []
    run(data, callbacks=[Steps()])  # 400 images in batches of 32: 13 an epoch
    assert seen == [(0, 13), (1, 26), (2, 39)]


def test_confusions_kept_are_those_of_the_best_epoch(data: TrainingData) -> None:
    fitted = run(data, max_epochs=4)
    assert fitted.best is not None
    assert fitted.weights is not None
    assert fitted.confusion is not None
    assert fitted.confusion.trace().item() / 100 == pytest.approx(fitted.best.val_accuracy)
    task = make_task(SMALL, classes=10)
    task.load_state_dict(fitted.weights)
    assert torch.equal(fitted.confusion, confusion_counts(task.model, data.validation, CPU))


def test_optimizer_is_keras_adam() -> None:
    optimizer = make_task(SMALL, classes=10).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 3e-3
    assert optimizer.defaults["eps"] == 1e-7
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["weight_decay"] == 0


def test_stops_after_patience_epochs_without_a_better_one(data: TrainingData) -> None:
    hyperparameters = dataclasses.replace(SMALL, learning_rate=0.01)
    fitted = run(data, hyperparameters, max_epochs=60, patience=3)
    accuracies = [epoch.val_accuracy for epoch in fitted.history]
    # Keras' rule, replayed on the curve: stop when the last 3 epochs brought nothing better.
    best, waited = -1.0, 0
    for epoch, accuracy in enumerate(accuracies, start=1):
        best, waited = (accuracy, 0) if accuracy > best else (best, waited + 1)
        assert (waited == 3) == (epoch == len(accuracies))
    assert fitted.early_stopped


def test_divergence_ends_the_fit_with_its_reason(data: TrainingData) -> None:
    fitted = run(data, dataclasses.replace(SMALL, learning_rate=1e30), max_epochs=5)
    assert fitted.diverged is not None
    assert "loss is nan in epoch 1" in fitted.diverged
    assert fitted.best is None
    assert len(fitted.history) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_asking_for_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"\(=cuda\): no CUDA GPU"):
        choose_compute("cuda", "auto")
    assert choose_compute("auto", "32").device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_gpu_trains_and_agrees_with_the_cpu_on_what_it_learnt(data: TrainingData) -> None:
    compute = choose_compute("cuda", "32")
    resident = dataclasses.replace(
        data, train=data.train.to("cuda"), validation=data.validation.to("cuda")
    )
    fitted = run(resident, compute=compute)
    assert fitted.weights is not None
    task = make_task(SMALL, classes=10)
    task.load_state_dict(fitted.weights)
    images = Images(data.validation.pixels, data.validation.labels)
    on_cpu = confusion_counts(task.model, images, CPU)
    assert fitted.best is not None
    assert on_cpu.trace().item() / 100 == pytest.approx(fitted.best.val_accuracy, abs=0.02)
