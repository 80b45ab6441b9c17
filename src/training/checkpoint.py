"""Saved models: Lightning checkpoints that load without running code."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from src.core.decode import build
from src.core.errors import UserError
from src.core.files import replacing
from src.core.metrics import ConfusionMatrix
from src.data.catalog import CLASS_NAMES, DataSpec
from src.data.split import TrainingData
from src.training.archive import read_archive
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters
from src.training.task import CharacterTask, make_task, task_arguments

_KEY = "hcr_lightning"

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A trained network with all that is needed to use and to judge it."""

    hyperparameters: Hyperparameters
    data_spec: DataSpec
    """The data set, and which of its training images trained and which validated."""
    class_names: tuple[str, ...]
    """What each logit stands for."""
    weights: dict[str, Tensor]
    """State of a `CharacterTask` at the end of the best epoch."""
    history: tuple[Epoch, ...]
    """Curves of the fit, beyond the best epoch."""
    best_epoch: int
    """The epoch whose weights these are, counted from 1."""
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

    def task(self) -> CharacterTask:
        """Rebuild the trained task, ready to predict, on the CPU."""
        task = make_task(self.hyperparameters, len(self.class_names))
        task.load_state_dict(self.weights)
        return task.eval()


def save_model(path: Path, model: SavedModel) -> None:
    """Write a model's checkpoint."""
    content = dump_model(model)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def dump_model(model: SavedModel) -> bytes:
    """Return the content of a checkpoint that `CharacterTask.load_from_checkpoint` reads too."""
    extra = asdict(model)
    del extra["weights"]
    content = {
        "pytorch-lightning_version": lightning.__version__,
        "epoch": model.best_epoch,
        "state_dict": model.weights,
        "hyper_parameters": task_arguments(model.hyperparameters, len(model.class_names)),
        _KEY: {"format": _FORMAT, **extra},
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
    path = Path(path)
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
        return _model_of(content)
    except (
        AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, UserError,
        ValueError,
    ) as error:  # fmt: skip
        cause = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no checkpoint of this project: {cause}") from error


def _model_of(content: Any) -> SavedModel:
    """Turn a checkpoint's content into a model, or raise on the first thing that is off."""
    extra = dict(content[_KEY])
    if extra.pop("format") != _FORMAT:
        raise ValueError("written by another version")
    extra["hyperparameters"] = build(Hyperparameters, extra["hyperparameters"])
    extra["data_spec"] = build(DataSpec, extra["data_spec"])
    extra["history"] = tuple(build(Epoch, epoch) for epoch in extra["history"])
    model = build(SavedModel, extra | {"weights": content["state_dict"]})
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
    with torch.device("meta"):  # takes no memory, however large the network claims to be
        wanted = make_task(model.hyperparameters, len(model.class_names)).state_dict()
    if model.weights.keys() != wanted.keys():
        raise ValueError("its weights are those of another network")
    for name, value in model.weights.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, not {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return model


def model_of(
    fitted: Fitted,
    hyperparameters: Hyperparameters,
    data: TrainingData,
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
        history=fitted.history,
        best_epoch=fitted.best.epoch,
        val_accuracy=fitted.best.val_accuracy,
        validation_confusion=fitted.confusion.tolist(),
        image_counts=data.counts,
        split_hash=data.split_hash,
        provenance=provenance,
    )
