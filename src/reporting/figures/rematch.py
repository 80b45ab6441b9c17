"""Draw what was published at each batch size beside both configurations trained again."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from src.reporting.figures.marks import legend_below, plain_accuracy_axis
from src.reporting.figures.style import OKABE_ITO, WIDTH, styled
from src.reporting.rematch import Match

_ASIDE = 0.17
"""How far marks of one batch size lie apart; batch sizes are 1 apart."""


@styled()
def rematch_figure(matches: Sequence[Match]) -> Figure:
    """Draw each batch size's published accuracy, and the means with their 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(matches))
    handles = axes.plot(
        [place - _ASIDE for place in places], [match.told for match in matches], "D",
        color=OKABE_ITO[5], markerfacecolor="none", markersize=6, markeredgewidth=1.4,
        label="published: the highest of its trials",
    )  # fmt: skip
    sides = [(match.published.spread, match.ours.spread) for match in matches]
    for i, (mark, colour, label) in enumerate(
        (
            ("s", OKABE_ITO[1], "published configuration, trained again"),
            ("o", OKABE_ITO[0], "ours, trained again"),
        )
    ):
        spreads = [side[i] for side in sides]
        means = [one.mean for one in spreads]
        handles += axes.plot(
            [place + i * _ASIDE for place in places], means, mark, color=colour, markersize=6,
            label=f"{label}: mean, 95 % interval",
        )  # fmt: skip
        for place, one in zip(places, spreads, strict=True):
            axes.plot([place + i * _ASIDE] * 2, [one.low, one.high], color=colour, linewidth=1.3)
    axes.set_xticks(places, [str(match.batch_size) for match in matches])
    axes.set_xlim(-0.6, len(matches) - 0.4)
    axes.set(xlabel="batch size (images an optimizer step)", ylabel="validation accuracy")
    plain_accuracy_axis(axes, "y")
    legend_below(figure, handles, columns=2)
    return figure
