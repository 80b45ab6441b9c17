"""SMAC3 in the league: Hyperband, and Hyperband with a random forest (multi-fidelity).

By ask and tell; what is told is 1 - the best epoch's accuracy. It speaks as league_peer.py says:
smac_hyperband, smac_multifidelity.
"""

import math
import tempfile

from ConfigSpace import ConfigurationSpace, Float, Integer
from league_peer import UNITS, Job, Setting, Tuner, from_steps, serve, whole
from smac import HyperbandFacade, MultiFidelityFacade, Scenario
from smac.facade.abstract_facade import AbstractFacade
from smac.runhistory.dataclasses import TrialValue


class Smac(Tuner):
    """A facade and its intensifier."""

    resumes = "starts anew"
    packages = ("smac", "ConfigSpace")

    def __init__(self, setting: Setting, facade: type[AbstractFacade]) -> None:
        space = ConfigurationSpace(seed=setting.seed)
        space.add([Integer(name, (1, 8)) for name in UNITS])
        space.add(
            [
                Integer("dropout_rate", (1, 9)),
                Float("learning_rate", (1e-4, 1e-2), log=True),
            ]
        )
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            space,
            output_directory=self._folder.name,
            deterministic=True,
            n_trials=_trials(setting),
            min_budget=setting.min_epochs,
            max_budget=setting.max_epochs,
            seed=setting.seed,
            use_default_config=setting.begin == "middle",  # the middle, last of its first ones
        )
        self._facade = facade(
            scenario,
            _never,
            intensifier=facade.get_intensifier(scenario, eta=setting.factor),
            overwrite=True,
            logging_level=False,
        )
        self._trials: dict[object, int] = {}

    def ask(self) -> Job:
        """Ask for a trial."""
        info = self._facade.ask()
        trial = self._trials.setdefault(info.config, len(self._trials))
        return Job(trial, from_steps(info.config), whole(info.budget), info)

    def tell(self, job: Job, epochs: float, value: float, best: float, is_last: bool) -> bool:
        """Report the best epoch at the end."""
        if is_last:
            self._facade.tell(job.handle, TrialValue(cost=1 - best), save=False)
        return True


def _trials(setting: Setting) -> int:
    """Return how many trials of Hyperband the budget pays for, about: each starts anew.

    Of as many SMAC draws a part at random before it learns.
    """
    cuts = math.floor(math.log(setting.max_epochs / setting.min_epochs, setting.factor) + 1e-9)
    trials, epochs = 0, 0.0
    for s in range(cuts + 1):
        first = math.ceil((cuts + 1) / (s + 1) * setting.factor**s)
        for i in range(s + 1):
            trials += first // setting.factor**i
            epochs += first // setting.factor**i * setting.max_epochs / setting.factor ** (s - i)
    return max(1, round(setting.budget * trials / epochs))


def _never(config: object, seed: int = 0, budget: float = 0.0) -> float:
    raise AssertionError("unreachable: the league trains")


if __name__ == "__main__":
    serve(
        {
            "smac_hyperband": lambda setting: Smac(setting, HyperbandFacade),
            "smac_multifidelity": lambda setting: Smac(setting, MultiFidelityFacade),
        }
    )
