"""Records → pictures; no torch, no Optuna."""

from src.figures.model import (
    Mistake,
    confusion_figure,
    curves_figure,
    draw_best,
    draw_confusion,
    draw_mistakes,
    mistakes_figure,
)
from src.figures.rungs import draw_rungs
from src.figures.search import (
    batch_sizes_figure,
    budget_figure,
    history_figure,
    importance_figure,
    learning_figure,
    parallel_figure,
    slices_figure,
)
from src.figures.style import PAGE_SCALE, save, to_png

__all__ = [
    "PAGE_SCALE",
    "Mistake",
    "batch_sizes_figure",
    "budget_figure",
    "confusion_figure",
    "curves_figure",
    "draw_best",
    "draw_confusion",
    "draw_mistakes",
    "draw_rungs",
    "history_figure",
    "importance_figure",
    "learning_figure",
    "mistakes_figure",
    "parallel_figure",
    "save",
    "slices_figure",
    "to_png",
]
