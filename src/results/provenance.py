"""Record the provenance of a result: versions, device, commit, command."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.training.device import Compute

_PACKAGES = ("torch", "torchvision", "lightning", "optuna", "optuna-integration")


def provenance(compute: Compute, command: str) -> dict[str, Any]:
    """Describe this run so that somebody else can repeat it.

    Args:
        compute: device and precision.
        command: the command line, without secrets.
    """
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
        "device": compute.name,
        "precision": compute.precision,
        "platform": platform.platform(),
    }


def _git_commit() -> str | None:
    """Return the checked-out commit, `-dirty` behind it if the code differs.

    None without git, and where git does not track this very file: a copy of the project within
    another repository would be given the commit of that one.
    """
    here = Path(__file__)

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=here.parents[1],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", f"{here.parent.name}/{here.name}")
        return ask("rev-parse", "HEAD") + ("-dirty" if ask("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
