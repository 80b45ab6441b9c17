"""Syne Tune's ASHA in the league, of the stopping kind, which is the only one that it still has.

It speaks as league_peer.py says: syne_tune_asha.
"""

import datetime

import numpy as np
from league_peer import MIDDLE, UNITS, Job, Setting, Tuner, from_steps, need_whole_epochs, serve
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import loguniform, randint
from syne_tune.optimizer.baselines import ASHA
from syne_tune.optimizer.scheduler import SchedulerDecision


class Asha(Tuner):
    """A scheduler that is told every epoch."""

    resumes = "never pauses"
    packages = ("syne-tune",)

    def __init__(self, setting: Setting) -> None:
        need_whole_epochs(setting)
        np.random.seed(setting.seed % 2**32)
        self._max_epochs = setting.max_epochs
        self._asha = ASHA(
            {
                **{name: randint(1, 8) for name in UNITS},
                "dropout_rate": randint(1, 9),
                "learning_rate": loguniform(1e-4, 1e-2),
            },
            metric="val_accuracy",
            time_attr="epoch",
            max_t=setting.max_epochs,
            do_minimize=False,
            random_seed=setting.seed,
            grace_period=round(setting.min_epochs),
            reduction_factor=setting.factor,
            points_to_evaluate=[MIDDLE] if setting.begin == "middle" else None,
        )
        self._asked = 0

    def ask(self) -> Job:
        """Ask for a configuration."""
        config = self._asha.suggest().config
        trial = Trial(self._asked, config, datetime.datetime.now())
        self._asked += 1
        self._asha.on_trial_add(trial)
        return Job(trial.trial_id, from_steps(config), self._max_epochs, trial)

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report an epoch."""
        result = {"val_accuracy": value, "epoch": round(epochs)}
        decision = self._asha.on_trial_result(job.handle, result)
        if is_last or decision == SchedulerDecision.STOP:
            self._asha.on_trial_remove(job.handle)
        return bool(decision != SchedulerDecision.STOP)


if __name__ == "__main__":
    serve({"syne_tune_asha": Asha})
