"""Draw records with Matplotlib, without PyTorch or Optuna."""

from src.core.metrics import Mistake
from src.reporting.figures.finalists import finalists_figure
from src.reporting.figures.hyperparameters import (
    batch_sizes_figure,
    importance_figure,
    parallel_figure,
    slices_figure,
)
from src.reporting.figures.marks import epochs_text, words
from src.reporting.figures.model import (
    confusion_figure,
    curves_figure,
    draw_best,
    draw_confusion,
    draw_mistakes,
    mistakes_figure,
    reading_figures,
)
from src.reporting.figures.progress import (
    budget_figure,
    history_figure,
    learning_figure,
    promotions_figure,
)
from src.reporting.figures.rematch import rematch_figure
from src.reporting.figures.rungs import draw_rungs
from src.reporting.figures.size import size_figure
from src.reporting.figures.style import PAGE_SCALE, save, to_png

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
    "epochs_text",
    "finalists_figure",
    "history_figure",
    "importance_figure",
    "learning_figure",
    "mistakes_figure",
    "parallel_figure",
    "promotions_figure",
    "reading_figures",
    "rematch_figure",
    "save",
    "size_figure",
    "slices_figure",
    "to_png",
    "words",
]
