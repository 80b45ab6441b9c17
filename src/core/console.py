"""The terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from src.core.files import shorten_paths


def open_console() -> Console:
    """Open standard output, wide enough for a table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def live_progress(console: Console) -> Progress:
    """Make a live display with bars; without a terminal it only prints."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
    )


def say(console: Console, text: str) -> None:
    """Print text as it is, however long its lines are, with short paths."""
    console.print(shorten_paths(text), highlight=False, markup=False, soft_wrap=True)


def plural(number: int, noun: str) -> str:
    """Write a count of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
