"""NePS in the league: Hyperband, and PriorBand without a prior.

By ask and tell; what is told is 1 - the best epoch's accuracy. It speaks as league_peer.py says:
neps_hyperband, neps_priorband.
"""

import random
from collections.abc import Callable
from typing import Any

import neps
import numpy as np
import torch
from league_peer import UNITS, Job, Setting, Tuner, from_steps, serve, whole
from neps.optimizers import algorithms
from neps.optimizers.ask_and_tell import AskAndTell
from neps.space import SearchSpace


class Neps(Tuner):
    """One of its optimizers, whose random numbers are the process's."""

    resumes = "goes on"
    packages = ("neural-pipeline-search",)

    def __init__(self, setting: Setting, make: Callable[..., Any]) -> None:
        random.seed(setting.seed)
        np.random.seed(setting.seed % 2**32)
        torch.manual_seed(setting.seed)
        fidelity = (
            neps.Integer(round(setting.min_epochs), setting.max_epochs, is_fidelity=True)
            if setting.min_epochs >= 1
            else neps.Float(setting.min_epochs, setting.max_epochs, is_fidelity=True)
        )
        space = SearchSpace(
            {
                **{name: neps.Integer(1, 8) for name in UNITS},
                "dropout_rate": neps.Integer(1, 9),
                "learning_rate": neps.Float(1e-4, 1e-2, log=True),
                "epochs": fidelity,
            }
        )
        middle = setting.begin == "middle"  # of a space without a prior, that is its centre
        self._neps = AskAndTell(make(space, eta=setting.factor, sample_prior_first=middle))
        self._jobs: dict[str, Job] = {}
        self._trials = 0

    def ask(self) -> Job:
        """Ask for a trial, which may go on with an earlier one."""
        asked = self._neps.ask()
        before = self._jobs.get(asked.metadata.previous_trial_id or "")
        end = whole(asked.config["epochs"])
        configuration = from_steps(asked.config)
        if before is None:
            job = Job(self._trials, configuration, end, asked)
            self._trials += 1
        else:
            job = Job(before.trial, configuration, end, asked, before.end)
        self._jobs[asked.id] = job
        return job

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report the best epoch at the end."""
        if is_last:
            # AskAndTell.tell of 0.13.0 makes this report and loses it; `neps.run` keeps it.
            job.handle.report = job.handle.set_complete(
                report_as="success",
                time_end=0.0,
                objective_to_minimize=1 - best,
                cost=None,
                learning_curve=None,
                err=None,
                tb=None,
                extra=None,
                evaluation_duration=None,
            )
        return True


if __name__ == "__main__":
    serve(
        {
            "neps_hyperband": lambda setting: Neps(setting, algorithms.hyperband),
            "neps_priorband": lambda setting: Neps(setting, algorithms.priorband),
        }
    )
