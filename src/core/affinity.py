"""Keep the CPU cores that this process may use, before OpenMP binds it to some of them.

With `OMP_PROC_BIND` or `GOMP_CPU_AFFINITY` in the environment, importing PyTorch or scikit-learn
binds the process, and all that it starts, to its first core. The package imports this module before
anything else.
"""

import contextlib
import os

_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def release_cores() -> None:
    """Let this thread, and the processes that it starts, run on all cores of the beginning."""
    if _CORES is not None:
        with contextlib.suppress(OSError):  # somebody has taken cores away meanwhile
            os.sched_setaffinity(0, _CORES)
