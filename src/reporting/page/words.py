"""How a report names things and writes figures."""

from typing import Any

from matplotlib.figure import Figure

from src.data.catalog import find_entry
from src.reporting import figures
from src.reporting.findings import Findings, Search
from src.reporting.page.blocks import Picture


def title_of(findings: Findings) -> str:
    """Return what the data set is called, and that it is a subset where it is one."""
    entry = find_entry(findings.dataset)
    name = entry.title if entry else findings.dataset
    return f"{name} subset" if is_subset(findings.dataset, findings.search) else name


def is_subset(dataset: str, search: Search | None) -> bool:
    """Return whether the search had other images than the official training files have."""
    official = official_images(dataset)
    return search is not None and official is not None and sum(search.images.values()) != official


def official_images(dataset: str) -> int | None:
    """Return how many images the official training files have, where that is known."""
    entry = find_entry(dataset)
    return entry.training_images if entry else None


def accuracy_text(value: float | None, images: int) -> str:
    """Return an accuracy with the digits that so many images can tell apart."""
    return "–" if value is None else f"{value:.{4 if images < 10_000 else 5}f}"


def validated(search: Search | None) -> int:
    """Return how many images validated; 0 where that is not known."""
    return search.images["validation"] if search is not None else 0


def value_text(value: object) -> str:
    """Write a hyperparameter."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def duration_text(seconds: float) -> str:
    """Write seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent_text(share: float, digits: int) -> str:
    """Write a share."""
    return f"{100 * share:.{digits}f} %"


def signed_text(difference: float) -> str:
    """Write a difference of accuracies."""
    return f"{difference:+.5f}".replace("-", "−")


def plural(number: int, noun: str) -> str:
    """Write a count of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def configuration(hyperparameters: dict[str, Any]) -> str:
    """Write hyperparameters in one line."""
    return ", ".join(
        f"{figures.words(name)} {value_text(value)}" for name, value in hyperparameters.items()
    )


def picture(name: str, figure: Figure, alt: str, caption: str) -> Picture:
    """Make a picture for the page."""
    return Picture(name, figures.to_png(figure), alt, caption, figures.PAGE_SCALE)
