"""Colours, markers and axes that all pictures of trials share: the more epochs, the darker."""

from collections.abc import Sequence
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from src.reporting.analysis import Ending, endings
from src.reporting.figures.style import OKABE_ITO
from src.results.records import TrialRecord
from src.search.hyperband import Plan

_MARKERS = "vs^DP<h>p8"

_HATCHES = ("", "///", "...", "\\\\\\", "xx", "oo", "--", "**")

BEST = OKABE_ITO[5]

DARKEST, _LIGHTER = "#3b0f5c", "#7b55a8"
"""Of trials that trained to their end: all epochs, or until none was better."""

_LOW_ERROR = 1e-4
"""A logarithmic axis has no zero: a smaller error is drawn as this one."""

ERROR_TICKS = [
    *(0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002),
    *(0.001, 0.0005, 0.0002, 0.0001),
]
"""Validation errors that an axis of accuracies has ticks at."""

FOLLOWED = 60
"""Most trials that the eye can tell apart in one panel."""


def rung_epochs(plan: Plan) -> list[float]:
    """Return the epochs of all rungs, the full budget last."""
    return sorted({rung.epochs for bracket in plan.brackets for rung in bracket.rungs})


def epochs_text(epochs: float) -> str:
    """Format epochs: a whole number, or a share of the first with three decimals at most."""
    return f"{round(epochs, 3):.12g}"


def rung_fill(rung: float, plan: Plan) -> tuple[str, str]:
    """Return the fill colour and the hatching of a rung: the higher, the darker."""
    rungs = rung_epochs(plan)
    i = rungs.index(rung)
    hatch = _HATCHES[(len(rungs) - 1 - i) % len(_HATCHES)]
    if rung == plan.max_epochs:
        return DARKEST, hatch
    shade = 0.82 - 0.5 * i / max(len(rungs) - 2, 1)
    return to_hex(matplotlib.colormaps["viridis"](shade)), hatch


class Mark:
    """Colour, marker, hatching and label of the trials with the same ending."""

    def __init__(self, ending: Ending, plan: Plan) -> None:
        rungs = rung_epochs(plan)
        self.filled = True
        self.hatch = "++"
        if ending.kind == "lost" and ending.rung in rungs:
            self.colour, self.hatch = rung_fill(ending.rung, plan)
            self.marker = _MARKERS[rungs.index(ending.rung) % len(_MARKERS)]
            self.label = f"stopped at epoch {epochs_text(ending.rung)}"
        else:
            self.colour, self.marker, self.label = {
                "lost": ("0.6", "1", f"stopped at epoch {epochs_text(ending.rung)}"),
                "finished": (DARKEST, "o", f"trained all {plan.max_epochs} epochs"),
                "early": (_LIGHTER, "o", "no better epoch: stopped early"),
                "diverged": (OKABE_ITO[3], "x", "diverged"),
                "failed": ("0.5", "+", "failed"),
            }[ending.kind]
            self.filled = ending.kind == "finished"
            if self.filled:
                _, self.hatch = rung_fill(plan.max_epochs, plan)

    def handle(self, line: bool = False) -> Line2D:
        """Make its entry in a legend."""
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


def marks_of(trials: Sequence[TrialRecord], plan: Plan) -> dict[Ending, Mark]:
    """Map each ending that occurs to its mark, in the order of `endings`."""
    return {ending: Mark(ending, plan) for ending in endings(trials, plan)}


def marker_size(trials: Sequence[TrialRecord]) -> float:
    """Choose the marker size in points: the more trials, the smaller."""
    return 6.0 if len(trials) <= 60 else 4.5 if len(trials) <= 300 else 3.2


def error_of(accuracy: float) -> float:
    """Return 1 - accuracy, kept above 0 for a logarithmic axis."""
    return max(1 - accuracy, _LOW_ERROR)


def accuracy_axis(axes: Axes, label: str = "validation accuracy") -> None:
    """Make the y axis logarithmic in the error and label it in accuracies, the best at the top."""
    axes.set_yscale("log")
    low, high = sorted(axes.get_ylim())
    axes.set_ylim(min(high, 1.0), low)
    ticks = [error for error in ERROR_TICKS if low <= error <= high]
    if len(ticks) > 9:
        ticks = [e for e in ticks if f"{e:.0e}"[0] in "1259"]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.6g} %"))
    axes.set_ylabel(label)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def plain_accuracy_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Format a linear axis of accuracies in per cent, with grid lines."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda accuracy, _: f"{100 * accuracy:.6g} %"))
    axes.grid(axis=which, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch], columns: int = 3) -> None:
    """Draw a legend under the whole picture, in so many columns or as many as have room."""
    for ncols in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=ncols,
            frameon=False, fontsize=9,
        )  # fmt: skip
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def words(name: str) -> str:
    """Return a hyperparameter's name as one writes it."""
    return name.replace("_", " ")
