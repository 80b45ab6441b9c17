"""Search for the best configuration with Hyperband, once for each batch size.

    python -m src.tune --config configs/quickstart.yaml     # minutes on a laptop
    python -m src.tune --dataset mnist --batch_sizes "[64,208]" --max_epochs 9

Writes results/<dataset>/ (CSV tables, pictures, best.json, best-model.ckpt, the studies) and
lightning_logs/<dataset>/ (curves for TensorBoard). The same command goes on where it stopped.
"""

import contextlib
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from src import cli
from src.core import checks
from src.core.console import open_console, say
from src.core.errors import UserError
from src.core.interrupt import Signals
from src.options import FitOptions, SearchRunOptions
from src.search.display import print_best, print_plan, print_ranking
from src.search.hyperband import Plan, make_plan
from src.search.promotion import Promotion
from src.search.spec import Sampler, SearchSpec
from src.training.hyperparameters import RECIPE, Augmentation
from src.training.schedule import Schedule

if TYPE_CHECKING:
    from src.search.guesses import Guess
    from src.search.session import Session
    from src.search.timing import Timing
    from src.workers.worker import Fit

_Choice = TypeVar("_Choice")

_TRIALS_AT_MOST = 1_000_000

_MIN_EPOCHS = 0.001


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SearchRunOptions, FitOptions):
    """A Hyperband search, once for each batch size."""

    batch_sizes: tuple[int, ...] = (64,)
    """Batch sizes to search, one study each, such as "[64,208]"."""
    reduction_factor: int = 2
    """Hyperband's η: of the trials on a rung, one in this many is promoted."""
    min_epochs: float = 1.0
    """The lowest rung's epochs, at least; also a part of the first, such as 0.1."""
    brackets: int | None = None
    """Run only so many of an iteration's brackets, those that begin with the most trials; null:
    all, as Hyperband does."""
    promotion: Promotion = "stopping"
    """How rungs decide. synchronous: trials wait until all are there, and exactly the best go on;
    asynchronous: whoever is among the best so far goes on, the others wait; stopping: the others
    are stopped at once, as Optuna's HyperbandPruner has it."""
    iterations: int = 1
    """Hyperband iterations for each batch size, in all; more than were run before adds to them."""
    schedule: Schedule | tuple[Schedule, ...] = "constant"
    """How the learning rate goes over a trial's epochs: constant, one_cycle or cosine. Of several,
    such as "[constant,one_cycle]", the search chooses one for each trial."""
    label_smoothing: float | tuple[float, ...] = 0.0
    """Share of every label that is spread over all classes in training, or several to choose
    from."""
    augmentation: Augmentation | tuple[Augmentation, ...] = "none"
    """How training images are distorted: none, affine, elastic or affine_elastic, or several to
    choose from."""
    weight_averaging: bool | tuple[bool, ...] = False
    """Whether the average of the weights over about the last epoch is what counts: true, false, or
    "[true,false]" to choose from."""
    weight_decay: float | tuple[float, ...] = 0.0
    """Share, times the learning rate, by which each step shrinks all weights, or several to choose
    from."""
    sampler: Sampler = "gp"
    """How configurations are proposed. gp: a Gaussian process, from the trials of all batch sizes;
    tpe: Optuna's Tree-structured Parzen Estimator, from those of the same batch size; random:
    uniformly."""
    cost_exponent: float = 0.0
    """With the sampler gp, divide the improvement expected of a configuration by this power of its
    network's arithmetic: with 0.5, say, smaller networks are tried, in less time; 0: not at all."""
    try_: str | None = None
    """Configurations to try first, whole or in part, in places of the plan at every batch size:
    one, such as "{conv1: 256, dropout_rate: 0.5}", a list of them, or a YAML file with either."""
    patience: int | None = 3
    """Stop a trial after this many epochs without a better validation accuracy; null: never."""
    finalists: int = 0
    """When the search is over, train this many of the best configurations again with several
    seeds, and choose the winner by their means; 0: the best trial wins."""
    seeds: int = 5
    """How often each finalist is trained, with --finalists."""
    plan: bool = False
    """Print the plan and stop."""

    def __post_init__(self) -> None:
        FitOptions.__post_init__(self)
        SearchRunOptions.__post_init__(self)
        if not self.batch_sizes:
            raise UserError("`batch_sizes` (=[]) must name at least one, such as [64,208]")
        for batch_size in self.batch_sizes:
            checks.within("batch_sizes", batch_size, 1)
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise UserError(f"`batch_sizes` (={list(self.batch_sizes)}) names one twice")
        checks.within("reduction_factor", self.reduction_factor, 2)
        checks.within("iterations", self.iterations, 1)
        if not _MIN_EPOCHS <= self.min_epochs <= self.max_epochs:
            raise UserError(
                f"`min_epochs` (={self.min_epochs}) must be >= {_MIN_EPOCHS}, and at most "
                f"`max_epochs` (={self.max_epochs})"
            )
        trials = self.make_plan().trials
        if trials > _TRIALS_AT_MOST:
            raise UserError(
                f"`max_epochs` (={self.max_epochs}) with `reduction_factor` "
                f"(={self.reduction_factor}) and `iterations` (={self.iterations}) plan {trials:,} "
                f"trials for each batch size; {_TRIALS_AT_MOST:,} are the most"
            )
        for name, choices in self.recipe_choices.items():
            if not choices or len(set(choices)) < len(choices):
                raise UserError(f"`{name}` (={list(choices)}) must name at least one, each once")
        for name in ("label_smoothing", "weight_decay"):
            for share in self.recipe_choices[name]:
                checks.share(name, share)
        if not 0 <= self.cost_exponent <= 1 or (self.cost_exponent and self.sampler != "gp"):
            raise UserError(
                f"`cost_exponent` (={self.cost_exponent}) must be >= 0 and <= 1, and 0 but with "
                f"`sampler` gp (={self.sampler})"
            )
        if self.patience is not None:
            checks.within("patience", self.patience, 1)
        if self.finalists:
            checks.within("finalists", self.finalists, 1)
        checks.within("seeds", self.seeds, 2)

    def make_plan(self) -> Plan:
        """Lay out the search."""
        try:
            return make_plan(
                self.max_epochs,
                self.reduction_factor,
                self.iterations,
                self.min_epochs,
                self.brackets,
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    @property
    def recipe_choices(self) -> dict[str, tuple[Any, ...]]:
        """What the search chooses the recipe of a trial from: one value or more of each option."""
        return {name: _choices(getattr(self, name)) for name in RECIPE}

    def guesses(self) -> "Sequence[Guess]":
        """Read what is to be tried first."""
        from src.search import space
        from src.search.guesses import read_guesses

        searched = space.distributions(self.recipe_choices)
        return read_guesses(self.try_, searched) if self.try_ else ()

    def search_spec(self, session: "Session") -> SearchSpec:
        """Return what all trials of the search have in common."""
        from src.search import space

        return SearchSpec(
            data=self.data_spec,
            max_epochs=self.max_epochs,
            reduction_factor=self.reduction_factor,
            min_epochs=self.min_epochs,
            brackets=self.brackets,
            promotion=self.promotion,
            sampler=self.sampler,
            cost_exponent=self.cost_exponent,
            patience=self.patience,
            precision=session.launcher.compute.precision,
            recipe=self.recipe_choices,
            search_space=space.describe(),
            split_hash=session.data.split_hash,
        )


def _choices(value: _Choice | tuple[_Choice, ...]) -> tuple[_Choice, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(options: TuneOptions, fit: "Fit | None" = None, timing: "Timing | None" = None) -> int:
    """Print the plan, and search; return the exit code.

    Args:
        options: what the user wants.
        fit: trains a configuration; None: `src.training.fit`.
        timing: how long the search waits for what; None: as a search does.
    """
    console, plan = open_console(), options.make_plan()
    print_plan(console, plan, options.batch_sizes, options.promotion)
    if options.plan:
        return 0

    from src.core.files import make_writable
    from src.data.split import load_training_data, refuse_large_batches
    from src.data.stretches import refuse_looks_at_one_step
    from src.results.folder import ResultsFolder
    from src.search.session import TIMING, Session, open_store
    from src.workers.launch import launching

    guesses = options.guesses()
    folder = ResultsFolder(options.results_dir, options.dataset)
    make_writable(folder.path, "--results_dir")
    make_writable(options.log_dir, "--log_dir")
    load = functools.partial(load_training_data, options.data_spec, options.data_dir)
    with Signals(options.seconds) as interruption, contextlib.ExitStack() as stack:
        data = load(interruption=interruption)
        refuse_large_batches("batch_sizes", options.batch_sizes, data)
        refuse_looks_at_one_step("min_epochs", plan.looks, options.batch_sizes, len(data.train))
        launch_spec = options.launch_spec(options.precision)
        launcher = stack.enter_context(launching(launch_spec, data, load, interruption, fit))
        storage = open_store(options.storage_url, options.heartbeat, folder, console)
        session = Session(
            data=data,
            launcher=launcher,
            store=stack.enter_context(storage),
            folder=folder,
            logs=options.logs,
            interruption=interruption,
            console=console,
            timing=timing or TIMING,
        )
        return _search(options, plan, guesses, session)


def _search(
    options: TuneOptions, plan: Plan, guesses: "Sequence[Guess]", session: "Session"
) -> int:
    """Run what is left of the search at each batch size, and publish what came out."""
    from src.reporting.publish import (
        check_models,
        publish_search,
        publish_study,
        refuse_to_lose_trials,
        write_winner,
    )
    from src.search.fill import fill, open_places
    from src.search.finals import choose_finalists, run_finals
    from src.search.hyperband_study import open_hyperband_studies
    from src.search.planned_study import PlannedStudy
    from src.search.studies import check_spec, ended_trials, load_studies
    from src.training.progress import print_data

    store = session.store
    spec = options.search_spec(session)
    with store.exclusive():  # or two that start at once could begin with different specs
        check_spec(spec, session)
        studies = load_studies(store.storage, options.dataset)
        refuse_to_lose_trials(studies, session)
        check_models(studies, session)  # better known missing now than after hours
        searches = open_hyperband_studies(spec, options.batch_sizes, plan, session, guesses)

    def publish(search: PlannedStudy) -> None:
        publish_study(search, plan, session)

    worker_count = min(session.launcher.worker_count, open_places(searches))
    print_data(session.console, session.data, session.launcher.compute, worker_count)
    for search in searches:
        if search.is_complete:
            search.drop_states()
            publish(search)
    done = [record for search in searches for record in ended_trials(search.study)]
    outcome = last = fill("search", searches, session, done=done, on_complete=publish)
    studies = load_studies(store.storage, options.dataset)
    print_ranking(
        session.console, [record for study in studies.values() for record in ended_trials(study)]
    )
    finalists = choose_finalists(studies, options.finalists)
    best = publish_search(studies, session)
    if finalists and outcome.succeeded:
        last = run_finals(finalists, studies, options.seeds, session)
        best = publish_search(studies, session)

    trained = outcome.open_before or last.open_before
    if not trained:
        say(session.console, "The budget is spent already; `--iterations` can add to it.")
    if best is not None:
        if options.tensorboard != "none" and last.succeeded and trained:
            write_winner(options.log_dir, best, session.data, options.own_device)
        print_best(session, best, options.batch_sizes)
    return last.conclude(session)


COMMAND = cli.Command("src.tune", __doc__, TuneOptions, run, flags=("plan",))
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(main())
