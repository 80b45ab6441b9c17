"""The same network and search as Keras and Keras Tuner users write them.

It runs in an environment of its own:

    python3 -m venv .venv-keras && .venv-keras/bin/pip install -r requirements-keras.txt

    python benchmarks/peers/keras_peer.py throughput --images FILE.npz --conv1 32 --conv2 64
        --dense_units 128 --batch_size 64 --seconds 15
    python benchmarks/peers/keras_peer.py race --images FILE.npz --conv1 32 --conv2 64
        --dense_units 128 --batch_size 64 --seed 0 --target 0.99
    python benchmarks/peers/keras_peer.py search --images FILE.npz --batch_size 64 --max_epochs 9
        --reduction_factor 3 --iterations 1 --seed 0 --folder DIR

FILE.npz holds train_images and validation_images, uint8 (N, 28, 28), train_labels and
validation_labels, int64 (N,), and classes. The last line of standard output is one JSON object:

`throughput`: peer, images, seconds, images_per_second, versions. Training in steady state, through
`Model.fit`, after short fits that warm up; whole batches, no validation.

`race`: peer, accuracy, epochs, versions. Training until an epoch's validation accuracy is the
target.

`search`: peer, seconds, trials, fits, epochs, images_per_second, best_val_accuracy, curve,
versions. `trials` are configurations; Keras Tuner calls each promotion a trial too, and `fits`
counts those with them. `epochs` are those really trained. `best_val_accuracy` is the highest of
any epoch, which is what Keras Tuner selects on; `curve` has a [seconds, best so far] for each epoch
that raised it.
"""

import argparse
import contextlib
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

TRACE_BATCHES = 5
"""Batches of the first fit, which traces the step."""
EPOCHS_IN_A_TIMING = 5
"""A timing is cut in about so many epochs, because it can stop only where one ends."""


def load(file: Path) -> tuple[dict[str, np.ndarray], int]:
    """Read the arrays, pixels as float32 0…1 of shape (N, 28, 28, 1), and how many classes."""
    with np.load(file) as arrays:
        data = {name: arrays[name] for name in arrays.files if name != "classes"}
        classes = int(arrays["classes"])
    for name in ("train_images", "validation_images"):
        data[name] = data[name][..., np.newaxis].astype("float32") / 255
    return data, classes


def build(
    *,
    conv1: int,
    conv2: int,
    dense_units: int,
    dropout_rate: float,
    learning_rate: float,
    classes: int,
) -> keras.Model:
    """Build and compile the network."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(conv1, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(conv2, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(dense_units, activation="relu"),
            keras.layers.Dropout(dropout_rate),
            keras.layers.Dense(classes),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate, epsilon=1e-7),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class StopAfter(keras.callbacks.Callback):
    """Ends a fit after the epoch that comes nearest to `limit` seconds, and keeps the time.

    It looks at the clock between epochs only: a callback that is called after every batch makes
    Keras wait for that batch's metrics.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.epochs = 0
        self.seconds = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time; stop if another epoch would end farther from the limit than this one."""
        self.epochs += 1
        self.seconds = time.perf_counter() - self.started
        self.model.stop_training = self.seconds + self.seconds / self.epochs / 2 > self.limit


class Recorder(keras.callbacks.Callback):
    """Counts the epochs of all trials and keeps the curve of the best validation accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.perf_counter()
        self.epochs = 0
        self.best = 0.0
        self.curve: list[list[float]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recorder":
        """Stay the same object: Keras Tuner copies callbacks for each trial."""
        return self

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note one more epoch, and its validation accuracy where it is the best so far."""
        self.epochs += 1
        if logs and logs["val_accuracy"] > self.best:
            self.best = logs["val_accuracy"]
            self.curve.append([round(time.perf_counter() - self.started, 3), round(self.best, 6)])


def measure_throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Train one configuration for about `args.seconds`, and say how fast."""
    data, classes = load(args.images)
    model = build(
        conv1=args.conv1,
        conv2=args.conv2,
        dense_units=args.dense_units,
        dropout_rate=0.3,
        learning_rate=1e-3,
        classes=classes,
    )

    def fit(seconds: float, limit: float) -> tuple[int, float]:
        # Whole batches only: where Keras compiles with XLA, a smaller last one would be compiled
        # for, inside the timing.
        batches = min(int(limit), len(data["train_images"])) // args.batch_size
        count = max(1, batches) * args.batch_size
        stopwatch = StopAfter(seconds)
        model.fit(
            data["train_images"][:count],
            data["train_labels"][:count],
            batch_size=args.batch_size,
            epochs=sys.maxsize,
            callbacks=[stopwatch],
            verbose=0,
        )
        return stopwatch.epochs * count, stopwatch.seconds

    fit(0, TRACE_BATCHES * args.batch_size)
    images, seconds = fit(0, TRACE_BATCHES * args.batch_size)
    # That was short, so a rough figure. A fit of about a second warms up and gives a better one.
    images, seconds = fit(1, images / seconds)
    images, seconds = fit(args.seconds, images / seconds * args.seconds / EPOCHS_IN_A_TIMING)
    return {
        "images": images,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1),
    }


class Finish(keras.callbacks.Callback):
    """Stops when the validation accuracy is high enough."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = target
        self.epochs = 0
        self.accuracy = 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the epoch's accuracy."""
        self.epochs += 1
        self.accuracy = (logs or {})["val_accuracy"]
        self.model.stop_training = self.accuracy >= self.target


def run_race(args: argparse.Namespace) -> dict[str, Any]:
    """Train one configuration until it is as good as it is to be."""
    data, classes = load(args.images)
    keras.utils.set_random_seed(args.seed)
    model = build(
        conv1=args.conv1,
        conv2=args.conv2,
        dense_units=args.dense_units,
        dropout_rate=0.3,
        learning_rate=1e-3,
        classes=classes,
    )
    finish = Finish(args.target)
    model.fit(
        data["train_images"],
        data["train_labels"],
        validation_data=(data["validation_images"], data["validation_labels"]),
        batch_size=args.batch_size,
        epochs=sys.maxsize,
        callbacks=[finish],
        verbose=0,
    )
    return {"accuracy": round(finish.accuracy, 6), "epochs": finish.epochs}


def run_search(args: argparse.Namespace) -> dict[str, Any]:
    """Run Hyperband, and say how long it took and what it found."""
    import keras_tuner  # here, so that the race need not wait for it

    data, classes = load(args.images)
    keras.utils.set_random_seed(args.seed)

    def build_trial(hp: "keras_tuner.HyperParameters") -> keras.Model:
        return build(
            conv1=hp.Int("conv1", 32, 256, step=32),
            conv2=hp.Int("conv2", 32, 256, step=32),
            dense_units=hp.Int("dense_units", 32, 256, step=32),
            dropout_rate=hp.Float("dropout_rate", 0.1, 0.9, step=0.1),
            learning_rate=hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"),
            classes=classes,
        )

    recorder = Recorder()
    tuner = keras_tuner.Hyperband(
        build_trial,
        objective="val_accuracy",
        max_epochs=args.max_epochs,
        factor=args.reduction_factor,
        hyperband_iterations=args.iterations,
        seed=args.seed,
        directory=args.folder,
        project_name="search",
        overwrite=True,
    )
    tuner.search(
        data["train_images"],
        data["train_labels"],
        validation_data=(data["validation_images"], data["validation_labels"]),
        batch_size=args.batch_size,
        callbacks=[
            recorder,
            keras.callbacks.EarlyStopping("val_accuracy", patience=3, mode="max"),
        ],
        verbose=0,
    )
    seconds = time.perf_counter() - recorder.started

    fits = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    return {
        "seconds": round(seconds, 3),
        "trials": sum(
            "tuner/trial_id" not in values for values in fits
        ),  # it names whom it goes on
        "fits": len(fits),
        "epochs": recorder.epochs,
        "images_per_second": round(recorder.epochs * len(data["train_images"]) / seconds, 1),
        "best_val_accuracy": round(recorder.best, 6),
        "curve": recorder.curve,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Keras and Keras Tuner, to compare with.")
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
    search.add_argument("--trials", type=int, help="ignored: the plan says how many")
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--folder", type=Path, required=True, help="where trials are kept")

    for command in (throughput, race, search):
        command.add_argument("--images", type=Path, required=True, metavar="FILE.npz")
        command.add_argument("--batch_size", type=int, default=64)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run one command and print its JSON object."""
    args = parse(argv)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no part of the answer
        report = args.run(args)
    packages = ("tensorflow", "keras", "keras-tuner", "numpy")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    print(json.dumps({"peer": "keras", **report, "versions": versions}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
