"""Read a results folder for a report, and refuse files whose content is inconsistent."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from src.core.decode import (
    check_count,
    check_seconds,
    check_share,
    parse_json,
    pick,
    reading,
    refuse,
)
from src.core.errors import UserError
from src.results.folder import ResultsFolder
from src.results.records import (
    BestSummary,
    Decision,
    Finalist,
    Rematch,
    Run,
    SearchSummary,
    TestMetrics,
    TestRecord,
    TrialRecord,
)
from src.results.tables import DECIMALS, read_epochs, read_trials
from src.results.test_log import read_tests
from src.search.hyperband import Plan, make_plan
from src.search.promotion import Promotion
from src.search.spec import Sampler

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_SHORTEST = 67
"""Bytes of a picture of one pixel."""

_Document = TypeVar("_Document")


@dataclass(frozen=True, kw_only=True)
class Search:
    """The search as a whole, as best.json has it."""

    summary: SearchSummary
    plan: Plan
    promotion: Promotion
    """How rungs decided which trials go on."""
    sampler: Sampler
    """What proposed configurations."""
    images: dict[str, int]
    """How many images trained, and how many validated."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a results folder holds."""

    dataset: str
    trials: tuple[TrialRecord, ...]
    search: Search | None
    """None until a trial has finished."""
    finals: Decision | None
    rematch: Rematch | None
    """What was published and what was found, both trained again."""
    tested: TestMetrics | None
    """What `evaluate` measured last on the data set's own test images."""
    mistakes: bytes | None
    """The picture of the tested model's worst mistakes, a PNG."""
    openings: tuple[TestRecord, ...]
    """Every look at the test images."""
    best_model_sha256: str | None


def read_findings(folder: ResultsFolder) -> Findings:
    """Read a results folder.

    Raises:
        UserError: there is no search in it, or a file is damaged.
    """
    if not folder.all_csv.exists():
        raise UserError(
            f"there is no search in {folder.path} ({folder.all_csv.name} is missing); "
            f"python -m src.tune --dataset {folder.path.name} makes one"
        )
    trials = _read_trials(folder)
    if not trials:
        raise UserError(
            f"no trial has ended in {folder.path} yet; the same `tune` command goes on with it"
        )
    search = _read_document(folder.best_json, _parse_search)
    if search is not None:
        planned = [bracket.s for bracket in search.plan.brackets]
        for trial in trials:
            if trial.bracket not in planned:
                refuse(folder.all_csv, f"it has a bracket {trial.bracket}; the plan has {planned}")
        if not any(trial.state == "COMPLETE" for trial in trials):
            refuse(folder.all_csv, f"it has no finished trial, though {folder.best_json} has")
        trials = tuple(_on_rungs(trial, search.plan) for trial in trials)
    tested = _read_document(folder.metrics_json, _parse_metrics)
    return Findings(
        dataset=folder.path.name,
        trials=trials,
        search=search,
        finals=_read_document(folder.finalists_json, _parse_decision),
        rematch=_read_document(folder.rematch_json, parse_rematch),
        tested=tested,
        mistakes=_read_picture(folder.mistakes) if tested and tested.mistakes else None,
        openings=tuple(read_tests(folder)),
        best_model_sha256=(
            hashlib.sha256(folder.best_model.read_bytes()).hexdigest()
            if folder.best_model.exists()
            else None
        ),
    )


def _read_trials(folder: ResultsFolder) -> tuple[TrialRecord, ...]:
    """Read the trials with their learning curves."""
    curves = read_epochs(folder.curves_csv)
    trials = []
    for record in read_trials(folder.all_csv):
        history = curves.get((record.batch_size, record.trial), ())
        if history and history[-1].epoch != record.epochs:
            refuse(
                folder.curves_csv,
                f"trial {record.trial} at batch size {record.batch_size} has {history[-1].epoch} "
                f"epochs there and {record.epochs} in {folder.all_csv.name}",
            )
        trials.append(replace(record, history=history))
    return tuple(trials)


def _on_rungs(trial: TrialRecord, plan: Plan) -> TrialRecord:
    """Return a trial with the plan's shares of an epoch, which tables round."""
    exact = {round(look, DECIMALS): look for look in plan.looks}
    return replace(
        trial,
        epochs=exact.get(trial.epochs, trial.epochs),
        history=tuple(
            replace(look, epoch=exact.get(look.epoch, look.epoch)) for look in trial.history
        ),
    )


def _read_document(path: Path, parse: Callable[[dict[str, Any]], _Document]) -> _Document | None:
    """Read a JSON file; None where there is none."""
    if not path.exists():
        return None
    with reading(path):
        return parse(parse_json(path.read_bytes()))


@dataclass(frozen=True, kw_only=True)
class _Budget:
    max_epochs: int
    reduction_factor: int
    iterations: int
    min_epochs: float = 1
    brackets: int | None = None
    promotion: Promotion = "stopping"
    sampler: Sampler = "tpe"


def _parse_search(document: dict[str, Any]) -> Search:
    best = BestSummary.from_document(document)
    budget = pick(_Budget, best.search.settings)
    check_count(budget.max_epochs)
    if budget.min_epochs < 10**-DECIMALS:
        raise ValueError(f"its min_epochs (={budget.min_epochs}) are too few to be told apart")
    images = best.data.images
    if not check_count(images["train"]) or not check_count(images["validation"]):
        raise ValueError("no image trained, or none validated")
    _check_dates(best.search.runs)
    return Search(
        summary=best.search,
        plan=make_plan(
            budget.max_epochs,
            budget.reduction_factor,
            budget.iterations,
            budget.min_epochs,
            budget.brackets,
        ),
        promotion=budget.promotion,
        sampler=budget.sampler,
        images=images,
    )


def _parse_decision(document: dict[str, Any]) -> Decision:
    decision = pick(Decision, document)
    check_count(decision.max_epochs)
    if not decision.finalists:
        raise ValueError("it has no finalist")
    for finalist in decision.finalists:
        _check_finalist(finalist)
    if decision.smallest not in (None, *(one.rank for one in decision.finalists)):
        raise ValueError(f"it has no finalist of rank {decision.smallest}")
    _check_dates(decision.runs)
    return decision


def _check_finalist(finalist: Finalist) -> None:
    of_seeds = (finalist.seeds, finalist.val_accuracies, finalist.epochs, finalist.seconds)
    if not finalist.seeds or len(set(map(len, of_seeds))) != 1:
        raise ValueError(f"trial {finalist.trial} has not as many accuracies as seeds")
    for value in (*finalist.val_accuracies, finalist.search_val_accuracy, finalist.mean):
        check_share(value)
    for epochs in finalist.epochs:
        check_count(epochs)
    for seconds in finalist.seconds:
        check_seconds(seconds)


def parse_rematch(document: dict[str, Any]) -> Rematch:
    """Read rematch.json.

    Raises:
        KeyError, TypeError, ValueError: it holds something else.
    """
    rematch = pick(Rematch, document)
    check_count(rematch.max_epochs)
    if not check_count(rematch.data.images["validation"]):
        raise ValueError("no image validated")
    for fit in rematch.fits:
        check_share(fit.val_accuracy)
        check_count(fit.epochs)
        check_seconds(fit.seconds)
    return rematch


def _check_dates(runs: tuple[Run, ...]) -> None:
    for run in runs:
        _ = run.seconds


def _parse_metrics(document: dict[str, Any]) -> TestMetrics:
    tested = pick(TestMetrics, document)
    matrix = tested.matrix
    if matrix.counts.min() < 0 or matrix.images != tested.n_test:
        raise ValueError("its confusion_matrix does not count n_test images")
    for share in (*tested.ci95, tested.test_accuracy, tested.macro_accuracy, tested.val_accuracy):
        check_share(share)
    return tested


def _read_picture(path: Path) -> bytes | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    if not content.startswith(_PNG) or len(content) < _PNG_SHORTEST:
        refuse(path, "it is no PNG")
    return content
