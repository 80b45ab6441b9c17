"""Draw one study's learning curves, coloured by bracket."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from src.reporting.figures.marks import epochs_text, rung_epochs
from src.reporting.figures.style import OKABE_ITO, save, styled
from src.results.records import TrialRecord
from src.search.hyperband import Plan


@styled()
def draw_rungs(path: Path, title: str, trials: Sequence[TrialRecord], plan: Plan) -> None:
    """Write the picture of every trial's learning curve with the rungs as grey lines."""
    colours = {bracket.s: OKABE_ITO[i % len(OKABE_ITO)] for i, bracket in enumerate(plan.brackets)}
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots()
    for trial in trials:
        if not trial.history or trial.state == "FAIL":
            continue
        finished = trial.state == "COMPLETE"
        colour = colours[trial.bracket]
        epochs = [epoch.epoch for epoch in trial.history]
        # A logarithmic axis has no zero: a perfect epoch is drawn at the bottom.
        errors = [max(1 - epoch.val_accuracy, 1e-4) for epoch in trial.history]
        axes.plot(epochs, errors, color=colour, linewidth=1.6, alpha=0.9 if finished else 0.45)
        axes.plot(
            epochs[-1:], errors[-1:], color=colour, marker="o" if finished else "x",
            markersize=7, markeredgewidth=1.8, linestyle="none",
        )  # fmt: skip
    rungs = rung_epochs(plan)
    for rung in rungs:
        axes.axvline(rung, color="0.85", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="epochs trained (grey lines: rungs)", ylabel="validation error")
    axes.set_xticks(rungs, list(map(epochs_text, rungs)))
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
    save(figure, path)


def _describe_bracket(s: int) -> str:
    cuts = {0: "no cut", 1: "one cut"}.get(s, f"{s} cuts")
    return f"bracket {s}: {cuts}"
