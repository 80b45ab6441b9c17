"""What a user can set, checked at construction: the entry points' options are these fields."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from jsonargparse.typing import SecretStr

from src.core import checks
from src.core.errors import UserError
from src.data.catalog import Dataset, DataSpec
from src.search.hyperband import make_plan
from src.search.spec import CurvesLevel, Sampler
from src.training.device import Device, Precision
from src.training.hyperparameters import RECIPE, Augmentation, Hyperparameters
from src.training.schedule import Schedule
from src.workers.launch import LauncherName

_Part = TypeVar("_Part")

_Choice = TypeVar("_Choice")

_TRIALS_AT_MOST = 1_000_000

_SEEDS_AT_LEAST = 2


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a command finds: folders, and what computes."""

    device: Device = "auto"
    """What computes; auto takes CUDA where there is one."""
    data_dir: Path = Path("data")
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: Path = Path("results")
    """Folder for results: one folder in it for each data set."""
    log_dir: Path = Path("lightning_logs")
    """Folder for TensorBoard."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(Surroundings, DataSpec):
    """What `tune` and `train` share."""

    max_epochs: int = 30
    """Full budget of one fit (Hyperband's R), in epochs."""
    precision: Precision = "auto"
    """Arithmetic of the layers; auto takes bf16 where the processor or GPU computes it natively."""

    def __post_init__(self) -> None:
        DataSpec.__post_init__(self)
        checks.within("max_epochs", self.max_epochs, 1)

    @property
    def data_spec(self) -> DataSpec:
        """The part that decides which images train and which validate."""
        return _part(self, DataSpec)


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Who trains trials, where their studies are, and what is shown of them."""

    workers: int | Literal["auto"] = "auto"
    """Trials trained at once, each in a process of its own, on CPU in one thread; auto: as many as
    there are CPU cores to use, and one on CUDA."""
    launcher: LauncherName = "local"
    """Where the workers are: on this machine, or spread over a Ray cluster (an extra: ray)."""
    gpus_per_worker: float = 1.0
    """With --launcher ray on CUDA: the share of a GPU that a worker takes, such as 0.25."""
    storage: SecretStr | None = None
    """URL of a PostgreSQL database (an extra: postgresql) that holds the studies instead of the
    results folder, such as postgresql+psycopg://user@host/database: the same command on any number
    of machines joins the search."""
    heartbeat: int = 15
    """With --storage: seconds between two signs of life of a trial. One whose machine has been
    silent for five times as long is tried again by another."""
    timeout: str | float | None = None
    """Stop after this long, such as 90s, 10m or 2h; the same command goes on later."""
    tensorboard: CurvesLevel = "auto"
    """Whose curves TensorBoard gets: those of all trials, while they train; of each that is the
    best so far, when it ends, and of the others the result, if there are up to 1,000; or nothing.
    A few hundred are as many as TensorBoard shows well: auto is all for up to 300 trials, and best
    for more."""

    def __post_init__(self) -> None:
        if self.workers != "auto":
            checks.within("workers", self.workers, 1)
        checks.within("heartbeat", self.heartbeat, 1)
        if not 0 < self.gpus_per_worker <= 1:
            raise UserError(f"`gpus_per_worker` (={self.gpus_per_worker}) must be above 0, up to 1")
        if self.timeout is not None:
            checks.parse_duration(self.timeout)


@dataclass(frozen=True, kw_only=True)
class TuneConfig(WorkersConfig, FitConfig):
    """A Hyperband search, once for each batch size."""

    batch_sizes: tuple[int, ...] = (64,)
    """Batch sizes to search, one study each, such as "[64,208]"."""
    reduction_factor: int = 2
    """Hyperband's η: of the trials on a rung, one in this many is promoted."""
    iterations: int = 1
    """Hyperband iterations for each batch size, in all; more than were run before adds to them."""
    schedule: Schedule | tuple[Schedule, ...] = "constant"
    """How the learning rate goes over a trial's epochs: constant, one_cycle or cosine. Of several,
    such as "[constant,one_cycle]", the search chooses one for each trial."""
    label_smoothing: float | tuple[float, ...] = 0.0
    """Share of every label that is spread over all classes in training, or several to choose
    from."""
    augmentation: Augmentation | tuple[Augmentation, ...] = "none"
    """How training images are distorted: none, affine, elastic or affine_elastic, or several to
    choose from."""
    weight_averaging: bool | tuple[bool, ...] = False
    """Whether the average of the weights over about the last epoch is what counts: true, false, or
    "[true,false]" to choose from."""
    sampler: Sampler = "tpe"
    """How configurations are proposed: Tree-structured Parzen Estimator, or uniformly at random."""
    patience: int | None = 3
    """Stop a trial after this many epochs without a better validation accuracy; null: never."""
    finalists: int = 0
    """When the search is over, train this many of the best configurations again with several
    seeds, and choose the winner by their means; 0: the best trial wins."""
    seeds: int = 5
    """How often each finalist is trained, with --finalists."""

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        WorkersConfig.__post_init__(self)
        if not self.batch_sizes:
            raise UserError("`batch_sizes` (=[]) must name at least one, such as [64,208]")
        for batch_size in self.batch_sizes:
            checks.within("batch_sizes", batch_size, 1)
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise UserError(f"`batch_sizes` (={list(self.batch_sizes)}) names one twice")
        checks.within("reduction_factor", self.reduction_factor, 2)
        checks.within("iterations", self.iterations, 1)
        trials = make_plan(self.max_epochs, self.reduction_factor, self.iterations).trials
        if trials > _TRIALS_AT_MOST:
            raise UserError(
                f"`max_epochs` (={self.max_epochs}) with `reduction_factor` "
                f"(={self.reduction_factor}) and `iterations` (={self.iterations}) plan {trials:,} "
                f"trials for each batch size; {_TRIALS_AT_MOST:,} are the most"
            )
        for name, choices in self.recipe_choices.items():
            if not choices or len(set(choices)) < len(choices):
                raise UserError(f"`{name}` (={list(choices)}) must name at least one, each once")
        for share in self.recipe_choices["label_smoothing"]:
            checks.share("label_smoothing", share)
        if self.patience is not None:
            checks.within("patience", self.patience, 1)
        if self.finalists:
            checks.within("finalists", self.finalists, 1)
        checks.within("seeds", self.seeds, _SEEDS_AT_LEAST)

    @property
    def recipe_choices(self) -> dict[str, tuple[Any, ...]]:
        """What the search chooses the recipe of a trial from: one value or more of each option."""
        return {name: _choices(getattr(self, name)) for name in RECIPE}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig, Hyperparameters):
    """One configuration, fitted once, for all its epochs."""

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        Hyperparameters.__post_init__(self)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The configuration to fit."""
        return _part(self, Hyperparameters)


@dataclass(frozen=True, kw_only=True)
class FinalsConfig(WorkersConfig, Surroundings):
    """The best configurations of a search, trained again with several seeds."""

    dataset: Dataset
    """Data set of the search."""
    finalists: int = 3
    """How many configurations, the best over all batch sizes."""
    seeds: int = 5
    """How often each is trained."""

    def __post_init__(self) -> None:
        WorkersConfig.__post_init__(self)
        checks.within("finalists", self.finalists, 1)
        checks.within("seeds", self.seeds, _SEEDS_AT_LEAST)


def _choices(value: _Choice | tuple[_Choice, ...]) -> tuple[_Choice, ...]:
    return value if isinstance(value, tuple) else (value,)


def _part(config: object, part: type[_Part]) -> _Part:
    """Return the dataclass that `config` extends, without what `config` adds to it."""
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(part)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    return part(**values)
