"""Draw one fitted model: learning curves, per-class report, confusion matrix, mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.core.metrics import ConfusionMatrix, Mistake
from src.reporting.figures.style import TRAIN, VALIDATION, WIDTH, save, styled
from src.training.history import Epoch

_FEW = 12
"""Most classes with large counts in a confusion matrix."""

_SOME = 40
"""Most classes with counts in a confusion matrix on a page."""

_MISTAKES_A_ROW = 6


@styled()
def draw_best(
    path: Path, title: str, history: Sequence[Epoch], best_epoch: int, matrix: ConfusionMatrix
) -> None:
    """Draw one fit: accuracy, loss, per-class report and confusion matrix, side by side."""
    classes = len(matrix.class_names)
    height = max(6.0, 2.0 + 0.24 * classes)
    figure = Figure(figsize=(15 + height, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    accuracy, loss, report, confusion = figure.subplots(
        1, 4, width_ratios=[4.6, 4.6, 4.4, height - 0.5]
    )
    _draw_curves(accuracy, "accuracy", history, best_epoch)
    _draw_curves(loss, "loss", history, best_epoch)
    accuracy.set_ylabel("accuracy")
    loss.set_ylabel("cross-entropy (nats)")
    _draw_report(report, matrix)
    _draw_confusion(confusion, matrix, 8 if classes <= _FEW else 5.5)
    save(figure, path)


@styled()
def curves_figure(history: Sequence[Epoch], best_epoch: int) -> Figure:
    """Draw a fit's accuracy and loss, for a page."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    _draw_curves(accuracy, "accuracy", history, best_epoch)
    _draw_curves(loss, "loss", history, best_epoch)
    accuracy.set_ylabel("accuracy")
    loss.set_ylabel("cross-entropy (nats)")
    return figure


@styled()
def confusion_figure(matrix: ConfusionMatrix) -> Figure:
    """Draw a confusion matrix for a page, with as many of its counts as can be read there."""
    classes = len(matrix.class_names)
    side = 6.0 if classes <= _FEW else WIDTH
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    digits = len(str(matrix.counts.max()))
    size = min(9.0, 0.9 * 72 * side / classes / (0.62 * digits))  # a digit is 0.62 em wide
    _draw_confusion(axes, matrix, size if classes <= _SOME else None)
    if classes > _SOME:
        axes.tick_params(labelsize=8)
    return figure


@styled()
def mistakes_figure(mistakes: Sequence[Mistake]) -> Figure:
    """Draw images that were misread, each with what it is and what it was taken for."""
    columns = min(_MISTAKES_A_ROW, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(WIDTH * columns / _MISTAKES_A_ROW, 1.55 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, mistake in zip(grid.flat, mistakes, strict=False):
        axes.imshow(255 - mistake.pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"is {mistake.true}, read as {mistake.predicted}\np = {mistake.probability:.3f}",
            fontsize=9,
        )
    return figure


def reading_figures(matrix: ConfusionMatrix, mistakes: Sequence[Mistake]) -> dict[str, Figure]:
    """Draw a model's confusion matrix and, if it makes any, its mistakes."""
    figures = {"confusion": confusion_figure(matrix)}
    if mistakes:
        figures["mistakes"] = mistakes_figure(mistakes)
    return figures


def draw_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """Write the picture of misread images to a file."""
    save(mistakes_figure(mistakes), path)


@styled()
def draw_confusion(path: Path, title: str, matrix: ConfusionMatrix) -> None:
    """Write the picture of a confusion matrix with its counts to a file."""
    side = max(6.0, 1.5 + 0.26 * len(matrix.class_names))
    figure = Figure(figsize=(side, side), layout="constrained")
    figure.suptitle(title, fontsize=11)
    _draw_confusion(figure.subplots(), matrix, 8 if len(matrix.class_names) <= _FEW else 5.5)
    save(figure, path)


def _draw_curves(axes: Axes, what: str, history: Sequence[Epoch], best_epoch: int) -> None:
    epochs = [epoch.epoch for epoch in history]
    for stage, label, colour, line in (
        ("train", "training", TRAIN, "--"),
        ("val", "validation", VALIDATION, "-"),
    ):
        values = [getattr(epoch, f"{stage}_{what}") for epoch in history]
        axes.plot(epochs, values, line, color=colour, marker="o", markersize=3.5, label=label)
    axes.axvline(best_epoch, color="0.7", linewidth=1, linestyle=":", label="best epoch")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def _draw_report(axes: Axes, matrix: ConfusionMatrix) -> None:
    metrics = matrix.per_class()
    values = np.array([[m.precision, m.recall, m.f1] for m in metrics])
    # The colours spread over what there is to see: the classes that are read worst.
    darkest = min(values.min(), 0.9)
    axes.imshow(values, aspect="auto", cmap="cividis", vmin=darkest, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column, row, f"{value:.3f}", ha="center", va="center", fontsize=8,
            color="black" if value > (darkest + 1) / 2 else "white",
        )  # fmt: skip
    axes.set_xticks(range(3), ["precision", "recall", "F1"])
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(metrics)), [f"{m.name} ({m.support:,})" for m in metrics])
    axes.set_ylabel("class (images)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_confusion(axes: Axes, matrix: ConfusionMatrix, size: float | None) -> None:
    """Draw a confusion matrix; `size` is that of its counts in points, None for no counts."""
    counts = matrix.counts
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.35, vmin=0, vmax=1))
    for (row, column), count in np.ndenumerate(counts):
        if count and size is not None:
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=size,
                color="white" if shares[row, column] > 0.25 else "black",
            )  # fmt: skip
    positions = range(len(counts))
    axes.set_xticks(positions, matrix.class_names)
    axes.set_yticks(positions, matrix.class_names)
    axes.set(xlabel="read as", ylabel="is")
    axes.tick_params(length=0)
