"""Tables of what was measured."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 150


def print_rows(name: str, report: Mapping[str, Any]) -> None:
    """Print a report's rows as a table, and what it says beside them."""
    print_notes(name, report)
    print_table(report["rows"])


def print_notes(name: str, report: Mapping[str, Any]) -> None:
    """Print what a report says beside its rows."""
    console = Console(width=_WIDTH)
    console.rule(name)
    for line in report.get("notes", []):
        console.print(line, highlight=False, markup=False)


def print_table(
    rows: Sequence[Mapping[str, Any]], title: str | None = None, leave_out: Collection[str] = ()
) -> None:
    """Print rows, but for columns that are left out or empty, and for lists.

    An interval, in parentheses, has a line of its own.
    """
    if not rows:
        return
    columns = {
        key: [_cell(row.get(key)) for row in rows]
        for key, value in rows[0].items()
        if key not in leave_out and not isinstance(value, list | dict)
        if any(row.get(key) is not None for row in rows)
    }
    table = Table(title=title)
    for name, cells in columns.items():
        widest = max(len(line) for cell in cells for line in cell.split("\n"))
        header = textwrap.fill(name, max(widest, 4), break_long_words=False)
        table.add_column(header, overflow="fold")
    for row_cells in zip(*columns.values(), strict=True):
        table.add_row(*row_cells)
    Console(width=_WIDTH).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    shown = f"{value:,}" if isinstance(value, int | float) else str(value)
    return shown.replace(" (", "\n(")
