"""Records → pictures. Colours are Okabe & Ito's (2008), which colour-blind readers tell apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from src.hyperband import Plan
from src.metrics import ConfusionMatrix
from src.results import Epoch, TrialRecord, replacing

_OKABE_ITO = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)
_TRAIN, _VALIDATION = _OKABE_ITO[1], _OKABE_ITO[0]
_STYLE: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
_DPI = 110


def draw_best(
    path: Path, title: str, history: Sequence[Epoch], best_epoch: int, matrix: ConfusionMatrix
) -> None:
    """Draw one fit: accuracy, loss, per-class report and confusion matrix, side by side."""
    classes = len(matrix.class_names)
    height = max(6.0, 2.0 + 0.24 * classes)
    with matplotlib.rc_context(_STYLE):
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
        _draw_confusion(confusion, matrix)
        _save(figure, path)


def draw_confusion(path: Path, title: str, matrix: ConfusionMatrix) -> None:
    """Draw a confusion matrix with its counts."""
    side = max(6.0, 1.5 + 0.26 * len(matrix.class_names))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        figure.suptitle(title, fontsize=11)
        _draw_confusion(figure.subplots(), matrix)
        _save(figure, path)


def draw_rungs(
    path: Path, title: str, trials: Sequence[tuple[TrialRecord, Sequence[Epoch]]], plan: Plan
) -> None:
    """Draw every trial's learning curve, and where which bracket's rungs ended it."""
    colours = {
        bracket.s: _OKABE_ITO[i % len(_OKABE_ITO)] for i, bracket in enumerate(plan.brackets)
    }
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        axes = figure.subplots()
        for record, history in trials:
            if not history or record.state == "FAIL":
                continue
            finished = record.state == "COMPLETE"
            colour = colours[record.bracket]
            epochs = [epoch.epoch for epoch in history]
            # A logarithmic axis has no zero: a perfect epoch is drawn at the bottom.
            errors = [max(1 - epoch.val_accuracy, 1e-4) for epoch in history]
            axes.plot(epochs, errors, color=colour, linewidth=1.6, alpha=0.9 if finished else 0.45)
            axes.plot(
                epochs[-1:], errors[-1:], color=colour, marker="o" if finished else "x",
                markersize=7, markeredgewidth=1.8, linestyle="none",
            )  # fmt: skip
        rungs = sorted({rung.epochs for bracket in plan.brackets for rung in bracket.rungs})
        for rung in rungs:
            axes.axvline(rung, color="0.85", linewidth=1, zorder=0)
        axes.set(xscale="log", yscale="log", title=title)
        axes.set(xlabel="epochs trained (grey lines: rungs)", ylabel="validation error")
        axes.set_xticks(rungs, [str(rung) for rung in rungs])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        handles = [
            Line2D([], [], color=colours[b.s], linewidth=2, label=_describe_bracket(b.s))
            for b in plan.brackets
        ]
        handles += [
            Line2D([], [], color="0.3", marker="x", linestyle="none", label="pruned"),
            Line2D(
                [],
                [],
                color="0.3",
                marker="o",
                linestyle="none",
                label="finished, or stopped early",
            ),
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
        _save(figure, path)


def _describe_bracket(s: int) -> str:
    cuts = {0: "no cut", 1: "one cut"}.get(s, f"{s} cuts")
    return f"bracket {s}: {cuts}"


def _draw_curves(axes: Axes, what: str, history: Sequence[Epoch], best_epoch: int) -> None:
    epochs = [epoch.epoch for epoch in history]
    for stage, label, colour, line in (
        ("train", "training", _TRAIN, "--"),
        ("val", "validation", _VALIDATION, "-"),
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


def _draw_confusion(axes: Axes, matrix: ConfusionMatrix) -> None:
    counts = matrix.counts
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.35, vmin=0, vmax=1))
    small = 8 if len(counts) <= 12 else 5.5
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=small,
                color="white" if shares[row, column] > 0.25 else "black",
            )  # fmt: skip
    positions = range(len(counts))
    axes.set_xticks(positions, matrix.class_names)
    axes.set_yticks(positions, matrix.class_names)
    axes.set(xlabel="read as", ylabel="is")
    axes.tick_params(length=0)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")
