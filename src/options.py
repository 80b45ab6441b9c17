"""Options that several commands share, as dataclasses that check themselves."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from jsonargparse.typing import SecretStr

from src.core import checks
from src.core.errors import UserError
from src.data.catalog import DataSpec
from src.results.folder import RESULTS_DIR
from src.search.logs import CurvesLevel, Logs
from src.training.device import Device, Precision
from src.training.hyperparameters import Hyperparameters
from src.workers.launch import LauncherName, LaunchSpec

_Part = TypeVar("_Part")

_PASSWORD = r"://[^:/]*:[^@]*@"
"""How a URL begins whose password SQLAlchemy finds."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The device, and the folders of data, results and curves."""

    device: Device = "auto"
    """What computes; auto takes CUDA where there is one."""
    data_dir: Path = Path("data")
    """Folder with the data sets, in torchvision's layout; what is missing is downloaded there."""
    results_dir: Path = Path(RESULTS_DIR)
    """Folder for results: one folder in it for each data set."""
    log_dir: Path = Path("lightning_logs")
    """Folder for TensorBoard."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(FolderOptions, DataSpec):
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
class SearchRunOptions(FolderOptions):
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
        if self.storage_url and re.search(_PASSWORD + r"[^?]*@", self.storage_url):
            raise UserError("`storage` must have %40 for each @ in its password")
        if self.launcher == "ray" and self.storage_url and _has_password(self.storage_url):
            raise UserError(
                "`storage` must name no password with `--launcher ray`, as Ray shows the command "
                "line to all who see the cluster; put it in PGPASSWORD or ~/.pgpass"
            )

    @property
    def storage_url(self) -> str | None:
        """The URL of the database, with its password."""
        return None if self.storage is None else self.storage.get_secret_value()

    @property
    def seconds(self) -> float | None:
        """How long the run may take; None: as long as it takes."""
        return None if self.timeout is None else checks.parse_duration(self.timeout)

    def launch_spec(self, precision: Precision) -> LaunchSpec:
        """Return what the user wants of the workers, which compute in this precision."""
        return LaunchSpec(
            launcher=self.launcher,
            workers=self.workers,
            device=self.device,
            precision=precision,
            gpus_per_worker=self.gpus_per_worker,
        )

    @property
    def logs(self) -> Logs:
        """What TensorBoard gets."""
        return Logs(self.log_dir, self.tensorboard)

    @property
    def own_device(self) -> Device:
        """What this process itself computes on: on a Ray cluster the nodes have the GPUs."""
        return "auto" if self.launcher == "ray" and self.device == "cuda" else self.device


@dataclass(frozen=True, kw_only=True)
class TrainOptions(FitOptions, Hyperparameters):
    """One configuration, fitted once, for all its epochs."""

    def __post_init__(self) -> None:
        FitOptions.__post_init__(self)
        Hyperparameters.__post_init__(self)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The configuration to fit."""
        return _part(self, Hyperparameters)


def _has_password(url: str) -> bool:
    return re.search(_PASSWORD, url) is not None or "password" in url.partition("?")[2]


def _part(config: object, part: type[_Part]) -> _Part:
    """Return the dataclass that `config` extends, without what `config` adds to it."""
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(part)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    return part(**values)
