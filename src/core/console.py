"""Print to the terminal, however narrow it is: text, tables of figures, live bars."""

import textwrap
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

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


def print_figures(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    justify: Literal["left", "right"] = "right",
) -> None:
    """Print a table of which no figure is ever cut.

    Where the terminal is too narrow for it, it has no lines and its headings are stacked; where
    that is too wide, too, each row is a paragraph of headings with their figures.
    """
    ruled = Table()
    bare = Table(box=None, collapse_padding=True, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, *cells in zip(columns, *rows, strict=True):
        ruled.add_column(heading, justify=justify, no_wrap=True)
        width = max(map(len, [*heading.split(), *cells]))
        stacked = "\n".join(textwrap.wrap(heading, width))
        bare.add_column(stacked, justify=justify, no_wrap=True)
    for row in rows:
        ruled.add_row(*row)
        bare.add_row(*row)
    if not rows:
        return
    if title:
        say(console, title)
    endless = console.options.update(max_width=2**16)
    for table in (ruled, bare):
        if console.measure(table, options=endless).maximum <= console.width:
            console.print(table)
            return
    for row in rows:
        # A space within a pair is no place to begin a new line.
        pairs = (
            f"{heading} {cell}".replace(" ", "\0")
            for heading, cell in zip(columns, row, strict=True)
        )
        lines = textwrap.wrap(
            ", ".join(pairs),
            console.width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        say(console, "\n".join(lines).replace("\0", " "))


def plural(number: int, noun: str) -> str:
    """Write a count of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
