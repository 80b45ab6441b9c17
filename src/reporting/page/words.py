"""Format names, figures and hyperparameters for the report."""

from typing import Any

from matplotlib.figure import Figure

from src.data.catalog import find_entry
from src.reporting import figures
from src.reporting.findings import Findings, Search
from src.reporting.page.blocks import Picture

NO_BEST = "No trial has trained to its end yet, or best.json is missing, so this part is empty."


def title_of(findings: Findings) -> str:
    """Return the data set's name, with `subset` where not all official images were used."""
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
    """Format an accuracy with as many digits as the number of images resolves."""
    return "–" if value is None else f"{value:.{4 if images < 10_000 else 5}f}"


def validated(search: Search | None) -> int:
    """Return the number of validation images; 0 where it is not known."""
    return search.images["validation"] if search is not None else 0


def value_text(value: object) -> str:
    """Format the value of a hyperparameter."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def duration_text(seconds: float) -> str:
    """Format seconds as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent_text(share: float, digits: int) -> str:
    """Format a share in per cent."""
    return f"{100 * share:.{digits}f} %"


def signed_text(difference: float) -> str:
    """Format a difference of accuracies with its sign."""
    return f"{difference:+.5f}".replace("-", "−")


def number_text(number: float) -> str:
    """Format a number with three decimals at most."""
    return f"{round(number, 3):,.12g}"


def plural(number: float, noun: str) -> str:
    """Format a count with its noun."""
    return f"{number_text(number)} {noun}{'' if number == 1 else 's'}"


def configuration(hyperparameters: dict[str, Any]) -> str:
    """Format hyperparameters in one line."""
    return ", ".join(
        f"{figures.words(name)} {value_text(value)}" for name, value in hyperparameters.items()
    )


def picture(name: str, figure: Figure, alt: str, caption: str) -> Picture:
    """Render a figure as a picture of the page."""
    return Picture(name, figures.to_png(figure), alt, caption, figures.PAGE_SCALE)
