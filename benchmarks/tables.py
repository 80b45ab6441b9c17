"""Tables of what was measured."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table


def print_rows(name: str, report: dict[str, Any]) -> None:
    """Print a report's rows as a table, and what it says beside them."""
    console = Console(width=150)
    rows: list[dict[str, Any]] = report["rows"]
    console.rule(name)
    for line in report.get("notes", []):
        console.print(line, highlight=False, markup=False)
    if not rows:
        return
    columns = [key for key, value in rows[0].items() if not isinstance(value, list | dict)]
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
