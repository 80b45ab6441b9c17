"""What a person sees: plan, live progress (a line a trial where there is no terminal), ranking."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import TaskID

from src.core.console import live_progress, plural, print_figures, say, together
from src.data.catalog import CLASS_NAMES
from src.results.folder import RESULTS_DIR
from src.results.records import Decision, TrialRecord
from src.search.hyperband import Plan
from src.search.promotion import Promotion

if TYPE_CHECKING:  # the plan is printed before anything heavy is imported
    from src.search.planned_study import StartedTrial
    from src.search.session import Session
    from src.training.checkpoint import SavedModel


class SearchDisplay:
    """Shows a search: a bar over all its trials, one for each that trains, a line for each ended.

    Args:
        console: where to show it; bars appear on a terminal only.
        name: of the stage.
        total: trials of the whole stage.
        done: trials that earlier runs have ended.
    """

    def __init__(
        self, console: Console, name: str, total: int, done: Sequence[TrialRecord]
    ) -> None:
        self._progress = live_progress(console)
        self._bar = self._progress.add_task(name, total=total, status="")
        self._best = 0.0
        self._training: dict[StartedTrial, TaskID] = {}
        for record in done:
            self._tally(record)

    def __enter__(self) -> SearchDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._training.values():
            self._progress.remove_task(bar)
        self._progress.stop()

    def trial_started(self, trial: StartedTrial) -> None:
        """Show the trial's bar."""
        self._training[trial] = self._progress.add_task(
            trial.label, total=trial.max_epochs, status=""
        )

    def trial_advanced(self, trial: StartedTrial, epochs: float) -> None:
        """Move the trial's bar."""
        self._progress.update(self._training[trial], completed=epochs)

    def epoch_ended(self, trial: StartedTrial, epoch: float, val_accuracy: float) -> None:
        """Show the trial's best validation accuracy."""
        status = f"epoch {_short(epoch)}/{trial.max_epochs} · val {val_accuracy:.4f}"
        self._progress.update(self._training[trial], completed=epoch, status=status)

    def trial_ended(self, trial: StartedTrial, record: TrialRecord | None) -> None:
        """Print the trial's line, unless it is to go on later."""
        if (bar := self._training.pop(trial, None)) is not None:
            self._progress.remove_task(bar)
        if record is None:
            return
        self._tally(record)
        accuracy = "–" if record.val_accuracy is None else f"{record.val_accuracy:.6f}"
        hp = record.hyperparameters
        figures = together(f"{_short(record.epochs):>3} epochs {record.seconds:6.1f} s")
        configuration = together(
            f"{hp.conv1}-{hp.conv2}-{hp.dense_units} {hp.dropout_rate:g} {hp.learning_rate:.2e}"
        )
        say(
            self._progress.console,
            f"{trial.label} {record.state:8s} {accuracy:8s} {figures}  {configuration}  "
            f"{record.reason}".rstrip(),
        )

    def places_filled(self, count: int) -> None:
        """Move the bar of the search."""
        self._progress.update(self._bar, completed=count)

    def _tally(self, record: TrialRecord) -> None:
        if record.state == "COMPLETE" and record.val_accuracy is not None:
            self._best = max(self._best, record.val_accuracy)
            self._progress.update(self._bar, status=f"best {self._best:.6f}")


def _short(epochs: float) -> str:
    """Format epochs with three decimals at most."""
    return f"{round(epochs, 3):.12g}"


def print_plan(
    console: Console, plan: Plan, batch_sizes: Sequence[int], promotion: Promotion = "stopping"
) -> None:
    """Print a plan: a row for each bracket, a column for each of its rungs."""
    studies = len(batch_sizes)
    rows = []
    for bracket in plan.brackets:
        rungs = [f"{rung.trials} → {_short(rung.epochs)}" for rung in bracket.rungs]
        rows.append([str(bracket.s), *rungs, *[""] * (len(plan.brackets[0].rungs) - len(rungs))])
    print_figures(
        console,
        ["bracket", *(f"rung {i}" for i in range(len(plan.brackets[0].rungs)))],
        rows,
        title=f"Hyperband: {plan.max_epochs} epochs, factor {plan.reduction_factor}, "
        f"{plan.extent}, {plural(studies, 'batch size')}. "
        "An iteration, as trials on the rung → epochs they have had there:",
        justify="left",
    )
    exact = f"{round(studies * plan.epochs_if_exact, 1):,.12g}"
    epochs = {
        "synchronous": f"Epochs: {exact}.",
        "asynchronous": f"Epochs: {exact}, and those of trials promoted before better ones came.",
        "stopping": f"Epochs: {exact} if exactly one trial in {plan.reduction_factor} leaves each "
        f"rung, {studies * plan.epochs_at_most:,} at most.",
    }
    say(
        console,
        f"{plural(plan.trials, 'trial')} for each batch size, {studies * plan.trials:,} in all. "
        f"{epochs[promotion]}",
    )
    if promotion != "stopping":
        states = plural(plan.states_per_worker, "state")
        say(console, f"At most {states} of waiting trials for each worker lie on disk at once.")


def print_ranking(console: Console, records: Sequence[TrialRecord], most: int = 10) -> None:
    """Print the best finished trials, the best first."""
    finished = [record for record in records if record.state == "COMPLETE"]
    if not finished:
        say(console, "No trial has trained to its end yet.")
        return
    finished.sort(key=lambda record: -(record.val_accuracy or 0.0))
    rows = []
    for record in finished[:most]:
        hp = record.hyperparameters
        rows.append([
            f"{record.val_accuracy:.6f}", str(hp.conv1), str(hp.conv2), str(hp.dense_units),
            f"{hp.dropout_rate:g}", f"{hp.learning_rate:.3g}", str(hp.batch_size),
            _short(record.epochs), str(record.bracket), str(record.trial),
        ])  # fmt: skip
    print_figures(
        console,
        [
            "val accuracy", "conv1", "conv2", "dense units", "dropout rate", "learning rate",
            "batch size", "epochs", "bracket", "trial",
        ],
        rows,
        title=f"The best of {plural(len(records), 'trial')}, {len(finished):,} finished:",
    )  # fmt: skip


def print_finals(console: Console, decision: Decision) -> None:
    """Print the finalists, the winner first."""
    classes = len(CLASS_NAMES[decision.dataset])
    rows = []
    for one in decision.finalists:
        hp, seeds = one.hyperparameters, str(len(one.seeds))
        if one.diverged:
            seeds += f", {len(one.diverged)} diverged"
        low, high = one.ci95 or (math.nan, math.nan)
        rows.append([
            f"{one.mean:.5f} ± {one.std or 0.0:.5f}", f"{low:.5f} to {high:.5f}",
            seeds, f"{one.search_val_accuracy:.5f}", f"{one.optimism:+.5f}",
            str(one.batch_size), str(one.trial),
            f"{hp.conv1}-{hp.conv2}-{hp.dense_units}", f"{hp.count_parameters(classes):,}",
        ])  # fmt: skip
    print_figures(
        console,
        [
            "mean ± std", "95 % interval", "seeds", "search said", "optimism", "batch size",
            "trial", "conv1-conv2-dense", "parameters",
        ],
        rows,
        title="The finalists' validation accuracy, each trained again with several seeds:",
    )  # fmt: skip
    for one in decision.finalists:
        if one.rank == decision.smallest != 1:
            say(
                console,
                "The smallest within one standard error of the winner's mean: batch size "
                f"{one.batch_size}, trial {one.trial}.",
            )


def print_best(session: Session, best: SavedModel, batch_sizes: Sequence[int]) -> None:
    """Print the best model's configuration, and what to do with it."""
    hp, folder = best.hyperparameters, session.folder
    whose = " (the winner's best seed)" if folder.finalists_json.exists() else ""
    report = f"python -m src.report --dataset {folder.path.name}"
    if folder.path.parent != Path(RESULTS_DIR).absolute():
        report += f" --results_dir {shlex.quote(str(folder.path.parent))}"
    say(
        session.console,
        f"Best: conv1 {hp.conv1}, conv2 {hp.conv2}, dense_units {hp.dense_units}, "
        f"dropout_rate {hp.dropout_rate:g}, learning_rate {hp.learning_rate:.3g}, "
        f"batch_size {hp.batch_size}: validation accuracy {best.val_accuracy:.6f}{whose}\n"
        f"Written to {folder.path}: {', '.join(folder.published(batch_sizes))}\n"
        "Next:\n"
        f"  tensorboard --logdir {shlex.quote(str(session.logs.folder))}\n"
        f"  python -m src.evaluate {shlex.quote(str(folder.best_model))}\n"
        f"  {report}",
    )
