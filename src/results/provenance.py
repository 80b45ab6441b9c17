"""Where a result comes from: versions, device, commit, command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.training.device import Compute

_SECRET = ("--storage", "--postgresql")
"""Options whose values are not told."""

_PACKAGES = ("torch", "torchvision", "lightning", "optuna", "optuna-integration")


def provenance(compute: Compute) -> dict[str, Any]:
    """Describe this run so that somebody else can repeat it."""
    return {
        "command": _command(),
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


def _command() -> str:
    """Return the command line as it would be typed."""
    main = sys.modules["__main__"].__spec__
    program = (
        ["python", "-m", main.name.removesuffix(".__main__")] if main is not None else sys.argv[:1]
    )
    return shlex.join([*program, *_without_secrets(sys.argv[1:])])


def _without_secrets(arguments: Sequence[str]) -> Iterator[str]:
    """Give arguments as they are, but for URLs of databases, which may have a password."""
    secret = False
    for argument in arguments:
        option, assigned, _ = argument.partition("=")
        if secret:
            yield "***"
        elif option in _SECRET and assigned:
            yield f"{option}=***"
        else:
            yield argument
        secret = argument in _SECRET


def _git_commit() -> str | None:
    """Return the checked-out commit, `-dirty` behind it if the code differs; None without git."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("-dirty" if ask("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
