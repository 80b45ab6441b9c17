"""Optuna in the league, as its example with Lightning has it.

TPE; PyTorchLightningPruningCallback reports after every epoch, counted from 0; the objective is the
last epoch's accuracy. It speaks as league_peer.py says: optuna_hyperband, optuna_halving.
"""

from collections.abc import Callable

import optuna
from league_peer import MIDDLE, Job, Setting, Tuner, from_steps, need_whole_epochs, serve
from optuna.trial import TrialState


class Study(Tuner):
    """A study whose trials stop where its pruner says so."""

    resumes = "never pauses"
    packages = ("optuna",)

    def __init__(
        self, setting: Setting, make: Callable[[Setting], optuna.pruners.BasePruner]
    ) -> None:
        need_whole_epochs(setting)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=setting.seed)
        self._study = optuna.create_study(
            study_name=f"league {setting.seed}",  # its Hyperband draws brackets from the name
            direction="maximize",
            sampler=sampler,
            pruner=make(setting),
        )
        if setting.begin == "middle":
            self._study.enqueue_trial(from_steps(MIDDLE))
        self._max_epochs = setting.max_epochs

    def ask(self) -> Job:
        """Begin a trial."""
        trial = self._study.ask()
        configuration = {
            name: trial.suggest_int(name, 32, 256, step=32)
            for name in ("conv1", "conv2", "dense_units")
        }
        configuration |= {
            "dropout_rate": round(trial.suggest_float("dropout_rate", 0.1, 0.9, step=0.1), 1),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        }
        return Job(trial.number, configuration, self._max_epochs, trial)

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report an epoch."""
        job.handle.report(value, step=round(epochs) - 1)
        if job.handle.should_prune():
            self._study.tell(job.handle, state=TrialState.PRUNED)
            return False
        if is_last:
            self._study.tell(job.handle, value)
        return True


def hyperband(setting: Setting) -> optuna.pruners.BasePruner:
    """Make Optuna's Hyperband."""
    return optuna.pruners.HyperbandPruner(
        min_resource=round(setting.min_epochs),
        max_resource=setting.max_epochs,
        reduction_factor=setting.factor,
    )


def halving(setting: Setting) -> optuna.pruners.BasePruner:
    """Make Optuna's asynchronous successive halving."""
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=round(setting.min_epochs), reduction_factor=setting.factor
    )


if __name__ == "__main__":
    serve(
        {
            "optuna_hyperband": lambda setting: Study(setting, hyperband),
            "optuna_halving": lambda setting: Study(setting, halving),
        }
    )
