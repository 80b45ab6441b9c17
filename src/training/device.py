"""Choose the device, the precision and the number of workers; PyTorch is imported when asked."""

import platform
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from src.core.errors import UserError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]

Precision = Literal["auto", "32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A device and a precision, both decided."""

    device_type: Literal["cpu", "cuda"]
    """Where images, weights and arithmetic are."""
    precision: Literal["32", "bf16"]
    """Arithmetic of convolutions and dense layers; weights and loss are always float32. On CUDA
    PyTorch computes convolutions of float32 in TF32."""
    name: str
    """The device for people: the GPU's model, or how many CPU threads."""

    @property
    def device(self) -> "torch.device":
        """The device as PyTorch has it."""
        import torch

        return torch.device(self.device_type)

    @property
    def lightning_accelerator(self) -> str:
        """The device as Lightning's Trainer names it."""
        return "gpu" if self.device_type == "cuda" else "cpu"


PLAIN_CPU = Compute("cpu", "32", "CPU")
"""What computes in the same way everywhere."""


def choose_compute(device: Device, precision: Precision, threads: int | None = None) -> Compute:
    """Decide what `auto` means here: CUDA where there is one; bf16 where it is native.

    Args:
        device: what the user wants.
        precision: what the user wants.
        threads: CPU threads that will compute; None: as many as PyTorch takes in this process.

    Raises:
        UserError: CUDA is wanted, and there is none.
    """
    import torch

    has_cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UserError("`device` (=cuda): no CUDA GPU is usable here; use cpu or auto")
    if has_cuda:
        name = torch.cuda.get_device_name()
        native_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    else:
        threads = threads or torch.get_num_threads()
        name = f"{_processor()}, {threads} thread{'' if threads == 1 else 's'}"
        native_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "auto":
        precision = "bf16" if native_bf16 else "32"
    return Compute("cuda" if has_cuda else "cpu", precision, name)


def choose_workers(workers: int | Literal["auto"], compute: Compute) -> int:
    """Decide what `auto` means: a trial for each core that this process may use; one on CUDA."""
    import joblib

    if workers != "auto":
        return workers
    return joblib.cpu_count(only_physical_cores=True) if compute.device_type == "cpu" else 1


def autocast(compute: Compute) -> AbstractContextManager[None]:
    """Compute in the precision chosen; to be entered for one forward pass.

    No wider, because its bf16 copies of the weights must not outlive an optimizer step.
    """
    import torch

    return torch.autocast(compute.device_type, torch.bfloat16, enabled=compute.precision == "bf16")


def _processor() -> str:
    """Return the processor's model, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        return model[1].strip()
    return platform.processor() or platform.machine()
