"""Compile loops over arrays for this processor, and run them on the memory of tensors."""

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy.typing as npt
import torch
from llvmlite import binding
from numba.core.caching import FunctionCache
from torch import Tensor

from src.core.files import Unwritten, warn_unwritten

Array = npt.NDArray[Any]


def to_numpy(values: Tensor, bits: torch.dtype = torch.uint16) -> Array:
    """Show a tensor's memory to NumPy, which has no bfloat16: as its bits."""
    shown = values.view(bits) if values.dtype == torch.bfloat16 else values
    array: Array = shown.numpy()
    return array


def in_threads(work: Callable[[slice], Any], images: int) -> list[Any]:
    """Do the work on as many parts of the images as PyTorch may use threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(slice(0, images))]
    cuts = [images * i // threads for i in range(threads + 1)]
    return list(_threads(threads).map(work, map(slice, cuts[:-1], cuts[1:])))


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number)


class _Cache(FunctionCache):
    """Compiled code on disk; without it where its files are damaged or not ours to use."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever a damaged pickle raises
            self._warn(error)
            with contextlib.suppress(OSError):
                self.flush()  # the index; what is compiled now takes the place of the rest
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._warn(error)
            self.disable()

    def _warn(self, error: Exception) -> None:
        folder = Path(self.cache_path)
        reason = " ".join(str(error).split()) or type(error).__name__
        warn_unwritten(Unwritten("numba's cache, compiling anew", folder, reason, folder))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile when first called, without Python's lock; keep the result on disk where possible."""
    _allow_wide_vectors()
    kernel: Any = numba.njit(nogil=True, fastmath={"contract"})(function)
    # Without a folder to keep it in, neither here nor in the user's cache, it is a RuntimeError.
    with contextlib.suppress(RuntimeError, OSError):
        kernel._cache = _Cache(function)  # where `cache=True` puts numba's own
    done: Callable[..., Any] = kernel
    return done


@functools.cache
def _allow_wide_vectors() -> None:
    """Let the compiler use all of a vector register of 512 bits where there is bfloat16.

    LLVM uses half of it by itself, because the first processors that had such registers ran slower
    when they were used. On an Intel Emerald Rapids the loops take 0.75 of the time, and give the
    same.
    """
    config: Any = numba.config
    features = binding.get_host_cpu_features()
    if config.CPU_FEATURES is None and config.ENABLE_AVX and features.get("avx512bf16"):
        config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"
