"""Test a saved model on its data set's official test split.

    python -m src.evaluate results/mnist/best-model.ckpt

Writes metrics.json, confusion-matrix.png and mistakes.png beside the checkpoint, and adds a line to
results/<dataset>/test-log.jsonl, so that repeated looks at the test split are seen. Seconds on a
laptop.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from src import cli
from src.core.command import recorded_command
from src.core.console import open_console, plural, print_figures, say
from src.core.errors import UserError
from src.core.files import make_writable, short_path, write_json
from src.data.catalog import CLASS_NAMES, Dataset, overlap_caution
from src.results.folder import RESULTS_DIR, ResultsFolder
from src.training.device import Device, choose_compute

if TYPE_CHECKING:
    from src.training.checkpoint import SavedModel


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    checkpoint: Path
    """The model, such as best-model.ckpt."""
    dataset: Dataset | None = None
    """Test on this data set instead of the model's own; its classes must be the same."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    data_dir: Path = Path("data")
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: Path | None = None
    """Folder for results: <results_dir>/<dataset>/test-log.jsonl records every look at the test
    images; null: the one that the checkpoint is in, or results."""
    output_dir: Path | None = None
    """Folder for metrics.json and the pictures; null: beside the checkpoint."""
    log_dir: Path | None = None
    """Folder for TensorBoard, which then shows the pictures as the run <log_dir>/<dataset>/winner;
    null: none."""
    json: bool = False
    """Print one JSON object and nothing else."""


def _run(options: EvaluateOptions) -> int:
    from src.core.intervals import wilson_interval
    from src.core.metrics import ConfusionMatrix, count_confusion
    from src.data.files import Images, load_images
    from src.inference.predictions import read_probabilities, worst_mistakes
    from src.reporting.figures import draw_confusion, draw_mistakes, reading_figures
    from src.results.provenance import provenance
    from src.results.records import MisreadImage, TestMetrics, TestRecord
    from src.results.test_log import record_test

    path = options.checkpoint
    compute = choose_compute(options.device, "32")
    model, sha256 = _load(path)
    own = model.data_spec.dataset
    dataset = options.dataset or own
    if CLASS_NAMES[dataset] != model.class_names:
        raise UserError(
            f"`dataset` (={dataset}) has other classes than the model, which was trained on {own}"
        )
    caution = overlap_caution(own, dataset)
    if caution:
        print(f"caution: {caution}", file=sys.stderr)
    folder = options.output_dir or path.parent
    make_writable(folder, "--output_dir")
    if options.log_dir is not None:
        make_writable(options.log_dir, "--log_dir")
    images = Images.joined(load_images(dataset, "test", options.data_dir))
    probabilities = read_probabilities(model.network(), images.pixels, compute).numpy()
    labels = images.labels.numpy()
    matrix = ConfusionMatrix(
        count_confusion(labels, probabilities.argmax(axis=1), len(model.class_names)),
        model.class_names,
    )
    low, high = wilson_interval(matrix.correct, matrix.images)
    log = ResultsFolder(options.results_dir or _results_dir(path, own), dataset)
    make_writable(log.path, "--results_dir")
    opened = record_test(
        log,
        TestRecord(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            checkpoint=short_path(path),
            checkpoint_sha256=sha256,
            dataset=dataset,
            n_test=matrix.images,
            test_accuracy=matrix.accuracy,
        ),
    )
    mistakes = worst_mistakes(images, probabilities, model.class_names)
    metrics = TestMetrics(
        dataset=dataset,
        test_accuracy=matrix.accuracy,
        n_test=matrix.images,
        ci95=(low, high),
        macro_accuracy=matrix.macro_accuracy,
        per_class=tuple(matrix.per_class()),
        most_confused=tuple(matrix.most_confused()),
        confusion_matrix=tuple(map(tuple, matrix.counts.tolist())),
        mistakes=tuple(
            MisreadImage(
                image=image,
                true=mistake.true,
                predicted=mistake.predicted,
                probability=mistake.probability,
            )
            for image, mistake in mistakes.items()
        ),
        test_images_sha256=images.sha256(),
        caution=caution,
        checkpoint=short_path(path),
        checkpoint_sha256=sha256,
        test_split_opened=opened.times,
        val_accuracy=model.val_accuracy,
        provenance=provenance(compute, recorded_command()),
    )
    suffix = "" if dataset == own else f"-on-{dataset}"
    metrics_file = folder / f"metrics{suffix}.json"
    figure_file = folder / f"confusion-matrix{suffix}.png"
    write_json(metrics_file, asdict(metrics))
    title = f"{dataset}: {matrix.accuracy:.2%} of {matrix.images:,} test images read correctly"
    draw_confusion(figure_file, title, matrix)
    mistakes_file = folder / f"mistakes{suffix}.png"
    if mistakes:
        draw_mistakes(mistakes_file, list(mistakes.values()))
    else:
        mistakes_file.unlink(missing_ok=True)  # of a model that made some
    if options.log_dir is not None:
        from src.training.tensorboard import WINNER, write_pictures

        is_best = dataset == own and path.resolve() == log.best_model.resolve()
        name = WINNER if is_best else f"{path.stem}{suffix}"
        pictures = reading_figures(matrix, list(mistakes.values()))
        write_pictures(options.log_dir, own, name, "test", pictures)
    if options.json:
        print(json.dumps(asdict(metrics)))
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
        f"{plural(opened.models, 'model')} ({log.test_log}).",
    )
    print_figures(
        console,
        ["class", "precision", "recall", "F1", "images"],
        [
            [c.name, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}", f"{c.support:,}"]
            for c in matrix.per_class()
        ],
        title="Classes",
    )
    print_figures(
        console,
        ["is", "read as", "images", "share of class"],
        [[c.true, c.predicted, str(c.count), f"{c.share:.2%}"] for c in matrix.most_confused()],
        title="Most confused",
    )
    written = [metrics_file, figure_file, *([mistakes_file] if mistakes else [])]
    say(console, f"Written: {', '.join(map(str, written))}")
    return 0


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _load(path: Path) -> "tuple[SavedModel, str]":
    """Return a model and the SHA-256 of the file that it was read from.

    Raises:
        UserError: it is no such file, or another one was put in its place meanwhile.
    """
    from src.training.checkpoint import load_model

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
    for folder in checkpoint.parents:
        if folder.name == dataset:
            return folder.parent
    return Path(RESULTS_DIR)


COMMAND = cli.Command(
    "src.evaluate", __doc__, EvaluateOptions, _run, flags=("json",), positional="checkpoint"
)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
