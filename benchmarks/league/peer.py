"""A tuner of another library, in a process of an environment of its own."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import PEERS
from benchmarks.league.surrogate import NotApplicable
from benchmarks.league.tuners import Job
from src.core.seeding import SAMPLER, derive_seed

PROGRAMS = {
    "keras_hyperband": "league_keras",
    "optuna_hyperband": "league_optuna",
    "optuna_halving": "league_optuna",
    "smac_hyperband": "league_smac",
    "smac_multifidelity": "league_smac",
    "dehb": "league_dehb",
    "neps_hyperband": "league_neps",
    "neps_priorband": "league_neps",
    "syne_tune_asha": "league_synetune",
}
"""The program that runs a tuner, by the tuner's name."""


class Peer:
    """A tuner that is asked and told in JSON lines (peers/league_peer.py); a context manager.

    Args:
        python: of the environment.
        name: of the tuner.
    """

    def __init__(self, python: Path, name: str) -> None:
        self.about: dict[str, Any] = {}
        """What the tuner says of itself: what resuming costs, and the versions."""
        self._command = [str(python), str(PEERS / f"{PROGRAMS[name]}.py")]
        self._name = name
        self._asked = 0

    def __enter__(self) -> "Peer":
        self._errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def start(self, seed: int, max_epochs: int, budget: float, options: Mapping[str, Any]) -> None:
        """Begin a search.

        Args:
            seed: of the search.
            max_epochs: of every fit.
            budget: epochs of all fits together.
            options: what it is asked for.

        Raises:
            NotApplicable: the tuner cannot do what is asked, or cannot be run.
        """
        self._asked = 0
        setting: dict[str, Any] = {"start": self._name, "seed": derive_seed(seed, SAMPLER) % 2**31}
        setting |= {"max_epochs": max_epochs, "budget": budget}
        setting |= {"factor": 3, "min_epochs": 1, "begin": ""}
        self.about = self._say(setting | dict(options))
        if reason := self.about.get("not_applicable"):
            raise NotApplicable(reason)

    def ask(self) -> Job | None:
        """Ask it."""
        if (found := self._say({"ask": True})) is None:
            return None
        self._asked += 1
        return Job(**found, number=self._asked - 1)

    def tell(self, job: Job, epochs: float, value: float, is_last: bool) -> bool:
        """Tell it."""
        told = {"tell": job.number, "epochs": epochs, "value": value, "is_last": is_last}
        return bool(self._say(told))

    def _say(self, message: Mapping[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            error = self._errors.read().strip().splitlines()
            raise NotApplicable(f"its program ended: {error[-1] if error else 'without a word'}")
        return json.loads(answer)
