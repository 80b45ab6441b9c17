"""Keep a fit's state between epochs in a file, for the same fit to go on from."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from src.core.files import optional
from src.training.task import CharacterTask

_SHARE = 20
"""Training time between two writings of the state, as a multiple of the time that one takes, so
that short epochs are not held up: a crash then costs a few epochs, not one."""


class FitState(pl.Callback):
    """Keeps weights, optimizer, progress and callbacks' states in a Lightning checkpoint.

    Random numbers of whole epochs need not be kept: they follow from the seed and the epoch. The
    file is not flushed to the disk: it outlives the process, and where a crash of the machine
    damages it, the fit starts again.

    Args:
        path: the file; its folder is made if it is not there.
        fit: what the fit follows from, as plain values; a state of another is not gone on from.
    """

    def __init__(self, path: Path, fit: dict[str, Any]) -> None:
        self._path = path
        self._fit = fit
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._next_writing = 0.0

    @property
    def seconds(self) -> float:
        """Duration of the fit in seconds, including the time before an interruption."""
        return self._seconds_before + time.perf_counter() - self._started

    def find(self) -> Path | None:
        """Return the file's path, if it is whole and its state is of this fit; else None."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                if archive.testzip() is not None:  # torch.load does not look at the checksums
                    return None
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            found = content["callbacks"][self.state_key]["fit"]
        except Exception:  # whatever a damaged archive makes torch raise
            return None
        return self._path if found == self._fit else None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the state if the fit is paused, and now and then while it goes on."""
        assert isinstance(pl_module, CharacterTask)
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        started = time.perf_counter()
        if not pl_module.is_paused and (last or started < self._next_writing):
            return
        with optional("states to go on from", self._path):  # all that a full disk costs
            trainer.save_checkpoint(self._path)
        ended = time.perf_counter()
        self._next_writing = ended + _SHARE * (ended - started)

    def state_dict(self) -> dict[str, Any]:
        """Return the fit's identity and duration, to be written with its state."""
        return {"fit": self._fit, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from the seconds before the interruption."""
        self._seconds_before = state_dict["seconds"]


class StateFile(TorchCheckpointIO):
    """Writes Lightning checkpoints atomically: there is a whole one at any moment."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Write to a temporary file beside it, and rename that."""
        buffer = io.BytesIO()  # so that a full disk is an OSError like any other
        torch.save(checkpoint, buffer)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            partial.write_bytes(buffer.getbuffer())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
