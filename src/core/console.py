"""Print to the terminal, however narrow it is: text, tables of figures, live bars."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from src.core.files import shorten_paths

_ROOM_FOR_BARS = 80
"""Columns of a terminal that shows bars beside their text."""

_TIGHT = "\0"
"""Stands for a space that no new line may replace."""


def open_console() -> Console:
    """Open standard output, wide enough for a table where it is no terminal."""
    console = Console()
    if not console.is_terminal:
        return Console(width=120)
    if console.is_dumb_terminal:  # of which Rich assumes 80 columns
        width, height = shutil.get_terminal_size()
        return Console(width=width, height=height)
    return console


def live_progress(console: Console) -> Progress:
    """Make a live display with bars; without a terminal it only prints."""
    description, status = "{task.description}", "{task.fields[status]}"
    columns: list[ProgressColumn] = [
        TextColumn(description),
        BarColumn(None),
        TaskProgressColumn(),
        TimeElapsedColumn(Column(no_wrap=True)),
        TextColumn(status),
    ]
    if console.width < _ROOM_FOR_BARS:
        text = f"{description} {{task.percentage:.0f}}% {status}"
        columns = [TextColumn(text, table_column=Column(no_wrap=False))]
    return Progress(*columns, console=console, disable=not console.is_terminal)


def say(console: Console, text: str) -> None:
    """Print text with short paths; what is too long for a terminal goes on in an indented line.

    Lines that begin with a space, such as commands to copy, stay whole.
    """
    for line in shorten_paths(text).split("\n"):
        whole = line.startswith(" ") or not console.is_terminal
        _print(console, line if whole else _wrap(line, console.width))


def together(*words: str) -> str:
    """Join words between which `say` begins no new line, such as a number and its unit."""
    return " ".join(words).replace(" ", _TIGHT)


def _print(console: Console, text: str) -> None:
    text = text.replace(_TIGHT, " ")
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _wrap(text: str, width: int) -> str:
    lines = textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


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
        pairs = [together(*pair) for pair in zip(columns, row, strict=True) if pair[1]]
        _print(console, _wrap(", ".join(pairs), console.width))


def plural(number: int, noun: str) -> str:
    """Write a count of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
