"""Checks of what a user gives: each raises `UserError` with the name and the value."""

import re
from pathlib import Path

from src.core.errors import UserError

_DURATION_AT_MOST = 366 * 24 * 3600.0


def parse_duration(duration: str | float) -> float:
    """Return the seconds that a duration such as 90, 90s, 10m, 1.5h or 1h30m stands for."""
    text = str(duration)
    number = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip())
    hours, minutes, seconds = map(float, parts.groups("0")) if parts else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not 0 < total <= _DURATION_AT_MOST:
        text = text if len(text) < 50 else f"{text[:50]}…"
        raise UserError(
            f"`timeout` (={text}) must be a duration above 0 and up to a year, such as 90s, "
            "10m or 2h"
        )
    return total


def within(name: str, value: int, least: int, most: int = 2**31 - 1) -> None:
    """Refuse a whole number outside of `least` … `most`, both included."""
    if value.bit_length() > 64:  # Python refuses to print what has thousands of digits
        raise UserError(f"`{name}` has too many digits; it must be <= {most}")
    if not least <= value <= most:
        bound = f">= {least}" if value < least else f"<= {most}"
        raise UserError(f"`{name}` (={value}) must be {bound}")


def share(name: str, value: float) -> None:
    """Refuse a number that is not in [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"`{name}` (={value}) must be >= 0 and < 1")


def absolute_path(name: str, path: Path) -> Path:
    """Return a path that is the same from every folder, with `~` for the home folder expanded.

    Raises:
        UserError: no file or folder can be called so, or there is no such home folder.
    """
    if "\0" in str(path):
        raise UserError(f"`{name}` (={str(path)!r}) holds a character that no path has")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"`{name}` (={path}): there is no such home folder") from error
