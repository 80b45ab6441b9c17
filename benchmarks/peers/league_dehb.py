"""DEHB in the league, by ask and tell; what is told is 1 - the best epoch's accuracy.

It speaks as league_peer.py says: dehb.
"""

import tempfile

import numpy as np
from ConfigSpace import ConfigurationSpace, Float, Integer
from dehb import DEHB
from league_peer import UNITS, Job, Setting, Tuner, from_steps, need_own_beginning, serve, whole


class Dehb(Tuner):
    """Differential evolution with Hyperband."""

    resumes = "starts anew"
    packages = ("DEHB", "ConfigSpace")

    def __init__(self, setting: Setting) -> None:
        need_own_beginning(setting)
        space = ConfigurationSpace(seed=setting.seed)
        space.add([Integer(name, (1, 8)) for name in UNITS])
        space.add(
            [
                Integer("dropout_rate", (1, 9)),
                Float("learning_rate", (1e-4, 1e-2), log=True),
            ]
        )
        np.random.seed(setting.seed % 2**32)
        self._folder = tempfile.TemporaryDirectory()
        self._dehb = DEHB(
            cs=space,
            f=None,
            min_fidelity=setting.min_epochs,
            max_fidelity=setting.max_epochs,
            eta=setting.factor,
            n_workers=1,  # more would start processes; it may be asked before it is told
            seed=setting.seed,
            output_path=self._folder.name,
            save_freq="end",
            log_level="ERROR",
        )
        self._trials: dict[object, int] = {}

    def ask(self) -> Job:
        """Ask for a configuration and a fidelity."""
        info = self._dehb.ask()
        trial = self._trials.setdefault(info["config_id"], len(self._trials))
        return Job(trial, from_steps(info["config"]), whole(info["fidelity"]), info)

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report the best epoch at the end."""
        if is_last:
            self._dehb.tell(job.handle, {"fitness": 1 - best, "cost": epochs})
        return True


if __name__ == "__main__":
    serve({"dehb": Dehb})
