"""Find the saved models of results folders, and load each when it is first used."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.files import short_path
from src.data.catalog import CLASS_NAMES, Dataset
from src.results import shipped
from src.results.folder import RESULTS_DIR, ResultsFolder
from src.training.checkpoint import SavedModel, load_model

if TYPE_CHECKING:
    from src.training.network import TwoConvNet

_CHECKOUT = Path(__file__).resolve().parents[2]
"""Folder of the project that this package is in, where its results came with it."""


def usual_results_dirs() -> tuple[Path, ...]:
    """Return where results are if nothing else is said, the first to be preferred.

    Those in the working directory come before those that came with the project, which are found
    from every directory.
    """
    return Path(RESULTS_DIR), _CHECKOUT / RESULTS_DIR


def usual_model(dataset: Dataset) -> Path:
    """Return the checkpoint of a data set's best model, or where it would be if there is none.

    While a search has none yet, it is the one that came with the project.
    """
    folders = [ResultsFolder(results_dir, dataset) for results_dir in usual_results_dirs()]
    wanted = [path for f in folders for path in (f.best_model, _set_aside(f))]
    return next((path for path in wanted if path.exists()), wanted[0])


def _set_aside(folder: ResultsFolder) -> Path:
    """Return where a search moves the best model that came with the project."""
    return folder.path / shipped.ASIDE / folder.best_model.name


@dataclass(frozen=True)
class LoadedModel:
    """A saved model, ready to read images."""

    version: object
    """Differs when the file has changed."""
    saved: SavedModel
    network: "TwoConvNet"
    """On the CPU."""


class ModelChoice:
    """The models to choose from, each loaded when it is first used, and again when it changes.

    Args:
        results_dirs: whose <dataset>/best-model.ckpt are offered, as they come and go, those first
            that tell most characters apart; of two of one name that of the earlier folder.
        given: checkpoints to offer before them.
    """

    def __init__(self, results_dirs: Sequence[Path], given: Sequence[Path]) -> None:
        self._results_dirs = results_dirs
        self._given = {short_path(path): path for path in given}
        self._loaded: dict[str, LoadedModel] = {}
        self._loading = threading.Lock()

    def paths(self) -> dict[str, Path]:
        """Return the checkpoints that there are now, by name."""
        given = {path.resolve() for path in self._given.values()}
        found = {
            path.parent.relative_to(results_dir).as_posix(): path
            for results_dir in reversed(self._results_dirs)
            for pattern in ("*/best-model.ckpt", f"*/{shipped.ASIDE}/best-model.ckpt")
            for path in results_dir.glob(pattern)
            if path.resolve() not in given
        }
        return self._given | dict(sorted(found.items(), key=lambda item: _most_classes(item[0])))

    def load(self, name: str) -> LoadedModel:
        """Return the model of this name.

        Raises:
            UserError: it is gone or damaged.
        """
        path = self.paths().get(name)
        if path is None:
            raise UserError(f"the model {name} is gone; choose another, or reload the page")
        with self._loading:
            version = _version(path)
            loaded = self._loaded.get(name)
            if loaded is None or loaded.version != version:
                saved = load_model(path)
                loaded = self._loaded[name] = LoadedModel(version, saved, saved.network())
        return loaded


def _most_classes(name: str) -> tuple[int, str]:
    """Return a key that puts the models first that tell most characters apart."""
    characters = next((c for d, c in CLASS_NAMES.items() if d == name.partition("/")[0]), ())
    return -len(characters), name


def _version(path: Path) -> object:
    """Return what changes when the file at this path is replaced: its times, size and inode."""
    try:
        status = path.stat()
    except OSError:  # what is wrong shows when it is loaded
        return None
    return path, status.st_mtime_ns, status.st_size, status.st_ino
