"""Write TensorBoard runs: curves and a row of HPARAMS for each fit, pictures of the best model."""

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from src.core.files import optional
from src.training.history import SELECTED_ON, Epoch
from src.training.hyperparameters import RECIPE, Hyperparameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINNER = "winner"
"""The run of a data set's best model."""

_DPI = 110

_RGBA = 4
"""A picture's colour space, as TensorBoard numbers them."""

_numbers = itertools.count()


@dataclass(frozen=True)
class TensorBoardRun:
    """The location of one fit's run: <log_dir>/<study>/<fit>."""

    log_dir: Path
    study: str
    fit: str

    @property
    def folder(self) -> Path:
        """The folder that TensorBoard takes for the run."""
        return Path(self.log_dir, self.study, self.fit)


class RunWriter:
    """Writes one run; a context manager.

    No result depends on it: when its file cannot be written, it writes no more. It needs no thread,
    unlike PyTorch's `SummaryWriter`, which waits for ever where there is no memory to start one,
    and prints a traceback when the disk is full.

    Args:
        run: where; None: nothing is written.
        suffix: of the file's name.
    """

    def __init__(self, run: TensorBoardRun | None, suffix: str = "") -> None:
        self._run = run
        self._suffix = suffix
        self._file: BinaryIO | None = None

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add_epoch(self, epoch: Epoch) -> None:
        """Write an epoch's figures, with the epoch as their step; a part of one has no step."""
        if not epoch.is_whole:
            return
        figures = {
            "loss/train": epoch.train_loss,
            "loss/validation": epoch.val_loss,
            "accuracy/train": epoch.train_accuracy,
            "accuracy/validation": epoch.val_accuracy,
        }
        self._write(_scalars(figures), step=int(epoch.epoch))

    def add_result(
        self, hyperparameters: Hyperparameters, val_accuracy: float, epochs: float
    ) -> None:
        """Write a configuration and its result, as a row of HPARAMS.

        Trials that a rung stopped cannot be compared with those that trained on: with the epochs,
        those of one rung can be filtered out.
        """
        result = {SELECTED_ON: val_accuracy, "epochs": epochs}
        experiment, start, end = hparams_summaries(asdict(hyperparameters), result)
        for summary in (_recipe_last(experiment), start, end, _scalars(result)):
            self._write(summary)

    def add_picture(self, tag: str, figure: "Figure") -> None:
        """Write a picture."""
        png = io.BytesIO()
        figure.savefig(png, dpi=_DPI, format="png")
        width, height = (round(inches * _DPI) for inches in figure.get_size_inches())
        image = Summary.Image(
            width=width, height=height, colorspace=_RGBA, encoded_image_string=png.getvalue()
        )
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]))

    def _write(self, summary: Summary, step: int = 0) -> None:
        if self._run is None:
            return
        run, self._run = self._run, None
        with optional("what TensorBoard shows", run.folder, Path(run.log_dir)):
            if self._file is None:
                self._open(run.folder)
            self._append(Event(wall_time=time.time(), step=step, summary=summary))
            self._run = run  # there is no error, so that more can follow

    def _open(self, folder: Path) -> None:
        """Begin a file under a name that TensorBoard looks for and that nobody else has."""
        folder.mkdir(parents=True, exist_ok=True)
        unique = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = (folder / f"events.out.tfevents.{unique}{self._suffix}").open("wb")
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _append(self, event: Event) -> None:
        assert self._file is not None
        RecordWriter(self._file).write(event.SerializeToString())
        self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the same that was met in writing
                self._file.close()
            self._file = None


def _scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])


def _recipe_last(experiment: Summary) -> Summary:
    """Put the recipe's columns last, as TensorBoard ticks the first few.

    It takes the columns of all runs from the first run it finds, so each run must name them all;
    those that "differ" come first.
    """
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name not in RECIPE
    plugin.content = content.SerializeToString()
    return experiment


def write_run(
    run: TensorBoardRun,
    hyperparameters: Hyperparameters,
    history: Sequence[Epoch],
    val_accuracy: float,
    *,
    curves: bool = True,
) -> None:
    """Write at once what a fit would have written while it ran, if it can be written.

    Args:
        run: where.
        hyperparameters: the configuration.
        history: the fit's epochs.
        val_accuracy: its result.
        curves: whether the epochs are shown, too, or the row of HPARAMS alone.
    """
    with RunWriter(run) as writer:
        for epoch in history if curves else ():
            writer.add_epoch(epoch)
        writer.add_result(hyperparameters, val_accuracy, history[-1].epoch)


def write_pictures(
    log_dir: str | Path, dataset: str, name: str, which: str, pictures: Mapping[str, "Figure"]
) -> None:
    """Write pictures of how a model reads to the run <log_dir>/<dataset>/<name>, if it can be.

    Args:
        log_dir: the folder for TensorBoard.
        dataset: the model's.
        name: the model's; `WINNER` for the best one.
        which: the images that the pictures are about, "validation" or "test".
        pictures: by name. Those of earlier models go: a new model's validation pictures replace
            all, those of its test join them.
    """
    run = TensorBoardRun(Path(log_dir), dataset, name)
    suffix = f".{which}"
    old = "events.out.tfevents.*" + ("" if which == "validation" else suffix)
    with optional("what TensorBoard shows", run.folder, Path(log_dir)):
        for file in run.folder.glob(old):
            file.unlink()
    with RunWriter(run, suffix) as writer:
        for title, figure in pictures.items():
            writer.add_picture(f"{which}/{title}", figure)
