"""Draw the regret of contestants against the images that they have trained."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.league.scores import Array
from src.reporting.figures.style import OKABE_ITO, save, styled

_COLOURS = [OKABE_ITO[i] for i in (0, 1, 2, 3, 4, 5)]

_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))

_LEAST = 0.0005
"""Regret below which the axis is linear."""

_TICKS = (0, _LEAST, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


@styled()
def draw_regret(path: Path, title: str, images: Array, regrets: Mapping[str, Array]) -> None:
    """Draw each contestant's median.

    Args:
        path: PNG file.
        title: what was searched, and by how many workers.
        images: spent by all workers, (N,).
        regrets: by contestant: of its searches, (searches, N).
    """
    rows = (len(regrets) + 1) // 2
    medians = {name: np.median(regret, axis=0) for name, regret in regrets.items()}
    highest = max(median[np.isfinite(median)].max(initial=0) for median in medians.values())
    figure = Figure(figsize=(4.6, 3.1 + 0.22 * rows), layout="constrained")
    axes = figure.subplots()
    for i, (name, median) in enumerate(medians.items()):
        is_ours = name.startswith("ours")
        axes.plot(
            images,
            median,
            label=name,
            color=_COLOURS[i % len(_COLOURS)],
            linestyle=_STYLES[i // len(_COLOURS) % len(_STYLES)],
            drawstyle="steps-post",
            linewidth=2.4 if is_ours else 1.3,
            zorder=3 if is_ours else 2,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("symlog", linthresh=_LEAST, linscale=0.3)
    axes.set_yticks(_TICKS)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(-_LEAST / 2, next(tick for tick in _TICKS if tick >= highest))
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_xlabel("images trained, thousands")
    axes.set_ylabel("median regret")
    axes.set_title(title, loc="left", fontsize=10)
    figure.legend(
        loc="outside lower left",
        ncols=2,
        fontsize=8,
        frameon=False,
        columnspacing=1,
        handlelength=2,
    )
    save(figure, path)
