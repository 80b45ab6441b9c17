"""Draw the finalists: accuracy of each seed, mean, and the search's own figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.reporting.figures.marks import legend_below, plain_accuracy_axis
from src.reporting.figures.style import OKABE_ITO, WIDTH, styled
from src.results.records import Finalist


@styled()
def finalists_figure(names: Sequence[str], finalists: Sequence[Finalist]) -> Figure:
    """Draw each finalist's accuracies in a row of its own, the winner on top."""
    figure = Figure(figsize=(WIDTH, 1.5 + 0.5 * len(finalists)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(finalists))
    for row, one in zip(rows, finalists, strict=True):
        seeds = axes.plot(
            one.val_accuracies, [row + 0.16] * len(one.val_accuracies), "o", color="0.35",
            markerfacecolor="none", markersize=5.5, label="one seed",
        )  # fmt: skip
        if one.ci95 is not None:
            axes.plot(one.ci95, [row] * 2, color=OKABE_ITO[0], linewidth=1.8)
        mean = axes.plot(
            one.mean, row, "o", color=OKABE_ITO[0], markersize=8, label="mean, with 95 % interval"
        )
        search = axes.plot(
            one.search_val_accuracy, row, "D", color=OKABE_ITO[5], markerfacecolor="none",
            markersize=7, markeredgewidth=1.6, label="in the search",
        )  # fmt: skip
    axes.set_yticks(rows, names)
    axes.set_ylim(len(finalists) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    plain_accuracy_axis(axes, "x")
    axes.set_xlabel("validation accuracy")
    legend_below(figure, [*seeds, *mean, *search])
    return figure
