"""Dataclasses built of what was read from a file, if it has the types of their fields."""

from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_Record = TypeVar("_Record")


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
    if isinstance(value, (list, tuple)) and outer is type(value):
        return all(_fits(one, inner[0]) for one in value)
    return type(value) is kind
