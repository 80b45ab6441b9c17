"""Assemble the report from its sections; a missing part is a sentence."""

from src.reporting.analysis import ranking
from src.reporting.findings import Findings, Search
from src.reporting.page.blocks import Facts, Page, Section, Text
from src.reporting.page.model_sections import (
    Winner,
    finalists_blocks,
    size_blocks,
    test_blocks,
    winner_blocks,
)
from src.reporting.page.search_sections import (
    batch_size_blocks,
    history_blocks,
    importance_blocks,
    provenance_blocks,
    ranking_blocks,
    rung_blocks,
    slice_blocks,
)
from src.reporting.page.words import (
    accuracy_text,
    is_subset,
    number_text,
    official_images,
    title_of,
    validated,
)

PICTURES = (
    *("batch-sizes", "rematch", "history", "budget", "learning-curves", "importance", "slices"),
    *("parallel", "winner-curves", "winner-confusion", "finalists", "size"),
    *("test-confusion", "test-mistakes"),
)
"""File names of all pictures that a report can have."""


def make_page(findings: Findings, winner: Winner | None) -> Page:
    """Assemble the whole page."""
    search = findings.search
    sections = [
        Section("ranking", "Ranking", ranking_blocks(findings)),
        Section(
            "batch-sizes", "Batch sizes, beside what was published", batch_size_blocks(findings)
        ),
        Section("history", "Optimisation history", history_blocks(findings)),
        Section("rungs", "Brackets and rungs", rung_blocks(findings)),
        Section("importance", "What mattered", importance_blocks(findings)),
        Section("slices", "Slices and parallel coordinates", slice_blocks(findings)),
        Section("winner", "The best model on validation images", winner_blocks(winner)),
        Section("finalists", "Finalists, trained again", finalists_blocks(findings.finals)),
        Section("size", "Accuracy and size", size_blocks(findings)),
        Section("test", "Test images", test_blocks(findings)),
        Section("provenance", "Where this comes from", provenance_blocks(findings)),
    ]
    return Page(
        title=f"{title_of(findings)}: what the search found",
        lead=[_facts(findings), Text(_data(findings.dataset, search))],
        sections=sections,
    )


def _facts(findings: Findings) -> Facts:
    trials, images = findings.trials, validated(findings.search)
    best = ranking(trials)
    facts = [
        (
            "best trial, validation accuracy",
            accuracy_text(best[0].val_accuracy, images) if best else "–",
        ),
        ("trials", f"{len(trials):,}"),
        ("trained to their end", f"{len(best):,}"),
        ("epochs trained", number_text(round(sum(trial.epochs for trial in trials), 1))),
    ]
    if findings.finals is not None:
        first = findings.finals.finalists[0]
        facts.insert(
            1, (f"winner, mean of {len(first.seeds)} seeds", accuracy_text(first.mean, images))
        )
    if findings.tested is not None:
        tested = findings.tested
        is_best = tested.checkpoint_sha256 == findings.best_model_sha256
        name = "best model, test accuracy" if is_best else "another model, test accuracy"
        facts.insert(1, (name, accuracy_text(tested.test_accuracy, tested.n_test)))
    return Facts(facts)


def _data(dataset: str, search: Search | None) -> str:
    if search is None:
        return "Which images trained and validated is told when a trial has finished."
    train, validation = search.images["train"], search.images["validation"]
    rule = {
        "stratified": "drawn from each class",
        "tail": "the last fifth of each file",
    }.get(str(search.summary.settings.get("validation")), "")
    text = f"{train:,} images train and {validation:,} validate ({rule}); each trial sees the same."
    if is_subset(dataset, search):
        text += (
            f" These are a subset, {train + validation:,} of the {official_images(dataset):,} "
            "images of the official training files, so no figure here is one of the whole data "
            "set."
        )
    return (
        text
        + " The value that trials are selected on is the validation accuracy of the best epoch: "
        "the highest of many, so it flatters. What to quote is the test accuracy."
    )
