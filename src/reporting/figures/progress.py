"""Draw the course of a search: optimisation history, learning curves, epochs by rung."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from src.reporting.analysis import (
    Ending,
    RungUse,
    accuracy_of,
    ending_of,
    ranking,
    with_accuracy,
)
from src.reporting.figures.marks import (
    BEST,
    FOLLOWED,
    accuracy_axis,
    epochs_text,
    error_of,
    legend_below,
    marker_size,
    marks_of,
    rung_epochs,
    rung_fill,
)
from src.reporting.figures.style import WIDTH, panel_grid, styled
from src.results.records import TrialRecord
from src.search.hyperband import Plan

_PROMOTED = ("0.8", "")
"""Colour and hatching of trials that trained on."""


@styled()
def history_figure(trials: Sequence[TrialRecord], plan: Plan) -> Figure:
    """Draw the optimisation history: every trial's accuracy, and the best so far of each study."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    marks = marks_of(trials, plan)
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
            (start + i, error_of(best)) for i, best in enumerate(so_far) if best
        ]
        if steps:
            steps.append((start + len(members) - 0.5, steps[-1][1]))
            axes.step(*zip(*steps, strict=True), where="post", color="black", linewidth=1.5)
        places = {trial.trial: start + i for i, trial in enumerate(members)}
        for trial, accuracy in with_accuracy(members):
            point = (places[trial.trial], error_of(accuracy))
            points[ending_of(trial, plan)].append(point)
        sizes.append(batch_size)
        middles.append(start + (len(members) - 1) / 2)
        start += len(members)
    shown = {ending: mark for ending, mark in marks.items() if points[ending]}
    for ending, mark in shown.items():
        mark.scatter(axes, points[ending], size=marker_size(trials))
    accuracy_axis(axes)
    axes.set_xlim(-0.8, start - 0.2)
    if len(sizes) > 1:
        axes.set_xticks(middles, [str(size) for size in sizes])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("batch size (its trials in order of number)")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
    line = Line2D([], [], color="black", linewidth=1.5, label="best finished so far")
    legend_below(figure, [*(mark.handle() for mark in shown.values()), line])
    return figure


@styled()
def learning_figure(trials: Sequence[TrialRecord], plan: Plan) -> Figure:
    """Draw every trial's learning curve, coloured by the rung that stopped it.

    Where there are too many to follow, those of each rung have a panel of their own.
    """
    known = [trial for trial in trials if trial.history]
    marks = marks_of(known, plan)
    groups = [[ending] for ending in marks] if len(known) > FOLLOWED else [list(marks)]
    rows, columns = panel_grid(len(groups))
    height = 5.0 if len(groups) == 1 else 0.5 + 2.6 * rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles = []
    ranked = ranking(known)
    for axes, group in zip(grid.flat, groups, strict=False):
        if len(groups) > 1:
            _draw_learning(axes, known, "0.8", 0.25)
            axes.set_title(marks[group[0]].label, fontsize=9.5)
        for ending in group:  # those that got further lie on top
            mark = marks[ending]
            members = [trial for trial in known if ending_of(trial, plan) == ending]
            _draw_learning(axes, members, mark.colour, min(0.75, max(0.2, 20 / len(members))))
            ends = [(t.history[-1].epoch, error_of(t.history[-1].val_accuracy)) for t in members]
            mark.scatter(axes, ends, size=marker_size(known))
            handles.append(mark.handle(line=True))
        if ranked and ending_of(ranked[0], plan) in group:
            _draw_learning(axes, ranked[:1], "white", 1.0, width=4)
            _draw_learning(axes, ranked[:1], BEST, 1.0, width=2, line="--")
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    rungs = rung_epochs(plan)
    for i, axes in enumerate(grid.flat[: len(groups)]):
        axes.set_xscale("log")
        axes.set_xticks(rungs, list(map(epochs_text, rungs)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelbottom=i + columns >= len(groups))
        axes.grid(axis="x", color="0.85")
        accuracy_axis(axes, "validation accuracy" if i % columns == 0 else "")
        if i + columns >= len(groups):
            axes.set_xlabel("epochs trained (ticks: rungs)")
    best = [Line2D([], [], color=BEST, linestyle="--", linewidth=2, label="the best trial")]
    legend_below(figure, [*(handles if len(groups) == 1 else []), *(best if ranked else [])])
    return figure


def _draw_learning(
    axes: Axes,
    trials: Sequence[TrialRecord],
    colour: str,
    alpha: float,
    width: float = 1.2,
    line: str = "-",
) -> None:
    for trial in trials:
        axes.plot(
            [epoch.epoch for epoch in trial.history],
            [error_of(epoch.val_accuracy) for epoch in trial.history],
            line, color=colour, linewidth=width, alpha=alpha,
        )  # fmt: skip


@styled()
def budget_figure(uses: Sequence[RungUse], trials: Sequence[TrialRecord], plan: Plan) -> Figure:
    """Draw, for each bracket, the epochs spent towards each rung, and where its trials ended."""
    figure = Figure(figsize=(WIDTH, 1.9 + 0.42 * len(plan.brackets)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    marks = marks_of(trials, plan)
    for row, bracket in enumerate(plan.brackets):
        start = 0.0
        for use in uses:
            if use.bracket == bracket.s and use.spent:
                _bar(left, row, start, use.spent, *rung_fill(use.epochs, plan))
                start += use.spent
        members = [ending_of(trial, plan) for trial in trials if trial.bracket == bracket.s]
        start = 0
        for ending, mark in marks.items():
            if count := members.count(ending):
                _bar(right, row, start, count, mark.colour, mark.hatch)
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
    rungs = rung_epochs(plan)
    spent = []
    for below, rung in zip([0, *rungs], rungs, strict=False):
        span = f"epoch {rung}" if rung == below + 1 else f"epochs {below + 1} to {rung}"
        if plan.looks:
            span = f"{epochs_text(below)} to {epochs_text(rung)} epochs"
        spent.append(_patch(*rung_fill(rung, plan), span))
    ended = [_patch(mark.colour, mark.hatch, mark.label) for mark in marks.values()]
    for axes, handles in ((left, spent), (right, ended)):
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False,
            fontsize=9, ncols=2 if len(handles) > 3 else 1,
        )  # fmt: skip
    return figure


@styled()
def promotions_figure(
    uses: Sequence[RungUse], trials: Sequence[TrialRecord], plan: Plan, batch_sizes: int
) -> Figure:
    """Draw, for each rung, the epochs spent towards it, and which trials it promoted or stopped.

    Args:
        uses: of the rungs.
        trials: that ended there.
        plan: of each batch size.
        batch_sizes: how many the search has, those too that have no trial yet.
    """
    figure = Figure(figsize=(WIDTH, 1.6 + 0.24 * len(uses)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    marks = marks_of(trials, plan)
    for row, use in enumerate(uses):
        _bar(left, row, 0, use.spent, *rung_fill(use.epochs, plan))
        _bar(right, row, 0, use.went_on, *_PROMOTED)
        start = use.went_on
        for ending, mark in marks.items():
            count = use.ended.get(ending.kind, 0)
            if count and (ending.kind != "lost" or ending.rung == use.epochs):
                _bar(right, row, start, count, mark.colour, mark.hatch)
                start += count
        planned = plan.iterations * batch_sizes * use.planned
        right.plot([planned] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2)
        if row and use.bracket != uses[row - 1].bracket:
            for axes in (left, right):
                axes.axhline(row - 0.5, color="0.85", linewidth=0.8)
    left.set_yticks(
        range(len(uses)), [f"bracket {use.bracket}, {epochs_text(use.epochs)}" for use in uses]
    )
    left.invert_yaxis()
    left.set(title="epochs spent", xlabel="epochs", ylabel="bracket, rung")
    right.set(title="trials", xlabel="trials sent there")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(axis="y", length=0)
        axes.title.set_fontsize(10)
    ended = [_patch(mark.colour, mark.hatch, mark.label) for mark in marks.values()]
    line = Line2D([], [], color="black", linewidth=2, label="sent there by the plan")
    legend_below(figure, [_patch(*_PROMOTED, "promoted"), *ended, line])
    return figure


def _bar(axes: Axes, row: int, start: float, length: float, colour: str, hatch: str) -> None:
    axes.barh(
        row, length, left=start, height=0.66, color=colour, edgecolor="white", hatch=hatch,
        linewidth=0.8,
    )  # fmt: skip


def _patch(colour: str, hatch: str, label: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="white", hatch=hatch, label=label)
