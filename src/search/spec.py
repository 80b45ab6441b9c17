"""What a search is begun with: a change of any of it would make its trials incomparable."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from src.data.catalog import DataSpec
from src.search.hyperband import make_plan
from src.search.promotion import Promotion
from src.training.hyperparameters import RECIPE, Hyperparameters

Sampler = Literal["gp", "tpe", "random"]
Choices = Mapping[str, Sequence[Any]]
"""Of each option of the recipe, the values that a trial chooses from: one, or more."""


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What all trials of a search have in common, as each of its studies records it."""

    data: DataSpec
    max_epochs: int
    """Full budget of one trial (Hyperband's R), in epochs."""
    reduction_factor: int
    """Hyperband's η."""
    min_epochs: float = 1.0
    """The lowest rung's epochs, at least."""
    brackets: int | None = None
    """How many brackets of an iteration are run, those with the most trials; None: all."""
    promotion: Promotion = "stopping"
    """How rungs decide which trials go on."""
    sampler: Sampler
    """How configurations are proposed."""
    cost_exponent: float = 0.0
    """By what power of a network's arithmetic the gp sampler divides expected improvement."""
    patience: int | None
    """Epochs without a better validation accuracy after which a trial stops; None: never."""
    precision: Literal["32", "bf16"]
    """Arithmetic of the layers."""
    recipe: Choices
    search_space: dict[str, list[float]]
    """The ranges of the published hyperparameters; see `space.describe`."""
    split_hash: str
    """SHA-256 over the split; see `TrainingData`."""

    @property
    def parts(self) -> int:
        """Parts of an epoch, in which its studies count the steps of a trial."""
        factor, least = self.reduction_factor, self.min_epochs
        return make_plan(self.max_epochs, factor, min_epochs=least).parts

    def to_settings(self) -> dict[str, Any]:
        """Return it as plain values under the keys that studies have recorded from the first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        data, recipe, split_hash = (values.pop(name) for name in ("data", "recipe", "split_hash"))
        return {
            **asdict(data),
            **values,
            **{name: list(choices) for name, choices in recipe.items()},
            "split_hash": split_hash,  # last, as it differs where others do
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "SearchSpec":
        """Build it from what a study has recorded.

        A search of a version without recipes trained by the plain one.
        """
        plain = {name: [getattr(Hyperparameters, name)] for name in RECIPE}
        own = {field.name for field in fields(cls)} & settings.keys()
        return cls(
            data=DataSpec(**{field.name: settings[field.name] for field in fields(DataSpec)}),
            recipe={name: settings.get(name, choices) for name, choices in plain.items()},
            **{name: settings[name] for name in own},
        )
