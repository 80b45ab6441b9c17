"""A search as pictures: who came how far, at what cost, and what made the difference.

Trials look the same in all of them: the further one got, the darker, with a marker for each rung.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from src.analysis import (
    Ending,
    RungUse,
    accuracy_of,
    best_by_batch_size,
    ending_of,
    endings,
    is_wide,
    numeric,
    ranking,
)
from src.figures.style import OKABE_ITO, WIDTH, styled
from src.findings import Trial, Value
from src.hyperband import Plan

_MARKERS = "vs^DP<h>p8"
_HATCHES = ("", "///", "...", "\\\\\\", "xx", "oo", "--", "**")
_BEST = OKABE_ITO[5]
_DARKEST, _LIGHTER = "#3b0f5c", "#7b55a8"
"""Of trials that trained to their end: all epochs, or until none was better."""
_LOW_ERROR = 1e-4
"""A logarithmic axis has no zero: a smaller error is drawn as this one."""
_ERRORS = [
    *(0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002),
    *(0.001, 0.0005, 0.0002, 0.0001),
]
"""Validation errors that an axis of accuracies has ticks at."""
_FEW_VALUES = 10
"""Values up to which each has a tick of its own where there is much room."""
_FOLLOWED = 60
"""Trials up to which the eye can tell them apart in one panel."""
_IN_FRONT = 20
"""Trials that stand out among more than can be told apart."""
_FEW_TICKS = 5
"""Values up to which each has one where there is little."""


def _rungs(plan: Plan) -> list[int]:
    """Return the epochs of all rungs, the full budget last."""
    return sorted({rung.epochs for bracket in plan.brackets for rung in bracket.rungs})


def _rung_look(rung: int, plan: Plan) -> tuple[str, str]:
    """Return the colour and the hatching of what has to do with a rung: the higher, the darker."""
    rungs = _rungs(plan)
    i = rungs.index(rung)
    hatch = _HATCHES[(len(rungs) - 1 - i) % len(_HATCHES)]
    if rung == plan.max_epochs:
        return _DARKEST, hatch
    shade = 0.82 - 0.5 * i / max(len(rungs) - 2, 1)
    return to_hex(matplotlib.colormaps["viridis"](shade)), hatch


class _Look:
    """How trials look that ended in the same way."""

    def __init__(self, ending: Ending, plan: Plan) -> None:
        rungs = _rungs(plan)
        self.filled = True
        self.hatch = "++"
        if ending.kind == "lost" and ending.rung in rungs:
            self.colour, self.hatch = _rung_look(ending.rung, plan)
            self.marker = _MARKERS[rungs.index(ending.rung) % len(_MARKERS)]
            self.label = f"stopped at epoch {ending.rung}"
        else:
            self.colour, self.marker, self.label = {
                "lost": ("0.6", "1", f"stopped at epoch {ending.rung}"),
                "finished": (_DARKEST, "o", f"trained all {plan.max_epochs} epochs"),
                "early": (_LIGHTER, "o", "no better epoch: stopped early"),
                "diverged": (OKABE_ITO[3], "x", "diverged"),
                "failed": ("0.5", "+", "failed"),
            }[ending.kind]
            self.filled = ending.kind == "finished"
            if self.filled:
                _, self.hatch = _rung_look(plan.max_epochs, plan)

    def handle(self, line: bool = False) -> Line2D:
        """Return its entry in a legend."""
        return Line2D(
            [], [], color=self.colour, marker=self.marker, label=self.label, markersize=6,
            linestyle="-" if line else "none", markerfacecolor=self._face,
        )  # fmt: skip

    def scatter(self, axes: Axes, points: Sequence[tuple[float, float]], size: float) -> None:
        """Draw points, (x, y) each."""
        axes.plot(
            *zip(*points, strict=True), linestyle="none", marker=self.marker, markersize=size,
            color=self.colour,
            markerfacecolor=self._face, markeredgewidth=0.9 if self.filled else 1.2, alpha=0.85,
        )  # fmt: skip

    @property
    def _face(self) -> str:
        return self.colour if self.filled else "none"


def _looks(trials: Sequence[Trial], plan: Plan) -> dict[Ending, _Look]:
    return {ending: _Look(ending, plan) for ending in endings(trials, plan)}


def _marker_size(trials: Sequence[Trial]) -> float:
    return 6.0 if len(trials) <= 60 else 4.5 if len(trials) <= 300 else 3.2


def _error(accuracy: float) -> float:
    return max(1 - accuracy, _LOW_ERROR)


def _accuracy_axis(axes: Axes, label: str = "validation accuracy") -> None:
    """Spread the high accuracies: the axis is logarithmic in the error, the best at the top."""
    axes.set_yscale("log")
    low, high = sorted(axes.get_ylim())
    axes.set_ylim(min(high, 1.0), low)
    ticks = [error for error in _ERRORS if low <= error <= high]
    if len(ticks) > 9:
        ticks = [e for e in ticks if f"{e:.0e}"[0] in "1259"]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.6g} %"))
    axes.set_ylabel(label)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def _legend_below(figure: Figure, handles: Sequence[Line2D | Patch], columns: int = 3) -> None:
    if not handles:
        return
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=min(columns, len(handles)),
        frameon=False, fontsize=9,
    )  # fmt: skip


@styled()
def history_figure(trials: Sequence[Trial], plan: Plan) -> Figure:
    """Draw every trial's accuracy in the order of numbers, and the best so far of each study."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    looks = _looks(trials, plan)
    points: defaultdict[Ending, list[tuple[float, float]]] = defaultdict(list)
    sizes: list[int] = []
    middles: list[float] = []
    start = 0
    # all.csv has one batch size behind the other, each in order of number
    for batch_size, group in groupby(trials, key=lambda trial: trial.batch_size):
        members = list(group)
        if len(sizes) % 2:
            axes.axvspan(start - 0.5, start + len(members) - 0.5, color="0.955", zorder=0)
        so_far = [
            max((accuracy_of(t) for t in members[: i + 1] if t.state == "COMPLETE"), default=0.0)
            for i in range(len(members))
        ]
        steps: list[tuple[float, float]] = [
            (start + i, _error(best)) for i, best in enumerate(so_far) if best
        ]
        if steps:
            steps.append((start + len(members) - 0.5, steps[-1][1]))
            axes.step(*zip(*steps, strict=True), where="post", color="black", linewidth=1.5)
        for i, trial in enumerate(members):
            if trial.val_accuracy is not None:
                point = (start + i, _error(trial.val_accuracy))
                points[ending_of(trial, plan)].append(point)
        sizes.append(batch_size)
        middles.append(start + (len(members) - 1) / 2)
        start += len(members)
    for ending, look in looks.items():
        if points[ending]:
            look.scatter(axes, points[ending], size=_marker_size(trials))
    _accuracy_axis(axes)
    axes.set_xlim(-0.8, start - 0.2)
    if len(sizes) > 1:
        axes.set_xticks(middles, [str(size) for size in sizes])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("batch size (its trials in order of number)")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
    line = Line2D([], [], color="black", linewidth=1.5, label="best finished so far")
    _legend_below(figure, [*(look.handle() for look in looks.values()), line])
    return figure


@styled()
def learning_figure(trials: Sequence[Trial], plan: Plan) -> Figure:
    """Draw every trial's learning curve, coloured by the rung that stopped it.

    Where there are too many to follow, those of each rung have a panel of their own.
    """
    known = [trial for trial in trials if trial.curve]
    looks = _looks(known, plan)
    groups = [[ending] for ending in looks] if len(known) > _FOLLOWED else [list(looks)]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    height = 5.0 if len(groups) == 1 else 0.5 + 2.6 * rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles = []
    ranked = ranking(known)
    for axes, group in zip(grid.flat, groups, strict=False):
        if len(groups) > 1:
            _draw_learning(axes, known, "0.8", 0.25)
            axes.set_title(looks[group[0]].label, fontsize=9.5)
        for ending in group:  # those that got further lie on top
            look = looks[ending]
            members = [trial for trial in known if ending_of(trial, plan) == ending]
            _draw_learning(axes, members, look.colour, min(0.75, max(0.2, 20 / len(members))))
            ends = [(t.curve[-1].epoch, _error(t.curve[-1].val_accuracy)) for t in members]
            look.scatter(axes, ends, size=_marker_size(known))
            handles.append(look.handle(line=True))
        if ranked and ending_of(ranked[0], plan) in group:
            _draw_learning(axes, ranked[:1], "white", 1.0, width=4)
            _draw_learning(axes, ranked[:1], _BEST, 1.0, width=2, line="--")
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    rungs = _rungs(plan)
    for i, axes in enumerate(grid.flat[: len(groups)]):
        axes.set_xscale("log")
        axes.set_xticks(rungs, [str(rung) for rung in rungs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelbottom=i + columns >= len(groups))
        axes.grid(axis="x", color="0.85")
        _accuracy_axis(axes, "validation accuracy" if i % columns == 0 else "")
        if i + columns >= len(groups):
            axes.set_xlabel("epochs trained (ticks: rungs)")
    best = [Line2D([], [], color=_BEST, linestyle="--", linewidth=2, label="the best trial")]
    _legend_below(figure, [*(handles if len(groups) == 1 else []), *(best if ranked else [])])
    return figure


def _draw_learning(
    axes: Axes,
    trials: Sequence[Trial],
    colour: str,
    alpha: float,
    width: float = 1.2,
    line: str = "-",
) -> None:
    for trial in trials:
        axes.plot(
            [epoch.epoch for epoch in trial.curve],
            [_error(epoch.val_accuracy) for epoch in trial.curve],
            line, color=colour, linewidth=width, alpha=alpha,
        )  # fmt: skip


@styled()
def budget_figure(uses: Sequence[RungUse], trials: Sequence[Trial], plan: Plan) -> Figure:
    """Draw, for each bracket, the epochs spent towards each rung, and where its trials ended."""
    figure = Figure(figsize=(WIDTH, 1.9 + 0.42 * len(plan.brackets)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    looks = _looks(trials, plan)
    for row, bracket in enumerate(plan.brackets):
        start = 0
        for use in uses:
            if use.bracket == bracket.s and use.spent:
                _bar(left, row, start, use.spent, *_rung_look(use.epochs, plan))
                start += use.spent
        members = [ending_of(trial, plan) for trial in trials if trial.bracket == bracket.s]
        start = 0
        for ending, look in looks.items():
            if count := members.count(ending):
                _bar(right, row, start, count, look.colour, look.hatch)
                start += count
    names = [f"bracket {bracket.s}" for bracket in plan.brackets]
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(title="epochs spent", xlabel="epochs")
    right.set(title="where trials ended", xlabel="trials")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(axis="y", length=0)
        axes.title.set_fontsize(10)
    rungs = _rungs(plan)
    spent = []
    for below, rung in zip([0, *rungs], rungs, strict=False):
        span = f"epoch {rung}" if rung == below + 1 else f"epochs {below + 1} to {rung}"
        spent.append(_patch(*_rung_look(rung, plan), span))
    ended = [_patch(look.colour, look.hatch, look.label) for look in looks.values()]
    for axes, handles in ((left, spent), (right, ended)):
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False,
            fontsize=9, ncols=2 if len(handles) > 3 else 1,
        )  # fmt: skip
    return figure


def _bar(axes: Axes, row: int, start: float, length: float, colour: str, hatch: str) -> None:
    axes.barh(
        row, length, left=start, height=0.66, color=colour, edgecolor="white", hatch=hatch,
        linewidth=0.8,
    )  # fmt: skip


def _patch(colour: str, hatch: str, label: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="white", hatch=hatch, label=label)


@styled()
def batch_sizes_figure(
    trials: Sequence[Trial], intervals: dict[int, tuple[float, float]], published: dict[int, float]
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
    axes.plot(
        [place[size] - aside for size in best], [accuracy_of(trial) for trial in best.values()],
        "o", color=OKABE_ITO[0], markersize=7, label="this search, with its 95 % interval",
    )  # fmt: skip
    if published:
        axes.plot(
            [place[size] + aside for size in published], list(published.values()), "D",
            color=OKABE_ITO[5], markerfacecolor="none", markersize=6.5, markeredgewidth=1.5,
            label="published",
        )  # fmt: skip
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set(xlabel="batch size (images an optimizer step)", ylabel="validation accuracy")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g} %"))
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    handles, _ = axes.get_legend_handles_labels()
    _legend_below(figure, handles)  # type: ignore[arg-type]  # lines
    return figure


@styled()
def importance_figure(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> Figure:
    """Draw each hyperparameter's importance with its interval, the highest first."""
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(names))
    below = [value - low for value, (low, _) in zip(values, intervals, strict=True)]
    above = [high - value for value, (_, high) in zip(values, intervals, strict=True)]
    axes.barh(
        rows, values, xerr=[below, above], height=0.62, color=OKABE_ITO[4], ecolor="0.2", capsize=3
    )
    axes.set_yticks(rows, [_words(name) for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the importance (line: 80 % of resampled searches)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ")


def _positions(values: Sequence[Value]) -> tuple[dict[Value, float], bool]:
    """Return where each value lies on an axis, and whether that axis is logarithmic."""
    if not numeric(values):
        return {value: i for i, value in enumerate(sorted(set(values), key=str))}, False
    return {value: float(value) for value in values}, is_wide(values)


@styled()
def slices_figure(trials: Sequence[Trial], names: Sequence[str], plan: Plan) -> Figure:
    """Draw accuracy against each hyperparameter that varies."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.5 * rows), layout=ConstrainedLayoutEngine(wspace=0.05))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    looks = _looks(trials, plan)
    known = [trial for trial in trials if trial.val_accuracy is not None]
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        values = [trial.hyperparameters[name] for trial in known]
        where, log = _positions(values)
        distinct = sorted(set(where.values()))
        apart = 0.0  # values that many trials share are spread a little
        if len(known) > _FOLLOWED and len(distinct) < len(known) / 2 and not log:
            apart = min(*np.diff(distinct) / 2, 0.06 * (distinct[-1] - distinct[0]))
        shift = np.random.default_rng(0).uniform(-apart / 2, apart / 2, len(known))
        for ending, look in looks.items():
            points = [
                (where[trial.hyperparameters[name]] + shift[j], _error(accuracy_of(trial)))
                for j, trial in enumerate(known)
                if ending_of(trial, plan) == ending
            ]
            if points:
                look.scatter(axes, points, size=0.8 * _marker_size(trials))
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif len(where) <= _FEW_TICKS or not numeric(values):
            axes.set_xticks(list(where.values()), [str(value) for value in where])
        axes.set_xlabel(_words(name))
        _accuracy_axis(axes, "validation accuracy" if i % columns == 0 else "")
    _legend_below(figure, [look.handle() for look in looks.values()])
    return figure


@styled()
def parallel_figure(trials: Sequence[Trial], names: Sequence[str], plan: Plan) -> Figure:
    """Draw every trial as a line across the hyperparameters that vary, to its accuracy."""
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    known = [trial for trial in trials if trial.val_accuracy is not None]
    heights: list[list[float]] = []
    for i, name in enumerate(names):
        heights.append(_draw_axis(axes, i, [trial.hyperparameters[name] for trial in known]))
    heights.append(_draw_accuracies(axes, len(names), [accuracy_of(trial) for trial in known]))
    lines = list(zip(*heights, strict=True))
    places = range(len(names) + 1)
    handles = []
    if len(known) > _FOLLOWED:
        front = {id(trial) for trial in ranking(known)[:_IN_FRONT]}
        groups = [
            (
                [line for line, t in zip(lines, known, strict=True) if id(t) not in front],
                "0.75",
                0.2,
            ),
            ([line for line, t in zip(lines, known, strict=True) if id(t) in front], _DARKEST, 0.7),
        ]
        labels = ["all others", f"the best {len(front)}"]
        handles = [
            Line2D([], [], color=colour, label=label)
            for (_, colour, _), label in zip(groups, labels, strict=True)
        ]
    else:
        groups = []
        for ending, look in _looks(known, plan).items():
            members = [
                line for line, t in zip(lines, known, strict=True) if ending_of(t, plan) == ending
            ]
            groups.append((members, look.colour, 0.7))
            handles.append(Line2D([], [], color=look.colour, label=look.label))
    for members, colour, alpha in groups:
        for line in members:
            axes.plot(places, line, color=colour, linewidth=1.0, alpha=alpha)
    ranked = ranking(known)
    if ranked:
        best = lines[known.index(ranked[0])]
        axes.plot(places, best, color="white", linewidth=4)
        handles += axes.plot(places, best, "--", color=_BEST, linewidth=2.2, label="the best trial")
    axes.set_xticks(
        places, [*(_words(name).replace(" ", "\n") for name in names), "validation\naccuracy"]
    )
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, pad=8)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.35, len(names) + 0.45)
    axes.spines[:].set_visible(False)
    _legend_below(figure, handles)
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
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw_accuracies(axes: Axes, i: int, accuracies: Sequence[float]) -> list[float]:
    """Draw the axis of accuracies, logarithmic in the error."""
    heights = [-float(np.log10(_error(accuracy))) for accuracy in accuracies]
    low, high = min(heights), max(heights)
    span = (high - low) or 1.0
    axes.axvline(i, color="0.3", linewidth=0.9, zorder=3)
    last = -1.0
    for error in _ERRORS:
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
