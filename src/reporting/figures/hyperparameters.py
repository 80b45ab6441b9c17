"""Draw accuracy by hyperparameter: batch sizes, importance, slices, parallel coordinates."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from src.reporting.analysis import (
    Value,
    accuracy_of,
    best_by_batch_size,
    ending_of,
    is_wide,
    numeric,
    ranking,
    value_of,
    with_accuracy,
)
from src.reporting.figures.marks import (
    BEST,
    DARKEST,
    ERROR_TICKS,
    FOLLOWED,
    accuracy_axis,
    error_of,
    legend_below,
    marker_size,
    marks_of,
    plain_accuracy_axis,
    words,
)
from src.reporting.figures.style import OKABE_ITO, WIDTH, panel_grid, styled
from src.results.records import TrialRecord
from src.search.hyperband import Plan

_FEW_VALUES = 10
"""Most values that all have a tick on an axis of a parallel plot."""

_FEW_TICKS = 5
"""Most values that all have a tick in a slice plot."""

_TICK = 16
"""Most characters of a tick's label."""

_IN_FRONT = 20
"""Trials drawn dark where there are more than the eye can tell apart."""


@styled()
def batch_sizes_figure(
    trials: Sequence[TrialRecord],
    intervals: dict[int, tuple[float, float]],
    published: dict[int, float],
) -> Figure:
    """Draw the best accuracy at each batch size, with its interval, beside what was published."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    best = best_by_batch_size(trials)
    sizes = sorted({*best, *published})
    place = {size: i for i, size in enumerate(sizes)}
    aside = 0.12 if published else 0.0
    for size in best:
        low, high = intervals[size]
        axes.plot([place[size] - aside] * 2, [low, high], color=OKABE_ITO[0], linewidth=1.4)
    handles = axes.plot(
        [place[size] - aside for size in best], [accuracy_of(trial) for trial in best.values()],
        "o", color=OKABE_ITO[0], markersize=7, label="this search, with its 95 % interval",
    )  # fmt: skip
    if published:
        handles += axes.plot(
            [place[size] + aside for size in published], list(published.values()), "D",
            color=OKABE_ITO[5], markerfacecolor="none", markersize=6.5, markeredgewidth=1.5,
            label="published",
        )  # fmt: skip
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set(xlabel="batch size (images an optimizer step)", ylabel="validation accuracy")
    plain_accuracy_axis(axes, "y")
    legend_below(figure, handles)
    return figure


@styled()
def importance_figure(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> Figure:
    """Draw each hyperparameter's importance with its interval, the highest first."""
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(names))
    axes.barh(rows, values, height=0.62, color=OKABE_ITO[4])
    for row, (low, high) in zip(rows, intervals, strict=True):
        axes.plot([low, high], [row, row], "|-", color="0.2", linewidth=1.3, markersize=7)
    axes.set_yticks(rows, [words(name) for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the importance (line: 80 % of resampled searches)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return figure


def _positions(values: Sequence[Value]) -> tuple[dict[Value, float], bool]:
    """Return where each value lies on an axis, and whether that axis is logarithmic."""
    if not numeric(values):
        return {value: i for i, value in enumerate(sorted(set(values), key=str))}, False
    return {value: float(value) for value in values}, is_wide(values)


@styled()
def slices_figure(trials: Sequence[TrialRecord], names: Sequence[str], plan: Plan) -> Figure:
    """Draw accuracy against each hyperparameter that varies."""
    rows, columns = panel_grid(len(names))
    figure = Figure(figsize=(WIDTH, 0.6 + 2.5 * rows), layout=ConstrainedLayoutEngine(wspace=0.05))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    marks = marks_of(trials, plan)
    known = with_accuracy(trials)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        values = [value_of(trial, name) for trial, _ in known]
        where, log = _positions(values)
        distinct = sorted(set(where.values()))
        apart = 0.0  # values that many trials share are spread a little
        if len(known) > FOLLOWED and len(distinct) < len(known) / 2 and not log:
            apart = min(*np.diff(distinct) / 2, 0.06 * (distinct[-1] - distinct[0]))
        shift = np.random.default_rng(0).uniform(-apart / 2, apart / 2, len(known))
        for ending, mark in marks.items():
            points = [
                (where[value_of(trial, name)] + shift[j], error_of(accuracy))
                for j, (trial, accuracy) in enumerate(known)
                if ending_of(trial, plan) == ending
            ]
            if points:
                mark.scatter(axes, points, size=0.8 * marker_size(trials))
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif len(where) <= _FEW_TICKS or not numeric(values):
            axes.set_xticks(list(where.values()), [_short(value) for value in where])
        axes.set_xlabel(words(name))
        accuracy_axis(axes, "validation accuracy" if i % columns == 0 else "")
    legend_below(figure, [mark.handle() for mark in marks.values()])
    return figure


@styled()
def parallel_figure(trials: Sequence[TrialRecord], names: Sequence[str], plan: Plan) -> Figure:
    """Draw every trial as a line across the hyperparameters that vary, to its accuracy."""
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    known, accuracies = zip(*with_accuracy(trials), strict=True)
    heights: list[list[float]] = []
    for i, name in enumerate(names):
        heights.append(_draw_axis(axes, i, [value_of(trial, name) for trial in known]))
    heights.append(_draw_accuracies(axes, len(names), accuracies))
    lines = list(zip(*heights, strict=True))
    places = range(len(names) + 1)
    handles = []
    if len(known) > FOLLOWED:
        front = {id(trial) for trial in ranking(known)[:_IN_FRONT]}
        groups = [
            (
                [line for line, t in zip(lines, known, strict=True) if id(t) not in front],
                "0.75",
                0.2,
            ),
            ([line for line, t in zip(lines, known, strict=True) if id(t) in front], DARKEST, 0.7),
        ]
        labels = ["all others", f"the best {len(front)}"]
        handles = [
            Line2D([], [], color=colour, label=label)
            for (_, colour, _), label in zip(groups, labels, strict=True)
        ]
    else:
        groups = []
        for ending, mark in marks_of(known, plan).items():
            members = [
                line for line, t in zip(lines, known, strict=True) if ending_of(t, plan) == ending
            ]
            groups.append((members, mark.colour, 0.7))
            handles.append(Line2D([], [], color=mark.colour, label=mark.label))
    for members, colour, alpha in groups:
        for line in members:
            axes.plot(places, line, color=colour, linewidth=1.0, alpha=alpha)
    ranked = ranking(known)
    if ranked:
        best = lines[known.index(ranked[0])]
        axes.plot(places, best, color="white", linewidth=4)
        handles += axes.plot(places, best, "--", color=BEST, linewidth=2.2, label="the best trial")
    axes.set_xticks(
        places, [*(words(name).replace(" ", "\n") for name in names), "validation\naccuracy"]
    )
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, pad=8)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.35, len(names) + 0.45)
    axes.spines[:].set_visible(False)
    legend_below(figure, handles)
    return figure


def _draw_axis(axes: Axes, i: int, values: Sequence[Value]) -> list[float]:
    """Draw one upright axis with its values; return how high each trial crosses it."""
    where, log = _positions(values)
    scale = np.log10 if log else float
    low, high = float(scale(min(where.values()))), float(scale(max(where.values())))

    def height(position: float) -> float:
        return (float(scale(position)) - low) / (high - low)

    ticks = {_short(value): position for value, position in where.items()}
    if len(ticks) > _FEW_VALUES:
        locator = LogLocator(subs=(1.0, 3.0)) if log else MaxNLocator(6)
        positions = locator.tick_values(min(where.values()), max(where.values()))
        ticks = {_short(float(p)): float(p) for p in positions if p > 0 or not log}
    axes.axvline(i, color="0.3", linewidth=0.9, zorder=3)
    for text, position in ticks.items():
        if 0 <= height(position) <= 1:
            _tick(axes, i, height(position), text)
    return [height(where[value]) for value in values]


def _short(value: Value) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _TICK else f"{text[: _TICK - 1]}…"


def _draw_accuracies(axes: Axes, i: int, accuracies: Sequence[float]) -> list[float]:
    """Draw the axis of accuracies, logarithmic in the error."""
    heights = [-float(np.log10(error_of(accuracy))) for accuracy in accuracies]
    low, high = min(heights), max(heights)
    span = (high - low) or 1.0
    axes.axvline(i, color="0.3", linewidth=0.9, zorder=3)
    last = -1.0
    for error in ERROR_TICKS:
        height = (-np.log10(error) - low) / span
        if 0 <= height <= 1 and height - last > 0.06:
            _tick(axes, i, height, f"{100 * (1 - error):.6g} %")
            last = height
    return [(height - low) / span for height in heights]


def _tick(axes: Axes, i: int, height: float, text: str) -> None:
    axes.text(
        i + 0.05, height, text, fontsize=8, va="center", zorder=4,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip
