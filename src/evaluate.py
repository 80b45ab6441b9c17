"""Test a saved model on its data set's official test split.

    python -m src.evaluate results/mnist/best-model.ckpt

Writes metrics.json, confusion-matrix.png and mistakes.png beside the checkpoint, and adds a line to
results/<dataset>/test-log.jsonl, so that repeated looks at the test split are seen. Seconds on a
laptop.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import jsonargparse
from rich.table import Table

from src import cli
from src.core import checks
from src.core.console import open_console, say
from src.core.errors import UserError
from src.core.files import make_writable, write_json
from src.core.intervals import wilson_interval
from src.core.metrics import ConfusionMatrix, count_confusion
from src.data.catalog import CLASS_NAMES, Dataset, overlap_caution
from src.data.files import Images, load_images
from src.inference.predictions import read_probabilities, worst_mistakes
from src.reporting.figures import draw_confusion, draw_mistakes, reading_figures
from src.results.folder import ResultsFolder
from src.results.provenance import provenance
from src.results.records import TestRecord
from src.results.test_log import record_test
from src.training.checkpoint import SavedModel, load_model
from src.training.device import Device, choose_compute
from src.training.tensorboard import WINNER, write_pictures


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A saved model, tested."""

    dataset: Dataset | None = None
    """Test on this data set instead of the model's own; its classes must be the same."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    data_dir: str = "data"
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: str | None = None
    """Folder for results: <results_dir>/<dataset>/test-log.jsonl records every look at the test
    images; null: the one that the checkpoint is in, or results."""
    output_dir: str | None = None
    """Folder for metrics.json and the pictures; null: beside the checkpoint."""
    log_dir: str | None = None
    """Folder for TensorBoard, which then shows the pictures as the run <log_dir>/<dataset>/winner;
    null: none."""

    def __post_init__(self) -> None:
        checks.path("data_dir", self.data_dir)
        checks.path("results_dir", self.results_dir or "")
        checks.path("log_dir", self.log_dir or "")
        checks.path("output_dir", self.output_dir or "")


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the command's parser."""
    parser = cli.make_parser("src.evaluate", cli.first_line(__doc__), EvaluateConfig)
    parser.add_argument("checkpoint", type=str, help="The model, such as best-model.ckpt.")
    parser.add_argument(
        "--json", action="store_true", help="Print one JSON object and nothing else."
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return cli.run(make_parser(), _evaluate, argv)


def _evaluate(options: jsonargparse.Namespace) -> int:
    config = cli.make_config(EvaluateConfig, options)
    path = Path(options.checkpoint)
    compute = choose_compute(config.device, "32")
    model, sha256 = _load(path)
    own = model.data_spec.dataset
    dataset = config.dataset or own
    if CLASS_NAMES[dataset] != model.class_names:
        raise UserError(
            f"`dataset` (={dataset}) has other classes than the model, which was trained on {own}"
        )
    caution = overlap_caution(own, dataset)
    if caution:
        print(f"caution: {caution}", file=sys.stderr)
    folder = Path(config.output_dir) if config.output_dir else path.parent
    make_writable(folder, "--output_dir")
    if config.log_dir is not None:
        make_writable(Path(config.log_dir), "--log_dir")
    images = Images.joined(load_images(dataset, "test", config.data_dir))
    probabilities = read_probabilities(model.task().model, images.pixels, compute).numpy()
    labels = images.labels.numpy()
    matrix = ConfusionMatrix(
        count_confusion(labels, probabilities.argmax(axis=1), len(model.class_names)),
        model.class_names,
    )
    low, high = wilson_interval(matrix.correct, matrix.images)
    log = ResultsFolder(config.results_dir or _results_dir(path, own), dataset)
    make_writable(log.path, "--results_dir")
    opened = record_test(
        log,
        TestRecord(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            checkpoint=str(path),
            checkpoint_sha256=sha256,
            dataset=dataset,
            n_test=matrix.images,
            test_accuracy=matrix.accuracy,
        ),
    )
    mistakes = worst_mistakes(images, probabilities, model.class_names)
    metrics = {
        "dataset": dataset,
        "test_accuracy": matrix.accuracy,
        "n_test": matrix.images,
        "ci95": [low, high],
        "macro_accuracy": matrix.macro_accuracy,
        "per_class": [asdict(metrics) for metrics in matrix.per_class()],
        "most_confused": [asdict(confusion) for confusion in matrix.most_confused()],
        "confusion_matrix": matrix.counts.tolist(),
        "mistakes": [
            {
                "image": image,
                "true": mistake.true,
                "predicted": mistake.predicted,
                "probability": mistake.probability,
            }
            for image, mistake in mistakes.items()
        ],
        "test_images_sha256": images.sha256(),
        "caution": caution,
        "checkpoint": str(path),
        "checkpoint_sha256": sha256,
        "test_split_opened": opened.times,
        "val_accuracy": model.val_accuracy,
        "provenance": provenance(compute),
    }
    suffix = "" if dataset == own else f"-on-{dataset}"
    metrics_file = folder / f"metrics{suffix}.json"
    figure_file = folder / f"confusion-matrix{suffix}.png"
    write_json(metrics_file, metrics)
    title = f"{dataset}: {matrix.accuracy:.2%} of {matrix.images:,} test images read correctly"
    draw_confusion(figure_file, title, matrix)
    mistakes_file = folder / f"mistakes{suffix}.png"
    if mistakes:
        draw_mistakes(mistakes_file, list(mistakes.values()))
    else:
        mistakes_file.unlink(missing_ok=True)  # of a model that made some
    if config.log_dir is not None:
        is_best = dataset == own and path.resolve() == log.best_model.resolve()
        name = WINNER if is_best else f"{path.stem}{suffix}"
        pictures = reading_figures(matrix, list(mistakes.values()))
        write_pictures(config.log_dir, own, name, "test", pictures)
    if options.json:
        print(json.dumps(metrics))
        return 0
    console = open_console()
    say(
        console,
        f"{dataset}: test accuracy {matrix.accuracy:.4f} "
        f"(95 % interval {low:.4f} to {high:.4f}, {matrix.images:,} images), "
        f"macro accuracy {matrix.macro_accuracy:.4f}; validation accuracy was "
        f"{model.val_accuracy:.4f}",
    )
    say(
        console,
        f"The test split of {dataset} has now been opened {_times(opened.times)}, for "
        f"{opened.models} model{'' if opened.models == 1 else 's'} ({log.test_log}).",
    )
    console.print(_class_table(matrix))
    console.print(_confusion_table(matrix))
    written = [metrics_file, figure_file, *([mistakes_file] if mistakes else [])]
    say(console, f"Written: {', '.join(map(str, written))}")
    return 0


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _load(path: Path) -> tuple[SavedModel, str]:
    """Return a model and the SHA-256 of the file that it was read from.

    Raises:
        UserError: it is no such file, or another one was put in its place meanwhile.
    """

    def state() -> tuple[int, int, int]:
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    before = state() if path.exists() else None
    model = load_model(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if state() != before:
        raise UserError(f"{path} changed while it was read; try again")
    return model, sha256


def _results_dir(checkpoint: Path, dataset: str) -> Path:
    """Return the folder of results that a checkpoint is in, or the usual one."""
    for folder in (*checkpoint.parents, *checkpoint.absolute().parents):
        if folder.name == dataset:
            return folder.parent
    return Path("results")


def _class_table(matrix: ConfusionMatrix) -> Table:
    table = Table(title="Classes", title_justify="left")
    for column in ("class", "precision", "recall", "F1", "images"):
        table.add_column(column, justify="right")
    for m in matrix.per_class():
        table.add_row(
            m.name, f"{m.precision:.4f}", f"{m.recall:.4f}", f"{m.f1:.4f}", f"{m.support:,}"
        )
    return table


def _confusion_table(matrix: ConfusionMatrix) -> Table:
    table = Table(title="Most confused", title_justify="left")
    for column in ("is", "read as", "images", "share of class"):
        table.add_column(column, justify="right")
    for c in matrix.most_confused():
        table.add_row(c.true, c.predicted, str(c.count), f"{c.share:.2%}")
    return table


if __name__ == "__main__":
    sys.exit(main())
