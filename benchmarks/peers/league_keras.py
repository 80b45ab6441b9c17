"""Keras Tuner's Hyperband in the league: its oracle, without training.

A worker asks it as a tuner of its own, as Keras Tuner's workers do. A trial's score is that of its
best epoch, and a promoted one goes on from the checkpoint of the lower round. It speaks as
league_peer.py says: keras_hyperband.
"""

import os
import tempfile

os.environ["KERAS_BACKEND"] = "torch"

import keras_tuner
from keras_tuner.src.engine.trial import TrialStatus
from keras_tuner.src.tuners.hyperband import HyperbandOracle
from league_peer import UNITS, Job, NotApplicable, Setting, Tuner, need_own_beginning, serve


class Hyperband(Tuner):
    """The oracle."""

    resumes = "goes on"
    packages = ("keras-tuner",)

    def __init__(self, setting: Setting) -> None:
        need_own_beginning(setting)
        if setting.min_epochs != 1:
            raise NotApplicable("its lowest rung follows from the budget and the factor")
        space = keras_tuner.HyperParameters()
        for name in UNITS:
            space.Int(name, 32, 256, step=32)
        space.Float("dropout_rate", 0.1, 0.9, step=0.1)
        space.Float("learning_rate", 1e-4, 1e-2, sampling="log")
        self._oracle = HyperbandOracle(
            objective=keras_tuner.Objective("val_accuracy", "max"),
            max_epochs=setting.max_epochs,
            factor=setting.factor,
            hyperband_iterations=1000,
            seed=setting.seed,
            hyperparameters=space,
        )
        self._folder = tempfile.TemporaryDirectory()
        self._oracle._set_project_dir(self._folder.name, "league")
        self._oracle.verbose = 0
        # What it writes after every trial is for going on after a crash.
        self._oracle.save = self._oracle._save_trial = lambda *_: None
        self._asked = 0

    def ask(self) -> Job | None:
        """Ask for a trial in the name of one more tuner."""
        self._asked += 1
        trial = self._oracle.create_trial(f"tuner{self._asked}")
        if trial.status != TrialStatus.RUNNING:
            return None
        values = trial.hyperparameters.values
        first = trial
        while "tuner/trial_id" in first.hyperparameters.values:
            first = self._oracle.trials[first.hyperparameters.values["tuner/trial_id"]]
        configuration = {name: values[name] for name in UNITS} | {
            "dropout_rate": round(values["dropout_rate"], 1),
            "learning_rate": values["learning_rate"],
        }
        return Job(
            int(first.trial_id),
            configuration,
            values["tuner/epochs"],
            trial,
            values["tuner/initial_epoch"],
        )

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report the best epoch at the end."""
        if is_last:
            trial = job.handle
            self._oracle.update_trial(trial.trial_id, {"val_accuracy": best})
            trial.status = TrialStatus.COMPLETED
            self._oracle.end_trial(trial)
        return True


if __name__ == "__main__":
    serve({"keras_hyperband": Hyperband})
