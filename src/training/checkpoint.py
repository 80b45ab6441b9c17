"""Saved models: Lightning checkpoints that load without Lightning and without running code."""

import importlib.metadata
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from src.core.decode import build
from src.core.errors import UserError
from src.core.files import replacing
from src.core.metrics import ConfusionMatrix
from src.data.catalog import CLASS_NAMES, DataSpec
from src.training.archive import read_archive
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters, task_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from src.data.split import TrainingData
    from src.training.fitted import Fitted
    from src.training.network import TwoConvNet

_KEY = "hcr_lightning"

_FORMAT = 1

_Model = TypeVar("_Model")

_NETWORK = "model."
"""How the names of the network's weights begin in a checkpoint: it is `CharacterTask.model`."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What is known of a saved model beside its weights."""

    hyperparameters: Hyperparameters
    data_spec: DataSpec
    """The data set, and which of its training images trained and which validated."""
    class_names: tuple[str, ...]
    """What each logit stands for."""
    history: tuple[Epoch, ...]
    """Every epoch of the fit, those after the best one too."""
    best_epoch: int
    """The epoch whose weights were kept, counted from 1."""
    val_accuracy: float
    """Validation accuracy of that epoch, 0…1: the highest of the fit, so a hopeful estimate."""
    validation_confusion: list[list[int]]
    """Validation images by true class (row) and predicted class (column)."""
    image_counts: dict[str, int]
    """How many images trained and validated."""
    split_hash: str
    """SHA-256 over the split; see `TrainingData`."""
    provenance: dict[str, Any]
    """Where the model comes from."""


@dataclass(frozen=True, kw_only=True)
class SavedModel(ModelDescription):
    """A trained network with all that is needed to use and to judge it."""

    weights: "dict[str, Tensor]"
    """State of a `CharacterTask` at the end of the best epoch, on the CPU."""

    def network(self) -> "TwoConvNet":
        """Build the trained network, ready to predict, on the CPU."""
        network = _untrained(self)
        network.load_state_dict(
            {name.removeprefix(_NETWORK): value for name, value in self.weights.items()}
        )
        return network.eval()


def _untrained(model: ModelDescription) -> "TwoConvNet":
    from src.training.network import TwoConvNet

    hp = model.hyperparameters
    return TwoConvNet(
        conv1=hp.conv1,
        conv2=hp.conv2,
        dense_units=hp.dense_units,
        dropout_rate=hp.dropout_rate,
        classes=len(model.class_names),
    )


def save_model(path: Path, model: SavedModel) -> None:
    """Write a model's checkpoint."""
    content = dump_model(model)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def dump_model(model: SavedModel) -> bytes:
    """Return the content of a checkpoint that `CharacterTask.load_from_checkpoint` reads too."""
    import torch

    description = asdict(replace(model, weights={}))
    del description["weights"]
    content = {
        "pytorch-lightning_version": importlib.metadata.version("lightning"),
        "epoch": model.best_epoch,
        "state_dict": model.weights,
        "hyper_parameters": task_arguments(model.hyperparameters, len(model.class_names)),
        _KEY: {"format": _FORMAT, **description},
    }
    buffer = io.BytesIO()  # so that a full disk is an OSError like any other
    torch.save(content, buffer)
    return buffer.getvalue()


def load_model(path: str | Path) -> SavedModel:
    """Read a checkpoint; nothing in the file is ever executed.

    Raises:
        UserError: the file is missing, damaged, no checkpoint of this project, or holds a pickle
            that would run code.
    """
    return _load(Path(path), _to_model)


def load_description(path: str | Path) -> ModelDescription:
    """Read a checkpoint's description without its weights, and without PyTorch.

    Raises:
        UserError: as `load_model` does, but for weights that do not fit.
    """
    return _load(Path(path), _to_description)


def _load(path: Path, decode: Callable[[Any], _Model]) -> _Model:
    """Read an archive, and decode what is in it."""
    try:
        content = read_archive(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}; `tune` and `train` make some") from error
    except Exception as error:  # whatever a damaged archive makes zipfile raise
        cause = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is refused: it is damaged, or holds more than weights and plain values, "
            f"which could run code ({cause})"
        ) from error
    try:
        return decode(content)
    except (
        AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, UserError,
        ValueError,
    ) as error:  # fmt: skip
        cause = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no checkpoint of this project: {cause}") from error


def _to_description(content: Any) -> ModelDescription:
    """Decode a checkpoint's description, or raise on the first thing that is off."""
    values = dict(content[_KEY])
    if values.pop("format") != _FORMAT:
        raise ValueError("written by another version")
    values["hyperparameters"] = build(Hyperparameters, values["hyperparameters"])
    values["data_spec"] = build(DataSpec, values["data_spec"])
    values["history"] = tuple(build(Epoch, epoch) for epoch in values["history"])
    model = build(ModelDescription, values)
    if CLASS_NAMES[model.data_spec.dataset] != model.class_names:
        raise ValueError(f"its classes are not those of {model.data_spec.dataset}")
    if not 0 <= model.val_accuracy <= 1:
        raise ValueError(f"its val_accuracy is {model.val_accuracy}")
    if [epoch.epoch for epoch in model.history] != list(range(1, len(model.history) + 1)):
        raise ValueError("its history does not count epochs from 1")
    if not 1 <= model.best_epoch <= len(model.history):
        raise ValueError(f"its best_epoch (={model.best_epoch}) is not in its history")
    matrix = ConfusionMatrix(model.validation_confusion, model.class_names)
    if matrix.counts.min() < 0 or matrix.images != model.image_counts["validation"]:
        raise ValueError("its validation_confusion does not count its validation images")
    json.dumps(model.provenance, allow_nan=False)  # it is published as JSON
    return model


def _to_model(content: Any) -> SavedModel:
    """Decode a whole checkpoint, or raise on the first thing that is off."""
    import torch

    description = _to_description(content)
    arrays = dict(content["state_dict"])
    with torch.device("meta"):  # takes no memory, however large the network claims to be
        state = _untrained(description).state_dict()
    wanted = {f"{_NETWORK}{name}": value.shape for name, value in state.items()}
    if arrays.keys() != wanted.keys():
        raise ValueError("its weights are those of another network")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.shape != wanted[name]:
            raise ValueError(f"{name} has shape {np.shape(array)}, not {tuple(wanted[name])}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return SavedModel(
        **{field.name: getattr(description, field.name) for field in fields(description)},
        weights={name: torch.from_numpy(array) for name, array in arrays.items()},
    )


def model_of(
    fitted: "Fitted",
    hyperparameters: Hyperparameters,
    data: "TrainingData",
    provenance: dict[str, Any],
) -> SavedModel:
    """Make a model to save of a fit that trained at least one epoch."""
    assert fitted.best is not None
    assert fitted.weights is not None
    assert fitted.confusion is not None
    return SavedModel(
        hyperparameters=hyperparameters,
        data_spec=data.spec,
        class_names=data.class_names,
        weights=fitted.weights,
        history=tuple(epoch for epoch in fitted.history if epoch.is_whole),
        best_epoch=int(fitted.best.epoch),
        val_accuracy=fitted.best.val_accuracy,
        validation_confusion=fitted.confusion.tolist(),
        image_counts=data.counts,
        split_hash=data.split_hash,
        provenance=provenance,
    )
