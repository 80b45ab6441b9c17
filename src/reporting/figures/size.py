"""Draw accuracy against the number of parameters: what a larger network gains."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from src.reporting.analysis import accuracy_of
from src.reporting.figures.marks import BEST, legend_below, plain_accuracy_axis
from src.reporting.figures.style import OKABE_ITO, WIDTH, styled
from src.results.records import Finalist, TrialRecord


@styled()
def size_figure(
    trials: Sequence[TrialRecord], finalists: Sequence[Finalist], smallest: int | None, classes: int
) -> Figure:
    """Draw the finished trials, and above them the finalists' means with their intervals.

    Args:
        trials: that have finished.
        finalists: of the finals, if there were any.
        smallest: the rank of the smallest one within one standard error of the best mean.
        classes: how many the network tells apart.
    """
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    sizes = [trial.hyperparameters.count_parameters(classes) for trial in trials]
    handles = axes.plot(
        sizes, list(map(accuracy_of, trials)), "o", color="0.55",
        markerfacecolor="none", markersize=4.5, label="a finished trial, as the search had it",
    )  # fmt: skip
    for one in finalists:
        size = one.hyperparameters.count_parameters(classes)
        if one.ci95 is not None:
            axes.plot([size] * 2, one.ci95, color=OKABE_ITO[0], linewidth=1.5)
        mean = axes.plot(
            size, one.mean, "o", color=OKABE_ITO[0], markersize=7,
            label="a finalist: mean over seeds, 95 % interval",
        )  # fmt: skip
        handles += mean if one.rank == 1 else []
        if one.rank == smallest:
            handles += axes.plot(
                size, one.mean, "s", color=BEST, markerfacecolor="none", markersize=13,
                markeredgewidth=1.6, label="the smallest within one standard error of the best",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters of the network")
    axes.set_ylabel("validation accuracy")
    plain_accuracy_axis(axes, "y")
    legend_below(figure, handles)
    return figure
