"""What to compute on, and in which precision."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import joblib
import torch

from src.core.errors import UserError

Device = Literal["auto", "cpu", "cuda"]

Precision = Literal["auto", "32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A device and a precision, both decided."""

    device: torch.device
    """Where images, weights and arithmetic are."""
    precision: Literal["32", "bf16"]
    """Arithmetic of convolutions and dense layers; weights and loss are always float32. On CUDA
    PyTorch computes convolutions of float32 in TF32."""
    name: str
    """The device for people: the GPU's model, or how many CPU threads."""

    @property
    def lightning_accelerator(self) -> str:
        """The device as Lightning's Trainer names it."""
        return "gpu" if self.device.type == "cuda" else "cpu"


PLAIN_CPU = Compute(torch.device("cpu"), "32", "CPU")
"""What computes in the same way everywhere."""


def choose_device(device: Device) -> torch.device:
    """Return the device to use; auto is CUDA where there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("`device` (=cuda): no CUDA GPU is usable here; use cpu or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def choose_compute(device: Device, precision: Precision, threads: int | None = None) -> Compute:
    """Decide what `auto` means here: bf16 where the hardware computes it natively.

    Args:
        device: what the user wants.
        precision: what the user wants.
        threads: CPU threads that will compute; None: as many as PyTorch takes in this process.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        name = torch.cuda.get_device_name(chosen)
        native_bf16 = torch.cuda.get_device_capability(chosen) >= (8, 0)
    else:
        threads = threads or torch.get_num_threads()
        name = f"{_processor()}, {threads} thread{'' if threads == 1 else 's'}"
        native_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "auto":
        precision = "bf16" if native_bf16 else "32"
    return Compute(chosen, precision, name)


def choose_workers(workers: int | Literal["auto"], compute: Compute) -> int:
    """Decide what `auto` means: a trial for each core that this process may use; one on CUDA."""
    if workers != "auto":
        return workers
    return joblib.cpu_count(only_physical_cores=True) if compute.device.type == "cpu" else 1


def _processor() -> str:
    """Return the processor's model, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        return model[1].strip()
    return platform.processor() or platform.machine()
