"""Records of a search, its finals and its tests: one dataclass for each document on disk."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Any, Literal, Self

from src.core.decode import pick
from src.core.metrics import ClassMetrics, Confusion, ConfusionMatrix
from src.data.catalog import Dataset, DataSpec
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters

OUTCOME = "outcome"
"""User attribute of an Optuna trial: how it ended, and its curves."""

LOST = "lost on the rung"
"""How the reason of a trial begins that a rung stopped."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial that has ended: a row of all.csv and its rows of curves.csv."""

    val_accuracy: float | None
    """The best epoch's share of validation images read correctly, 0…1; None before epoch 1."""
    hyperparameters: Hyperparameters
    epochs: float
    """Epochs trained: a whole number, or a part of the first."""
    trial: int
    """Optuna's number within the batch size's study."""
    state: str
    """Optuna's: COMPLETE, PRUNED (lost on a rung, diverged) or FAIL (an error, a lost worker)."""
    bracket: int
    """s of the trial's bracket: how often it cuts its trials."""
    seconds: float | None
    """Wall time of training."""
    reason: str
    """Why the trial ended when it did, if not by training all its epochs."""
    history: tuple[Epoch, ...] = ()
    """Learning curve: every look, or nothing where none was kept."""

    @property
    def batch_size(self) -> int:
        """Images an optimizer step: the study that the trial belongs to."""
        return self.hyperparameters.batch_size


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """How a trial ended, and its curves."""

    reason: str
    """Why it ended when it did; empty if by training all its epochs."""
    val_accuracy: float | None = None
    """Of the best epoch, 0…1; None before epoch 1."""
    history: tuple[Epoch, ...] | None = None
    """Every look; None if the trial broke off with an error."""
    device: str | None = None
    """Name of the device that trained it."""
    seconds: float | None = None
    """Wall time of training."""

    @property
    def epochs(self) -> float:
        """Epochs trained."""
        return self.history[-1].epoch if self.history else 0

    def to_attribute(self) -> dict[str, Any]:
        """Return the attribute; of an error only the reason, of epochs the bare figures."""
        if self.history is None:
            return {"reason": self.reason}
        return asdict(self) | {"history": [list(astuple(epoch)) for epoch in self.history]}

    @classmethod
    def from_attribute(cls, attribute: Mapping[str, Any]) -> Self:
        """Read the attribute."""
        rows = attribute.get("history")
        history = None if rows is None else tuple(Epoch(*row) for row in rows)
        return cls(**{**attribute, "history": history})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a search or of its finals: from the command's start to its end."""

    host: str
    started: str
    """Date and time, ISO 8601."""
    ended: str | None
    """The same; None if it was killed, or is still going on."""
    how: str | None
    """How it ended."""

    @property
    def seconds(self) -> float | None:
        """Wall time; None while there is no end.

        Raises:
            ValueError: a date is none.
        """
        started = datetime.fromisoformat(self.started)
        if self.ended is None:
            return None
        return (datetime.fromisoformat(self.ended) - started).total_seconds()


@dataclass(frozen=True, kw_only=True)
class TrainedOn(DataSpec):
    """The images that trained and validated a model."""

    images: dict[str, int]
    """How many, by `train` and `validation`."""
    split_hash: str
    """SHA-256 over the split; see `TrainingData`."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What is worth knowing of a model: the model.json of `train`."""

    dataset: Dataset
    val_accuracy: float
    """Of the best epoch, 0…1."""
    selected_on: str
    """Names the metric that chose that epoch."""
    best_epoch: int
    """Counted from 1."""
    epochs: int
    """Epochs trained."""
    hyperparameters: Hyperparameters
    """Its fields stand beside the others in the file."""
    data: TrainedOn
    provenance: dict[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object."""
        document: dict[str, Any] = {}
        for name, value in asdict(self).items():
            document |= value if name == "hyperparameters" else {name: value}
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read the JSON object.

        Raises:
            TypeError: something is missing, or has another type.
        """
        return pick(cls, {**document, "hyperparameters": document})


@dataclass(frozen=True, kw_only=True)
class FinalsSummary:
    """The winner of the finals, as best.json repeats it."""

    batch_size: int
    trial: int
    search_val_accuracy: float
    mean: float
    std: float | None
    ci95: tuple[float, float] | None
    seed: int
    """Of its best fit, whose model best-model.ckpt is."""
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """The search as a whole, all batch sizes together."""

    settings: dict[str, Any]
    """What was the same for all trials."""
    trials: dict[str, int]
    """Trials by state."""
    epochs: float
    """Epochs trained by all trials."""
    seconds: float
    """Training time of all trials, added up."""
    batch_sizes: tuple[int, ...]
    """Of the search, those too that have no trial yet."""
    provenance: dict[str, Any]
    """Of the best trial."""
    interrupted: bool
    """Whether a run or a trial did not end by itself."""
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class BestSummary(ModelSummary):
    """The best model and the search that found it: best.json."""

    finals: FinalsSummary | None = None
    """None before finals; the key is left out then."""
    search: SearchSummary

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object."""
        document = super().to_document()
        if self.finals is None:
            del document["finals"]
        return document


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A configuration trained again with several seeds: a row of finalists.json."""

    rank: int
    """1 is the winner."""
    batch_size: int
    trial: int
    """Optuna's number of the search's trial."""
    hyperparameters: Hyperparameters
    search_val_accuracy: float
    """What the search had measured, once."""
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    """Seeds with which it did not learn; they count in nothing else."""
    val_accuracies: tuple[float, ...]
    """One a seed, as are epochs and seconds."""
    epochs: tuple[int, ...]
    """Epochs trained."""
    seconds: tuple[float, ...]
    """Wall time of training."""
    mean: float
    std: float | None
    """Standard deviation of one fit, estimated with n - 1."""
    ci95: tuple[float, float] | None
    """95 % interval of the mean."""
    optimism: float
    """How much higher the search's figure was than the mean."""


@dataclass(frozen=True, kw_only=True)
class DecidedModel:
    """The fit whose model is best-model.ckpt."""

    rank: int
    """Its finalist's."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of the finals: the user attribute `decision` of their study."""

    dataset: Dataset
    max_epochs: int
    patience: int | None
    finalists: tuple[Finalist, ...]
    """The winner first; one at least."""
    winner: DecidedModel
    smallest: int | None = None
    """Rank of the finalist with the fewest parameters whose mean is not below the winner's by more
    than one standard error; None in finals of versions that did not name it."""
    runs: tuple[Run, ...]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON object."""
        document = asdict(self)
        if self.smallest is None:
            del document["smallest"]
        return document


@dataclass(frozen=True, kw_only=True)
class PublishedDecision(Decision):
    """The outcome of the finals and where the winner's model comes from: finalists.json."""

    data: TrainedOn
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RematchFit:
    """A fit of a rematch."""

    whose: Literal["published", "ours"]
    """Who found the configuration."""
    hyperparameters: Hyperparameters
    seed: int
    """Counted from 0; the same for both are the same images in the same order."""
    val_accuracy: float
    """Of the best epoch, 0…1."""
    epochs: int
    """Epochs trained."""
    seconds: float
    """Wall time of training."""
    device: str
    """Name of the device that trained it."""
    git_commit: str | None
    """Of the code, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Rematch:
    """The best configurations at each batch size, those published and those of a search, trained
    again by the same code with the same seeds: rematch.json."""

    dataset: Dataset
    max_epochs: int
    patience: int | None
    data: TrainedOn
    fits: tuple[RematchFit, ...]
    provenance: dict[str, Any]
    """Of the run that trained the last of them."""


@dataclass(frozen=True, kw_only=True)
class MisreadImage:
    """A test image that was read as another class."""

    image: int
    """Its position in the test split, from 0."""
    true: str
    predicted: str
    probability: float
    """What the model gave its wrong reading."""


@dataclass(frozen=True, kw_only=True)
class TestMetrics:
    """Accuracy of a model on a test split: metrics.json."""

    __test__ = False  # pytest would take it for tests

    dataset: Dataset
    test_accuracy: float
    """Share of the test images read correctly, 0…1."""
    n_test: int
    """Images in the test split."""
    ci95: tuple[float, float]
    """95 % interval of the accuracy (Wilson)."""
    macro_accuracy: float
    """Mean recall of the classes."""
    per_class: tuple[ClassMetrics, ...]
    most_confused: tuple[Confusion, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    """Test images by true class (row) and predicted class (column)."""
    mistakes: tuple[MisreadImage, ...]
    """Those that the model was surest about, the surest first."""
    test_images_sha256: str
    caution: str | None
    """Why the accuracy may flatter the model, if it may."""
    checkpoint: str
    checkpoint_sha256: str
    test_split_opened: int
    """How often the test split was looked at, this time included."""
    val_accuracy: float
    """What the checkpoint had on its validation images."""
    provenance: dict[str, Any]

    @property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix with its classes."""
        return ConfusionMatrix(self.confusion_matrix, [one.name for one in self.per_class])


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """One look at a test split: a line of test-log.jsonl."""

    __test__ = False  # pytest would take it for tests

    date: str
    """In UTC, as ISO 8601 has it."""
    checkpoint: str
    checkpoint_sha256: str
    """Of the model's file."""
    dataset: str
    n_test: int
    """Images in the test split."""
    test_accuracy: float
    """Share of them that was read correctly, 0…1."""


@dataclass(frozen=True)
class Opened:
    """How often a test split was looked at, this time included."""

    times: int
    models: int
    """Different ones, by their files."""
