"""Hyperband at one batch size, as a study with a slot for each place in the plan."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.core.seeding import SAMPLER, TRIAL, derive_seed
from src.data.split import TrainingData
from src.options import TuneConfig
from src.results.folder import ResultsFolder
from src.search import space
from src.search.hyperband import Bracket, Plan
from src.search.planned_study import Slot, Slots, what_to_show
from src.search.pruner import BRACKET_ATTRIBUTE
from src.search.store import Store
from src.search.studies import SLOT, open_study
from src.training.device import Compute
from src.training.hyperparameters import Hyperparameters


class Search(Slots):
    """The search at one batch size. Running it again goes on where it stopped.

    Args:
        config: what the user set.
        batch_size: images a training batch, the same in every trial.
        plan: brackets, rungs and slots.
        store: where the study is, or will be; exclusively ours meanwhile.
        folder: where unfinished trials keep their states.
        data: images to train and validate on.
        compute: device and precision.
    """

    def __init__(
        self,
        config: TuneConfig,
        batch_size: int,
        plan: Plan,
        store: Store,
        folder: ResultsFolder,
        data: TrainingData,
        compute: Compute,
    ) -> None:
        super().__init__(
            str(batch_size),
            open_study(store.storage, config, batch_size, plan, data, compute),
            range(plan.trials),
            max_epochs=plan.max_epochs,
            patience=config.patience,
            store=store,
            folder=folder,
            compute=compute,
            log_dir=config.log_dir,
            shown=what_to_show(config.tensorboard, len(config.batch_sizes) * plan.trials),
        )
        self.batch_size = batch_size
        self._config = config
        self._plan = plan
        self._recipe = config.recipe_choices
        self._searched = space.distributions(self._recipe)

    def bracket(self, slot: Slot) -> Bracket:
        """Return the plan's."""
        return self._plan.bracket_of(int(slot))

    def seed(self, slot: Slot) -> int:
        """Return what follows from the study's seed, the batch size and the slot."""
        return derive_seed(self._config.seed, TRIAL, self.batch_size, int(slot))

    def label(self, slot: Slot, number: int) -> str:
        """Name the batch size, the trial and its bracket."""
        return f"batch {self.batch_size} trial {number:3d} bracket {self.bracket(slot).s}"

    def planned(self, slot: Slot) -> FrozenTrial:
        """Return a trial to add, which the sampler must find there when it is asked.

        Where one has failed, it has that one's configuration, and its reports: it may go on from
        the other's state, beyond rungs on which it must stand.
        """
        planned = create_trial(
            state=TrialState.WAITING,
            user_attrs={SLOT: slot, BRACKET_ATTRIBUTE: self.bracket(slot).s},
        )
        for failed in reversed(self._in_slot(slot, TrialState.FAIL)):
            if failed.params.keys() == self._searched.keys():
                planned.params, planned.distributions = failed.params, failed.distributions
                planned.intermediate_values = failed.intermediate_values
                break
        return planned

    def sampler(self, slot: Slot) -> optuna.samplers.BaseSampler:
        """Return one whose random numbers follow from the slot, whatever ran before."""
        seed = derive_seed(self._config.seed, SAMPLER, self.batch_size, int(slot))
        if self._config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return _KnownSpaceTPESampler(
            self._searched, seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True
        )

    def configuration(self, trial: optuna.Trial, slot: Slot) -> Hyperparameters:
        """Return what the sampler proposes."""
        return space.suggest(trial, self.batch_size, self._recipe)

    def model_name(self, slot: Slot) -> str:
        """Name the best model of the batch size."""
        return self._folder.study_model(self.batch_size).stem

    def turn(self, slot: Slot) -> int:
        """Return the slot's place in the plan."""
        return int(slot)


class _KnownSpaceTPESampler(optuna.samplers.TPESampler):
    """TPE that does not look through all trials for what they have in common: all of the space."""

    def __init__(self, searched: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._searched = searched

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._searched
