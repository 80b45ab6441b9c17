"""What a user can set, checked at construction: the entry points' options are these fields."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from jsonargparse.typing import SecretStr

from src.errors import UserError
from src.hyperband import make_plan
from src.schedule import Schedule

Dataset = Literal[
    "mnist_5k",
    "mnist",
    "emnist_digits",
    "emnist_letters",
    "emnist_letters_digits",
    "emnist_balanced",
    "emnist_bymerge",
    "emnist_byclass",
]
Validation = Literal["stratified", "tail"]
Sampler = Literal["tpe", "random"]
Device = Literal["auto", "cpu", "cuda"]
CurvesLevel = Literal["auto", "all", "best", "none"]
Launcher = Literal["local", "ray"]
Precision = Literal["auto", "32", "bf16"]
Augmentation = Literal["none", "affine", "elastic", "affine_elastic"]

_Part = TypeVar("_Part")
_Choice = TypeVar("_Choice")

RECIPE = ("schedule", "label_smoothing", "augmentation", "weight_averaging")
"""What a configuration can have beyond the published search space."""

_UNITS_AT_MOST = 2048
_TRIALS_AT_MOST = 1_000_000
_SEEDS_AT_LEAST = 2


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """One configuration of the network and its training: what a trial tries."""

    conv1: int
    """Filters of the first convolution."""
    conv2: int
    """Filters of the second convolution."""
    dense_units: int
    """Units of the hidden dense layer."""
    dropout_rate: float
    """Share of the hidden dense layer's outputs dropped in training, 0 or more and below 1."""
    learning_rate: float
    """Adam's step size; with a schedule, the highest."""
    batch_size: int
    """Images an optimizer step."""
    schedule: Schedule = "constant"
    """How the learning rate goes over all epochs: constant; up and down again, to almost nothing
    (one_cycle); or down along half a cosine."""
    label_smoothing: float = 0.0
    """Share of every label that is spread over all classes in training, 0 or more and below 1."""
    augmentation: Augmentation = "none"
    """Whether training images are turned, sheared, scaled and shifted a little (affine), bent
    (elastic), or both, anew in every epoch."""
    weight_averaging: bool = False
    """Whether what validates and is kept is an average of the weights over about the last epoch."""

    def __post_init__(self) -> None:
        for name in ("conv1", "conv2", "dense_units"):
            _within(name, getattr(self, name), 1, _UNITS_AT_MOST)
        _within("batch_size", self.batch_size, 1)
        _a_share("dropout_rate", self.dropout_rate)
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"`learning_rate` (={self.learning_rate}) must be above 0 and finite")
        _a_share("label_smoothing", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which images are trained on and which validate: the same spec gives the same split."""

    dataset: Dataset
    """Data set: its training images are split into training and validation."""
    validation: Validation = "stratified"
    """Which 20 % of the training images validate: drawn from each class by the seed, or the tail
    of each file (as the published figures had it)."""
    seed: int = 0
    """Seed of everything random: split, sampler, initial weights, shuffling, dropout."""
    limit: int | None = None
    """Use only this many of the training images, drawn from all classes; 20 % of them validate."""

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**32 - 1)  # as far as scikit-learn's seeds go
        if self.limit is not None:
            _within("limit", self.limit, 10)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a command finds: folders, and what computes."""

    device: Device = "auto"
    """What computes; auto takes CUDA where there is one."""
    data_dir: str = "data"
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: str = "results"
    """Folder for results: one folder in it for each data set."""
    log_dir: str = "lightning_logs"
    """Folder for TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("data_dir", "results_dir", "log_dir"):
            _a_path(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class FitConfig(Surroundings, DataSpec):
    """What `tune` and `train` share."""

    max_epochs: int = 30
    """Full budget of one fit (Hyperband's R), in epochs."""
    precision: Precision = "auto"
    """Arithmetic of the layers; auto takes bf16 where the processor or GPU computes it natively."""

    def __post_init__(self) -> None:
        DataSpec.__post_init__(self)
        Surroundings.__post_init__(self)
        _within("max_epochs", self.max_epochs, 1)

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
    launcher: Launcher = "local"
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
            _within("workers", self.workers, 1)
        _within("heartbeat", self.heartbeat, 1)
        if not 0 < self.gpus_per_worker <= 1:
            raise UserError(f"`gpus_per_worker` (={self.gpus_per_worker}) must be above 0, up to 1")
        if self.timeout is not None:
            parse_duration(self.timeout)


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
            _within("batch_sizes", batch_size, 1)
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise UserError(f"`batch_sizes` (={list(self.batch_sizes)}) names one twice")
        _within("reduction_factor", self.reduction_factor, 2)
        _within("iterations", self.iterations, 1)
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
            _a_share("label_smoothing", share)
        if self.patience is not None:
            _within("patience", self.patience, 1)
        if self.finalists:
            _within("finalists", self.finalists, 1)
        _within("seeds", self.seeds, _SEEDS_AT_LEAST)

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
        Surroundings.__post_init__(self)
        WorkersConfig.__post_init__(self)
        _within("finalists", self.finalists, 1)
        _within("seeds", self.seeds, _SEEDS_AT_LEAST)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A saved model, tested."""

    dataset: Dataset | None = None
    """Test on this data set instead of the model's own; its classes must be the same."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    data_dir: str = "data"
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: str | None = None
    """Folder for results: <results_dir>/<dataset>/test-log.jsonl records every look at the test
    images; null: the one that the checkpoint is in, or results."""
    output_dir: str | None = None
    """Folder for metrics.json and the pictures; null: beside the checkpoint."""
    log_dir: str | None = None
    """Folder for TensorBoard, which then shows the pictures as the run <log_dir>/<dataset>/winner;
    null: none."""

    def __post_init__(self) -> None:
        _a_path("data_dir", self.data_dir)
        _a_path("results_dir", self.results_dir or "")
        _a_path("log_dir", self.log_dir or "")
        _a_path("output_dir", self.output_dir or "")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """A saved model that reads pictures."""

    model: str | None = None
    """The checkpoint of the model that reads; null: results/emnist_letters_digits/best-model.ckpt,
    or while a search has none yet, the one that came with the project."""
    top: int = 3
    """How many classes to name for each picture, the most probable first."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    show: str | None = None
    """Folder for what the model saw of each picture: its 28×28 pixels, enlarged, as NAME-seen.png;
    null: nowhere."""

    def __post_init__(self) -> None:
        _within("top", self.top, 1)
        _a_path("model", self.model or "")
        _a_path("show", self.show or "")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A search, told."""

    dataset: Dataset
    """Data set whose search is told."""
    results_dir: str = "results"
    """Folder for results: one folder in it for each data set."""

    def __post_init__(self) -> None:
        _a_path("results_dir", self.results_dir)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A saved model, written for other programs."""

    model: str
    """The checkpoint of the model to write."""
    format: Literal["onnx", "torch"] = "onnx"
    """What to write: ONNX (an extra: export), or a program of torch.export."""
    output: str | None = None
    """File to write; null: model.onnx or model.pt2 beside the model."""
    data_dir: str = "data"
    """Folder with the data sets: where the model's own is there, its images check the file."""

    def __post_init__(self) -> None:
        _a_path("model", self.model)
        _a_path("output", self.output or "")
        _a_path("data_dir", self.data_dir)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A page to draw on, and the models that read it."""

    results_dir: str = "results"
    """Folder with results: the best model of each data set in it is offered."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own let anybody in who can reach it."""
    port: int = 7860
    """Port to listen on; 0: any that is free."""

    def __post_init__(self) -> None:
        _a_path("results_dir", self.results_dir)
        _within("port", self.port, 0, 2**16 - 1)


def parse_duration(duration: str | float) -> float:
    """Return the seconds that a duration such as 90, 90s, 10m, 1.5h or 1h30m stands for."""
    text = str(duration)
    number = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip())
    hours, minutes, seconds = map(float, parts.groups("0")) if parts else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total == 0:
        text = text if len(text) < 50 else f"{text[:50]}…"
        raise UserError(f"`timeout` (={text}) must be a duration above 0, such as 90s, 10m or 2h")
    return total


def _within(name: str, value: int, least: int, most: int = 2**31 - 1) -> None:
    if value.bit_length() > 64:  # Python refuses to print what has thousands of digits
        raise UserError(f"`{name}` has too many digits; it must be <= {most}")
    if not least <= value <= most:
        bound = f">= {least}" if value < least else f"<= {most}"
        raise UserError(f"`{name}` (={value}) must be {bound}")


def _a_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"`{name}` (={value}) must be >= 0 and < 1")


def _choices(value: _Choice | tuple[_Choice, ...]) -> tuple[_Choice, ...]:
    return value if isinstance(value, tuple) else (value,)


def _a_path(name: str, value: str) -> None:
    if "\0" in value:
        raise UserError(f"`{name}` (={value!r}) holds a character that no path has")


def _part(config: object, part: type[_Part]) -> _Part:
    """Return the dataclass that `config` extends, without what `config` adds to it."""
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(part)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    return part(**values)
