"""How a tuner takes part in the league: JSON lines on standard input and output.

Every line is answered by one. What is asked:

    {"start": NAME, "seed": 0, "max_epochs": 9, "budget": 450, "factor": 3, "min_epochs": 1,
     "begin": ""}        → {"resumes": ..., "versions": ...} or {"not_applicable": REASON}
    {"ask": true}        → {"trial": 0, "configuration": {...}, "begin": 0, "end": 3} or null
    {"tell": JOB, "epochs": 1, "value": 0.9, "is_last": false}
                         → true: it goes on; false: it is over

A trial is a configuration, counted from 0; it is trained from `begin` to `end` epochs. null: an
idle worker waits. A job is an answer to `ask`, counted from 0. A fit that diverges is told with 0
as its last value. `start` begins anew, so that one process serves many searches.
"""

import json
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

UNITS = ("conv1", "conv2", "dense_units")
"""From 32 to 256 by 32."""

MIDDLE = {**dict.fromkeys(UNITS, 5), "dropout_rate": 5, "learning_rate": 1e-3}
"""The middle of the space, with units and dropout rate in steps."""


@dataclass(frozen=True)
class Setting:
    """What a tuner is asked to do."""

    seed: int
    max_epochs: int
    budget: float
    """Epochs of all fits together."""
    factor: int
    min_epochs: float
    begin: Literal["", "middle"]
    """The first configuration: as the library draws it by itself, or the middle of the space."""


@dataclass(frozen=True)
class Job:
    """What a tuner wants to be trained."""

    trial: int
    configuration: Mapping[str, float]
    end: float
    handle: Any = None
    """What the tuner knows it by."""
    begin: float = 0


class NotApplicable(Exception):  # noqa: N818  # no error
    """A tuner cannot do what is asked."""


class Tuner(ABC):
    """A library's tuner."""

    resumes: str
    """What becomes of a promoted trial, as its library does it: it never pauses, goes on from its
    checkpoint, so that only new epochs count, or starts anew, so that all count again."""
    packages: tuple[str, ...]
    """Whose versions are recorded."""

    @abstractmethod
    def ask(self) -> Job | None:
        """Return what an idle worker shall train; None: it waits."""

    @abstractmethod
    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Take a validation accuracy, and the job's best so far; return whether it goes on."""


def from_steps(values: Mapping[str, Any]) -> dict[str, float]:
    """Return a configuration of one whose units and dropout rate are counted in steps."""
    found = {name: 32 * int(values[name]) for name in UNITS}
    return {
        **found,
        "dropout_rate": round(0.1 * int(values["dropout_rate"]), 1),
        "learning_rate": float(values["learning_rate"]),
    }


def whole(budget: float) -> float:
    """Return a budget in epochs, those above one rounded up to whole ones."""
    return math.ceil(budget - 1e-9) if budget > 1 else float(budget)


def serve(tuners: Mapping[str, Callable[[Setting], Tuner]]) -> None:
    """Answer until standard input ends."""
    # Libraries print to where only answers may go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tuner: Tuner
    jobs: list[Job] = []
    best: dict[int, float] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any
        if "start" in asked:
            name = asked.pop("start")
            jobs, best = [], {}
            try:
                tuner = tuners[name](Setting(**asked))
                versions = {package: version(package) for package in tuner.packages}
                answer = {"resumes": tuner.resumes, "versions": versions}
            except NotApplicable as reason:
                answer = {"not_applicable": str(reason)}
        elif "ask" in asked:
            if (job := tuner.ask()) is not None:
                jobs.append(job)
            answer = job and {
                "trial": job.trial,
                "configuration": dict(job.configuration),
                "begin": job.begin,
                "end": job.end,
            }
        else:
            number, value = asked["tell"], asked["value"]
            best[number] = max(value, best.get(number, 0.0))
            answer = tuner.tell(
                jobs[number], asked["epochs"], value, best[number], asked["is_last"]
            )
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def need_whole_epochs(setting: Setting) -> None:
    """Refuse rungs within an epoch."""
    if setting.min_epochs < 1:
        raise NotApplicable("it counts whole epochs")


def need_own_beginning(setting: Setting) -> None:
    """Refuse another first configuration than the library's own."""
    if setting.begin:
        raise NotApplicable("it has no option for where it begins")
