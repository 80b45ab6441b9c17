"""Build dataclasses of what was read from a file, and name the file where they do not fit."""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from src.core.errors import UserError

_Record = TypeVar("_Record")

_COUNT_AT_MOST = 2**31


def build(kind: type[_Record], values: Any) -> _Record:
    """Build a dataclass of values that have the types of its fields.

    Raises:
        TypeError: the values are none such, or lack one, or have another.
    """
    if not isinstance(values, dict):
        raise TypeError(f"what should be {kind.__name__} is {str(values)[:60]}")
    types = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, types.get(name, Any)):
            raise TypeError(f"its {name} (={str(value)[:60]}) is no {types[name]}")
    return kind(**values)


def pick(kind: type[_Record], values: Any) -> _Record:
    """Build a dataclass, and those in its fields, from a JSON object that may have other keys too.

    Raises:
        TypeError: the object lacks a field, or one has another type.
    """
    if not isinstance(values, dict):
        raise TypeError(f"what should be {kind.__name__} is {str(values)[:60]}")
    types = get_type_hints(kind)
    return build(
        kind, {name: _convert(values[name], types[name]) for name in types if name in values}
    )


def _convert(value: Any, kind: Any) -> Any:
    """Turn JSON's objects and lists into the dataclasses and tuples of a field's type."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        (one,) = (option for option in inner if option is not type(None))
        return None if value is None else _convert(value, one)
    if is_dataclass(kind):
        return pick(kind, value)  # type: ignore[arg-type]  # a type of which is_dataclass is true
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_convert(one, inner[0]) for one in value)
    return value


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value is of a type such as `dict[str, int | None]`; no bool is an int."""
    outer, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if outer is UnionType:
        return any(_fits(value, one) for one in inner)
    if outer is Literal:
        return type(value) is str and value in inner
    if kind is float:
        return type(value) in (int, float)
    if isinstance(value, dict) and outer is dict:
        return all(_fits(key, inner[0]) and _fits(one, inner[1]) for key, one in value.items())
    if isinstance(value, tuple) and outer is tuple and inner[-1] is not ...:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if isinstance(value, (list, tuple)) and outer is type(value):
        return all(_fits(one, inner[0]) for one in value)
    return type(value) is kind


def parse_json(content: str | bytes) -> dict[str, Any]:
    """Parse a JSON object whose numbers are all finite.

    Raises:
        ValueError: it is no JSON, or holds NaN or infinity.
        TypeError: it is no object.
    """

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no number")
        return value

    found = json.loads(content, parse_constant=finite, parse_float=finite)
    if not isinstance(found, dict):
        raise TypeError("it holds no JSON object")
    return found


def check_count(value: int) -> int:
    """Return a number of epochs, trials or images, if it can be one."""
    if not 0 <= value <= _COUNT_AT_MOST:
        raise ValueError(f"{value} is no count")
    return value


def check_share(value: float | None) -> float:
    """Return an accuracy, if it is within 0…1."""
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"{value} is no accuracy")
    return value


def check_seconds(value: float) -> float:
    """Return a duration, if it is one."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no number of seconds")
    return value


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in the error when its content makes no sense.

    Raises:
        UserError: what was read within the block raised an error about its content.
    """
    try:
        yield
    except KeyError as error:
        refuse(path, f"it has no {error}")
    except (
        *(ArithmeticError, AttributeError, IndexError, RecursionError, TypeError, ValueError),
        *(UserError, csv.Error),
    ) as error:
        refuse(path, error)


def refuse(path: Path, cause: object) -> NoReturn:
    """Raise the error of a file that a command has written and can write again."""
    raise UserError(
        f"{path} is damaged, or of another version ({str(cause)[:160]}); restore it, or delete it, "
        "and the command that wrote it writes it anew"
    )
