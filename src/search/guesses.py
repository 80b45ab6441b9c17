"""Configurations, whole or in part, that a user wants tried first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from src.core.errors import UserError

Guess = Mapping[str, Any]
"""Values of some hyperparameters that are searched; the sampler proposes the others."""

_LENGTH_AT_MOST = 100_000


def read_guesses(text: str, searched: Mapping[str, BaseDistribution]) -> tuple[Guess, ...]:
    """Read what `--try` is given.

    Args:
        text: a mapping in YAML, such as "{conv1: 256, dropout_rate: 0.5}", a list of such, or the
            path of a file with either.
        searched: what a guess may name, and which values it may have.

    Raises:
        UserError: it is nothing of that kind, or a value could not be drawn.
    """
    where, content = f"`try` (={text[:100]})", text
    if not text.lstrip().startswith(("{", "[")):
        try:
            content = Path(text).expanduser().read_text(encoding="utf-8")[:_LENGTH_AT_MOST]
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{where} must be a mapping such as {{conv1: 256}}, a list of such, or a file with "
                "either"
            ) from error
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is no YAML") from error
    found = found if isinstance(found, list) else [found]
    if not found:
        raise UserError(f"{where} has no configuration")
    guesses = []
    for guess in found:
        if not isinstance(guess, dict) or not guess:
            raise UserError(f"{where} must name hyperparameters, such as {{conv1: 256}}")
        guesses.append({name: _number(value) for name, value in guess.items()})
        for name, value in guesses[-1].items():
            if name not in searched:
                raise UserError(
                    f"{where} names `{str(name)[:100]}`; searched are {', '.join(searched)}"
                )
            if not _could_be_drawn(searched[name], value):
                raise UserError(
                    f"{where} has `{name}` (={str(value)[:100]}), which must be "
                    f"{_words(searched[name])}"
                )
    return tuple(guesses)


def _number(value: object) -> object:
    """Return the number that a text is, such as 1e-3, which YAML takes for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _words(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    step = f" in steps of {distribution.step:g}" if distribution.step else ""
    return f"a number from {distribution.low:g} to {distribution.high:g}{step}"


def _could_be_drawn(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return distribution._contains(distribution.to_internal_repr(value))
