"""The same network and search as the tutorials of Lightning and Optuna put them together.

It runs in the project's own environment, and imports nothing of the project:

    python benchmarks/peers/stock_peer.py throughput --images FILE.npz --conv1 32 --conv2 64
        --dense_units 128 --batch_size 64 --seconds 15
    python benchmarks/peers/stock_peer.py race --images FILE.npz --conv1 32 --conv2 64
        --dense_units 128 --batch_size 64 --seed 0 --target 0.99
    python benchmarks/peers/stock_peer.py search --images FILE.npz --batch_size 64 --max_epochs 9
        --reduction_factor 3 --iterations 1 --trials 17 --seed 0 --folder DIR

FILE.npz holds train_images and validation_images, uint8 (N, 28, 28), train_labels and
validation_labels, int64 (N,), and classes. The last line of standard output is one JSON object:

`throughput`: peer, images, seconds, images_per_second, versions. Training in steady state, through
`Trainer.fit`, after some batches that are not counted; no validation.

`race`: peer, accuracy, epochs, versions. Training until an epoch's validation accuracy is the
target.

`search`: peer, seconds, trials, epochs, images_per_second, best_val_accuracy, curve, versions.
`best_val_accuracy` is the highest of any epoch (the study itself selects on the last one of each
finished trial); `curve` has a [seconds, best so far] for each epoch that raised it. Optuna's
pruner has no iterations: `--trials` says how long the search goes on, `--iterations` nothing.
`--loader_workers` are the DataLoader's.
"""

import argparse
import contextlib
import json
import logging
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torchmetrics
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

WARM_UP_BATCHES = 20
"""Batches before the clock starts."""


class Images(datasets.MNIST):
    """Images from arrays; `datasets.MNIST.__getitem__` serves them through PIL and ToTensor."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        # MNIST's own constructor would look for its files, so that of its parent is called.
        super(datasets.MNIST, self).__init__(root="", transform=transforms.ToTensor())
        self.data = torch.from_numpy(images)
        self.targets = torch.from_numpy(labels)


class Classifier(lightning.LightningModule):
    """The network, its loss, its metrics and its optimizer."""

    def __init__(
        self,
        *,
        conv1: int,
        conv2: int,
        dense_units: int,
        dropout_rate: float,
        learning_rate: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            nn.Conv2d(1, conv1, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(conv1, conv2, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(conv2 * 5 * 5, dense_units),
            nn.ReLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(dense_units, classes),
        )
        for layer in self.network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.train_accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=classes)
        self.val_accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute and log the loss and accuracy of one batch."""
        images, labels = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train_loss", loss)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of one batch."""
        images, labels = batch
        logits = self(images)
        self.val_accuracy(logits, labels)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Choose Adam with Keras' epsilon."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, eps=1e-7)


class Stopwatch(Callback):
    """Counts and times the batches after the first ones, and stops when the time is over."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.images = 0
        self.seconds = 0.0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        """Start the clock after the warm-up; then count, and stop after `limit` seconds."""
        if trainer.global_step <= WARM_UP_BATCHES:
            self.started = self._now(wait=trainer.global_step == WARM_UP_BATCHES)
            return
        self.images += len(batch[0])
        if self._now() - self.started > self.limit:
            self.seconds = self._now(wait=True) - self.started
            trainer.should_stop = True

    def _now(self, wait: bool = False) -> float:
        if wait and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class Recorder(Callback):
    """Counts the epochs of all trials and keeps the curve of the best validation accuracy."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.epochs = 0
        self.best = 0.0
        self.curve: list[list[float]] = []

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note one more epoch, and its validation accuracy where it is the best so far."""
        if trainer.sanity_checking:
            return
        self.epochs += 1
        accuracy = trainer.callback_metrics["val_accuracy"].item()
        if accuracy > self.best:
            self.best = accuracy
            self.curve.append([round(time.perf_counter() - self.started, 3), round(accuracy, 6)])


def make_loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader, int]:
    """Read the file; return the training and the validation batches, and how many classes."""
    options = {
        "batch_size": args.batch_size,
        "num_workers": args.loader_workers,
        "persistent_workers": args.loader_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
    with np.load(args.images) as arrays:
        train = Images(arrays["train_images"], arrays["train_labels"])
        validation = Images(arrays["validation_images"], arrays["validation_labels"])
        classes = int(arrays["classes"])
    return DataLoader(train, shuffle=True, **options), DataLoader(validation, **options), classes


def make_trainer(folder: str, max_epochs: int, callbacks: list[Callback]) -> lightning.Trainer:
    """Make an ordinary trainer, which keeps checkpoints but prints and logs nothing."""
    return lightning.Trainer(
        max_epochs=max_epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def measure_throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Train one configuration for `args.seconds`, and say how fast."""
    train, _, classes = make_loaders(args)
    model = Classifier(
        conv1=args.conv1,
        conv2=args.conv2,
        dense_units=args.dense_units,
        dropout_rate=0.3,
        learning_rate=1e-3,
        classes=classes,
    )
    stopwatch = Stopwatch(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(folder, -1, [stopwatch]).fit(model, train)
    return {
        "images": stopwatch.images,
        "seconds": round(stopwatch.seconds, 3),
        "images_per_second": round(stopwatch.images / stopwatch.seconds, 1),
    }


class Finish(Callback):
    """Stops when the validation accuracy is high enough."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.accuracy = 0.0

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Look at the epoch's accuracy."""
        if not trainer.sanity_checking:
            self.accuracy = trainer.callback_metrics["val_accuracy"].item()
            trainer.should_stop = self.accuracy >= self.target


def run_race(args: argparse.Namespace) -> dict[str, Any]:
    """Train one configuration until it is as good as it is to be."""
    train, validation, classes = make_loaders(args)
    lightning.seed_everything(args.seed, verbose=False)
    model = Classifier(
        conv1=args.conv1,
        conv2=args.conv2,
        dense_units=args.dense_units,
        dropout_rate=0.3,
        learning_rate=1e-3,
        classes=classes,
    )
    finish = Finish(args.target)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, -1, [finish])
        trainer.fit(model, train, validation)
    return {"accuracy": round(finish.accuracy, 6), "epochs": trainer.current_epoch}


def run_search(args: argparse.Namespace) -> dict[str, Any]:
    """Run Hyperband, and say how long it took and what it found."""
    import optuna  # here, so that the race need not wait for it
    from optuna_integration import PyTorchLightningPruningCallback

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, validation, classes = make_loaders(args)
    lightning.seed_everything(args.seed, verbose=False)
    args.folder.mkdir(parents=True, exist_ok=True)

    def objective(trial: "optuna.Trial") -> float:
        model = Classifier(
            conv1=trial.suggest_int("conv1", 32, 256, step=32),
            conv2=trial.suggest_int("conv2", 32, 256, step=32),
            dense_units=trial.suggest_int("dense_units", 32, 256, step=32),
            dropout_rate=trial.suggest_float("dropout_rate", 0.1, 0.9, step=0.1),
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            classes=classes,
        )
        callbacks = [
            recorder,  # before the one that raises
            PyTorchLightningPruningCallback(trial, monitor="val_accuracy"),
            EarlyStopping("val_accuracy", patience=3, mode="max"),
        ]
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            trainer = make_trainer(folder, args.max_epochs, callbacks)
            trainer.fit(model, train, validation)
        return trainer.callback_metrics["val_accuracy"].item()

    recorder = Recorder()
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=args.seed),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=args.max_epochs, reduction_factor=args.reduction_factor
        ),
    )
    study.optimize(objective, n_trials=args.trials)
    seconds = time.perf_counter() - recorder.started
    return {
        "seconds": round(seconds, 3),
        "trials": len(study.trials),
        "epochs": recorder.epochs,
        "images_per_second": round(recorder.epochs * len(train.dataset) / seconds, 1),
        "best_val_accuracy": round(recorder.best, 6),
        "curve": recorder.curve,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Stock Lightning and Optuna, to compare with.")
    commands = parser.add_subparsers(required=True)

    throughput = commands.add_parser("throughput", help="training images per second")
    throughput.set_defaults(run=measure_throughput)
    for option, default in {"conv1": 32, "conv2": 64, "dense_units": 128}.items():
        throughput.add_argument(f"--{option}", type=int, default=default)
    throughput.add_argument("--seconds", type=float, default=15.0)

    race = commands.add_parser("race", help="until a validation accuracy")
    race.set_defaults(run=run_race)
    for option, default in {"conv1": 32, "conv2": 64, "dense_units": 128, "seed": 0}.items():
        race.add_argument(f"--{option}", type=int, default=default)
    race.add_argument("--target", type=float, default=0.99)

    search = commands.add_parser("search", help="one Hyperband search")
    search.set_defaults(run=run_search)
    for option, default in {"max_epochs": 9, "reduction_factor": 3, "iterations": 1}.items():
        search.add_argument(f"--{option}", type=int, default=default)
    search.add_argument("--trials", type=int, required=True)
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--folder", type=Path, required=True, help="where checkpoints go")

    for command in (throughput, race, search):
        command.add_argument("--images", type=Path, required=True, metavar="FILE.npz")
        command.add_argument("--batch_size", type=int, default=64)
        command.add_argument("--loader_workers", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run one command and print its JSON object."""
    args = parse(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no part of the answer
        report = args.run(args)
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "optuna", "optuna-integration")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    print(json.dumps({"peer": "stock", **report, "versions": versions}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
