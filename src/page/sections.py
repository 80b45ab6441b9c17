"""What a report says, section by section; what is missing is said in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from src import figures
from src.analysis import (
    Kind,
    accuracy_of,
    accuracy_within,
    best_by_batch_size,
    common_budget,
    ranking,
    rung_uses,
    varying,
)
from src.findings import Finalists, Findings, Opening, Search, Tested, Trial, Value
from src.importance import BEST, LEAST, importances
from src.metrics import ConfusionMatrix, wilson_interval
from src.page.blocks import Block, Facts, Page, Picture, Section, Table, Text
from src.published import PUBLISHED, TRAINING_IMAGES
from src.results import Epoch

_RANKED = 10
"""Rows of the ranking."""
_FEW_TRIALS = 50
"""Trials below which importance is little more than a guess."""
_CLASSES_A_COLUMN = 24
"""Classes up to which their table stands in one column."""
_NO_BEST = "No trial has trained to its end yet, so there is no best.json and this part is empty."
_NO_CURVES = (
    "The learning curves are not there (curves.csv): the “tune” command that made this search "
    "writes them when it is run once more."
)


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The best model, as its checkpoint tells it."""

    hyperparameters: dict[str, Any]
    history: Sequence[Epoch]
    best_epoch: int
    val_accuracy: float
    matrix: ConfusionMatrix
    """Validation images by true and predicted class."""


def make_page(findings: Findings, winner: Winner | None) -> Page:
    """Write the whole report."""
    search = findings.search
    sections = [
        Section("ranking", "Ranking", _ranking(findings)),
        Section("batch-sizes", "Batch sizes, beside what was published", _batch_sizes(findings)),
        Section("history", "Optimisation history", _history(findings)),
        Section("rungs", "Brackets and rungs", _rungs(findings)),
        Section("importance", "What mattered", _importance(findings)),
        Section("slices", "Slices and parallel coordinates", _slices(findings)),
        Section("winner", "The best model on validation images", _winner(winner)),
        Section("finalists", "Finalists, trained again", _finalists(findings.finalists)),
        Section("test", "Test images", _test(findings, winner)),
        Section("provenance", "Where this comes from", _provenance(findings)),
    ]
    return Page(
        title=f"{_name(findings)}: what the search found",
        lead=[_facts(findings), Text(_data(findings.dataset, search))],
        sections=sections,
    )


# ---- words and figures


def _name(findings: Findings) -> str:
    head, _, rest = findings.dataset.partition("_")
    name = f"{head.upper()} {rest.replace('_', ' ')}".strip()
    return f"{name} subset" if _is_subset(findings.dataset, findings.search) else name


def _is_subset(dataset: str, search: Search | None) -> bool:
    official = TRAINING_IMAGES.get(dataset)
    return search is not None and official is not None and sum(search.images.values()) != official


def _data(dataset: str, search: Search | None) -> str:
    if search is None:
        return "Which images trained and validated is told when a trial has finished."
    train, validation = search.images["train"], search.images["validation"]
    rule = {
        "stratified": "drawn from each class",
        "tail": "the last fifth of each file",
    }.get(str(search.settings.get("validation")), "")
    text = f"{train:,} images train and {validation:,} validate ({rule}); each trial sees the same."
    if _is_subset(dataset, search):
        text += (
            f" These are a subset, {train + validation:,} of the {TRAINING_IMAGES[dataset]:,} "
            "images of the official training files, so no figure here is one of the whole data "
            "set."
        )
    return (
        text
        + " The value that trials are selected on is the validation accuracy of the best epoch: "
        "the highest of many, so it flatters. What to quote is the test accuracy."
    )


def _accuracy(value: float | None, images: int) -> str:
    """Return an accuracy with the digits that so many images can tell apart."""
    return "–" if value is None else f"{value:.{4 if images < 10_000 else 5}f}"


def _validated(search: Search | None) -> int:
    return search.images["validation"] if search is not None else 0


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _signed(difference: float) -> str:
    return f"{difference:+.5f}".replace("-", "−")


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _configuration(hyperparameters: dict[str, Any]) -> str:
    return ", ".join(f"{_words(name)} {_value(value)}" for name, value in hyperparameters.items())


def _picture(name: str, figure: Figure, alt: str, caption: str) -> Picture:
    return Picture(name, figures.to_png(figure), alt, caption, figures.PAGE_SCALE)


# ---- sections


def _facts(findings: Findings) -> Facts:
    trials, images = findings.trials, _validated(findings.search)
    best = ranking(trials)
    facts = [
        ("best validation accuracy", _accuracy(best[0].val_accuracy, images) if best else "–"),
        ("trials", f"{len(trials):,}"),
        ("trained to their end", f"{len(best):,}"),
        ("epochs trained", f"{sum(trial.epochs for trial in trials):,}"),
    ]
    if findings.finalists is not None and findings.finalists.finalists:
        first = findings.finalists.finalists[0]
        facts.insert(
            1, (f"mean of {findings.finalists.seeds} seeds", _accuracy(first.mean, images))
        )
    if findings.tested is not None:
        tested = findings.tested
        facts.insert(1, ("test accuracy", _accuracy(tested.test_accuracy, tested.n_test)))
    return Facts(facts)


def _ranking(findings: Findings) -> list[Block]:
    ranked, images = ranking(findings.trials), _validated(findings.search)
    if not ranked:
        return [Text("No trial has trained to its end yet.")]
    names = list(ranked[0].hyperparameters)
    table = Table(
        f"The best {min(_RANKED, len(ranked))} of {_plural(len(ranked), 'finished trial')}, by "
        "the validation accuracy of the best epoch. Neighbours whose 95 % intervals (Wilson) "
        "overlap are not told apart by these images.",
        [
            *("rank", "validation accuracy", "95 % interval"),
            *map(_words, names),
            *("epochs", "bracket", "trial"),
        ],
        [
            [
                str(rank),
                _accuracy(trial.val_accuracy, images),
                _interval(trial, images),
                *(_value(trial.hyperparameters[name]) for name in names),
                *(str(trial.epochs), str(trial.bracket), str(trial.trial)),
            ]
            for rank, trial in enumerate(ranked[:_RANKED], start=1)
        ],
    )
    return [table]


def _wilson(trial: Trial, images: int) -> tuple[float, float]:
    return wilson_interval(round(accuracy_of(trial) * images), images)


def _interval(trial: Trial, images: int) -> str:
    if not images:
        return "–"
    return " to ".join(_accuracy(bound, images) for bound in _wilson(trial, images))


def _batch_sizes(findings: Findings) -> list[Block]:
    best, images = best_by_batch_size(findings.trials), _validated(findings.search)
    published = PUBLISHED.get(findings.dataset)
    by_size = published.by_batch_size if published is not None else {}
    if not best or not images:
        return [Text(_NO_BEST), Text(_published_words(findings))]
    columns = ["batch size", "trials", "finished", "best validation accuracy", "95 % interval"]
    columns += ["published", "difference"] if by_size else []
    rows = []
    for size, trial in best.items():
        here = [one for one in findings.trials if one.batch_size == size]
        row = [
            str(size),
            str(len(here)),
            str(sum(one.state == "COMPLETE" for one in here)),
            _accuracy(trial.val_accuracy, images),
            _interval(trial, images),
        ]
        if by_size:
            told = by_size.get(size)
            row.append("–" if told is None else f"{told:.5f}")
            row.append("–" if told is None else _signed(accuracy_of(trial) - told))
        rows.append(row)
    caption = "The best finished trial at each batch size"
    caption += ", beside the best that was published at it." if by_size else "."
    figure = figures.batch_sizes_figure(
        findings.trials, {size: _wilson(trial, images) for size, trial in best.items()}, by_size
    )
    values = ", ".join(f"{size}: {accuracy_of(trial):.4f}" for size, trial in best.items())
    return [
        Text(_published_words(findings)),
        _picture(
            "batch-sizes",
            figure,
            f"Best validation accuracy by batch size: {values}.",
            "Filled circles: the best of this search at each batch size, with the 95 % interval "
            f"that {images:,} validation images allow. Where the lines overlap, the batch sizes "
            "are not told apart." + (" Open diamonds: as published." if by_size else ""),
        ),
        Table(caption, columns, rows),
    ]


def _published_words(findings: Findings) -> str:
    published, search = PUBLISHED.get(findings.dataset), findings.search
    if published is None:
        text = (
            "Nothing was published on these classes, so there is no figure to stand beside these."
        )
        if findings.dataset == "emnist_letters_digits":
            text += (
                f" The nearest is {PUBLISHED['emnist_balanced'].best} on EMNIST Balanced, which "
                "has 47 classes and other images."
            )
        return text
    text = f"HCR-CNN (TensorFlow, Keras Tuner) published {published.best} as its best"
    text += f" of {published.trials:,} trials" if published.trials else ""
    text += f" ({published.configuration})" if published.configuration else ""
    text += (
        ". It is the highest of all trials on the images it was selected on, the last 20 % of the "
        "official training images; Keras Tuner counts each promotion as a trial."
    )
    differs = []
    if _is_subset(findings.dataset, search):
        differs.append("with fewer images")
    if search is not None and search.settings.get("validation") != "tail":
        differs.append("on another split")
    if differs:
        text += f" This search trained and validated {' and '.join(differs)}: look at the two side "
        text += "by side, but do not read a difference as better or worse."
    return text


def _history(findings: Findings) -> list[Block]:
    if findings.search is None:
        return [Text(_NO_BEST)]
    figure = figures.history_figure(findings.trials, findings.search.plan)
    best = ranking(findings.trials)[0]
    return [
        _picture(
            "history",
            figure,
            f"Validation accuracy of {_plural(len(findings.trials), 'trial')} in order; the best "
            f"is trial {best.trial} at batch size {best.batch_size} with {accuracy_of(best):.4f}.",
            "Each mark is a trial, at the accuracy of its best epoch; its shape and shade tell "
            "how far it trained, so pale marks are lower also because they had fewer epochs. The "
            "black line is the best finished trial so far; each batch size is a study of its own, "
            "where the line begins anew. The axis is stretched towards 100 %.",
        )
    ]


_KIND_WORDS: dict[Kind, str] = {
    "lost": "stopped by the rung",
    "early": "stopped early",
    "finished": "all epochs trained",
    "diverged": "diverged",
    "failed": "failed",
}


def _rungs(findings: Findings) -> list[Block]:
    search = findings.search
    if search is None:
        return [Text(_NO_BEST)]
    plan, trials = search.plan, findings.trials
    uses = rung_uses(trials, plan)
    kinds = [kind for kind in _KIND_WORDS if any(use.ended.get(kind) for use in uses)]
    spent = sum(use.spent for use in uses)
    everything = len(trials) * plan.max_epochs
    columns = ["bracket", "rung (epochs)", "trials sent here", "plan", "went on"]
    columns += [_KIND_WORDS[kind] for kind in kinds]
    rows = [
        [
            *(str(use.bracket), str(use.epochs), str(use.entered), str(use.planned)),
            str(use.went_on),
            *(str(use.ended.get(kind, 0)) for kind in kinds),
            *(f"{use.spent:,}", _percent(use.spent / max(spent, 1), 1)),
        ]
        for use in uses
    ]
    blocks: list[Block] = [
        Text(
            f"Hyperband with at most {_plural(plan.max_epochs, 'epoch')} a trial, factor "
            f"{plan.reduction_factor}, {_plural(plan.iterations, 'iteration')}: "
            f"{_plural(spent, 'epoch')} were trained, {_percent(spent / max(everything, 1), 0)} "
            f"of the {everything:,} that {_plural(len(trials), 'trial')} would have taken without "
            "rungs."
        ),
        _picture(
            "budget",
            figures.budget_figure(uses, trials, plan),
            "Stacked bars for each bracket: epochs spent towards each rung, and where its trials "
            "ended; the table below has the numbers.",
            "Left: epochs spent by each bracket, split by the rung that they led to. Right: its "
            "trials, split by where they ended. The higher a bracket's number, the more trials it "
            "begins and the sooner it stops them.",
        ),
        Table(
            "Trials and epochs by bracket and rung, all batch sizes and iterations together. "
            "“Plan” is what one iteration at one batch size sends there if exactly one in "
            f"{plan.reduction_factor} is promoted; as trials are judged the moment they arrive, "
            "more may pass.",
            [*columns, "epochs spent", "share"],
            rows,
        ),
    ]
    if not any(trial.curve for trial in trials):
        return [*blocks, Text(_NO_CURVES)]
    blocks.append(
        _picture(
            "learning-curves",
            figures.learning_figure(trials, plan),
            "Learning curves of all trials, which end at the rungs that stopped them.",
            "Validation accuracy epoch by epoch, one line a trial, coloured by the rung at which "
            "it was stopped; a mark is its last epoch. Both axes are stretched: epochs are "
            "logarithmic, and accuracy is logarithmic in the error.",
        )
    )
    return blocks


def _importance(findings: Findings) -> list[Block]:
    search = findings.search
    if search is None:
        return [Text(_NO_BEST)]
    if not any(trial.curve for trial in findings.trials):
        return [Text(_NO_CURVES)]
    budget = common_budget(search.plan)
    within = [(trial, accuracy_within(trial, budget)) for trial in findings.trials]
    known = [(trial, value) for trial, value in within if value is not None]
    if len(known) < LEAST:
        return [Text(f"{_plural(len(known), 'trial')} are too few to tell what mattered.")]
    names = varying([trial for trial, _ in known])
    configurations: list[dict[str, Value]] = [
        {name: trial.hyperparameters[name] for name in names} for trial, _ in known
    ]
    if len({value for _, value in known}) == 1 or not names:
        return [Text("All trials are alike, so nothing can be told apart.")]
    found = importances(configurations, [value for _, value in known])
    left_out = len(findings.trials) - len(known)
    caption = (
        f"Which hyperparameters set the best {_percent(BEST, 0)} of trials apart from all "
        f"(PED-ANOVA; {_plural(len(known), 'trial')}). Trials that a rung stopped cannot be "
        "compared with those that trained on, so all are compared after "
        f"{_plural(budget, 'epoch')}, the lowest rung: it tells what makes learning fast, which "
        "need not be what makes it good in the end"
    )
    caption += (
        f"; {_plural(left_out, 'trial')} ended before and are left out. " if left_out else ". "
    )
    caption += "The lines show where 80 % of the values lie when the trials are drawn anew."
    if len(known) < _FEW_TRIALS:
        caption += " With so few trials this is little more than a hint."
    rows = ", ".join(f"{_words(one.name)} {_percent(one.value, 0)}" for one in found)
    return [
        _picture(
            "importance",
            figures.importance_figure(
                [one.name for one in found],
                [one.value for one in found],
                [(one.low, one.high) for one in found],
            ),
            f"Importance: {rows}.",
            caption,
        )
    ]


def _slices(findings: Findings) -> list[Block]:
    if findings.search is None:
        return [Text(_NO_BEST)]
    trials, plan = findings.trials, findings.search.plan
    known = [trial for trial in trials if trial.val_accuracy is not None]
    names = varying(known) if known else []
    if not names:
        return [Text("All trials have the same configuration, so there is nothing to compare.")]
    fixed = [name for name in trials[0].hyperparameters if name not in names]
    same = "" if not fixed else (
        " The same in all trials, and left out: "
        + _configuration({name: trials[0].hyperparameters[name] for name in fixed}) + "."
    )  # fmt: skip
    listed = ", ".join(map(_words, names))
    return [
        _picture(
            "slices",
            figures.slices_figure(known, names, plan),
            f"Validation accuracy against each of {listed}, a mark for each trial.",
            "Accuracy of the best epoch against each hyperparameter. Look at marks of one shade: "
            "paler trials had fewer epochs. Where there are many trials, those of one value are "
            f"spread sideways a little.{same}",
        ),
        _picture(
            "parallel",
            figures.parallel_figure(known, names, plan),
            f"Parallel coordinates of {listed} and validation accuracy.",
            "Each line is a trial: it crosses every axis at the value it had, and ends on the "
            "right at its accuracy (stretched towards 100 %). Where the dark lines run together, "
            "the good configurations agree; of many trials only the best 20 are dark.",
        ),
    ]


def _winner(winner: Winner | None) -> list[Block]:
    if winner is None:
        return [Text("There is no best-model.ckpt yet: no trial has trained to its end.")]
    matrix = winner.matrix
    return [
        Text(
            f"{_configuration(winner.hyperparameters)}. Validation accuracy "
            f"{_accuracy(winner.val_accuracy, matrix.images)} on {matrix.images:,} images, with "
            f"the weights of epoch {winner.best_epoch} of {len(winner.history)}."
        ),
        _picture(
            "winner-curves",
            figures.curves_figure(winner.history, winner.best_epoch),
            f"Accuracy and loss of the best model by epoch; the best is epoch {winner.best_epoch}.",
            "Accuracy and loss on training images (dashed) and validation images (solid). "
            "Training values are taken while the weights change and with dropout, so they can be "
            "the worse ones.",
        ),
        *_readings("winner", matrix, "validation"),
    ]


def _readings(name: str, matrix: ConfusionMatrix, which: str) -> list[Block]:
    """Return the confusion matrix, the commonest mistakes and the table of classes."""
    wrong = matrix.images - matrix.correct
    classes = sorted(matrix.per_class(), key=lambda one: one.f1)
    confused = matrix.most_confused()
    blocks: list[Block] = [
        _picture(
            f"{name}-confusion",
            figures.confusion_figure(matrix),
            f"Confusion matrix of {matrix.images:,} {which} images; {wrong:,} are off the "
            "diagonal.",
            f"Rows: what the {matrix.images:,} {which} images are. Columns: what they were read "
            f"as. {_plural(wrong, 'image')} off the diagonal were misread. Shades are shares of a "
            "row, stretched so that single mistakes can be seen.",
        ),
        Table(
            f"Classes by F1 on {which} images, those that are read worst first. Precision: of the "
            "images read as this class, the share that are. Recall: of the images of this class, "
            "the share read as it.",
            ["class", "precision", "recall", "F1", "images"],
            [
                [c.name, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}", f"{c.support:,}"]
                for c in classes
            ],
            words=["class"],
            beside=1 if len(classes) <= _CLASSES_A_COLUMN else 2,
        ),
    ]
    if confused:
        blocks.append(
            Table(
                f"The commonest mistakes on {which} images.",
                ["is", "read as", "images", "share of class"],
                [[c.true, c.predicted, f"{c.count:,}", _percent(c.share, 2)] for c in confused],
                words=["is", "read as"],
            )
        )
    return blocks


def _finalists(finalists: Finalists | None) -> list[Block]:
    if finalists is None or not finalists.finalists:
        return [
            Text(
                "The best configurations have not been trained again with other seeds, so the "
                "accuracies above are each of a single run, the luckiest of many."
            )
        ]
    return [
        Table(
            f"Each configuration trained {_plural(finalists.seeds, 'time')} with different seeds, "
            f"for up to {_plural(finalists.max_epochs, 'epoch')}: mean and standard deviation of "
            "the validation accuracy, the 95 % interval of the mean, and its optimism: how much "
            "higher the figure was that the search had selected it for.",
            [
                *("rank", "mean", "standard deviation", "95 % interval", "in the search"),
                *("optimism", "trial", "configuration"),
            ],
            [
                [
                    str(one.rank),
                    f"{one.mean:.5f}",
                    "–" if one.std is None else f"{one.std:.5f}",
                    "–" if one.ci95 is None else f"{one.ci95[0]:.5f} to {one.ci95[1]:.5f}",
                    f"{one.search_val_accuracy:.5f}",
                    _signed(one.optimism),
                    str(one.trial),
                    _configuration(one.hyperparameters),
                ]
                for one in finalists.finalists
            ],
            words=["configuration"],
        )
    ]


def _test(findings: Findings, winner: Winner | None) -> list[Block]:
    tested = findings.tested
    if tested is None:
        return [
            Text(
                "The test images have not been opened. “python -m src.evaluate” on "
                "best-model.ckpt does that; what it finds is shown here."
            ),
            *_openings(findings.openings, findings.best_model_sha256),
        ]
    low, high = tested.ci95
    blocks: list[Block] = [
        Text(
            f"{tested.checkpoint} reads {_accuracy(tested.test_accuracy, tested.n_test)} of "
            f"{tested.n_test:,} test images (95 % interval {_accuracy(low, tested.n_test)} to "
            f"{_accuracy(high, tested.n_test)}); the mean over classes is "
            f"{_accuracy(tested.macro_accuracy, tested.n_test)}. On the validation images, which "
            "it was selected on, it had "
            f"{_accuracy(tested.val_accuracy, _validated(findings.search))}."
        )
    ]
    if not _is_winner(tested, findings, winner):
        blocks.append(
            Text(
                "Caution: this is not the best model shown above, but one that was tested before, "
                "or another one. “python -m src.evaluate” on best-model.ckpt tests that one."
            )
        )
    blocks += _readings("test", tested.matrix, "test")
    if tested.mistakes is not None:
        blocks.append(
            Picture(
                "test-mistakes",
                tested.mistakes,
                "Test images that the model misread with the highest probability.",
                "The misread test images that the model was surest about, the surest first: what "
                "each is, what it was read as, and the probability that the model gave that.",
            )
        )
    else:
        blocks.append(Text("There is no picture of its worst mistakes (mistakes.png)."))
    return [*blocks, *_openings(findings.openings, findings.best_model_sha256)]


def _is_winner(tested: Tested, findings: Findings, winner: Winner | None) -> bool:
    if winner is None or tested.val_accuracy != winner.val_accuracy:
        return False
    logged = [one.checkpoint_sha256 for one in findings.openings]
    return not logged or findings.best_model_sha256 in logged


def _openings(openings: Sequence[Opening], best_model_sha256: str | None) -> list[Block]:
    if not openings:
        return []
    return [
        Table(
            f"The test images were opened {_plural(len(openings), 'time')}. Each further look "
            "that decides something makes them worth less as a test.",
            ["date", "checkpoint", "is the best model", "test accuracy", "images"],
            [
                [
                    one.date,
                    one.checkpoint,
                    "yes" if one.checkpoint_sha256 == best_model_sha256 else "no",
                    _accuracy(one.test_accuracy, one.n_test),
                    f"{one.n_test:,}",
                ]
                for one in openings
            ],
            words=["date", "checkpoint", "is the best model"],
        )
    ]


def _provenance(findings: Findings) -> list[Block]:
    search = findings.search
    if search is None:
        return [Text(_NO_BEST)]
    told = search.provenance
    versions = told.get("versions")
    rows: list[list[object]] = [
        ["command", told.get("command")],
        ["commit", told.get("git_commit")],
        ["date", told.get("date")],
        ["device", told.get("device")],
        ["precision", told.get("precision")],
        ["platform", told.get("platform")],
        [
            "versions",
            ", ".join(f"{name} {version}" for name, version in versions.items())
            if isinstance(versions, dict)
            else None,
        ],
        ["images", ", ".join(f"{count:,} {name}" for name, count in search.images.items())],
    ]
    rows += [
        [_words(name), value]
        for name, value in search.settings.items()
        if name not in ("dataset", "precision")
    ]
    training = sum(trial.seconds or 0.0 for trial in findings.trials)
    wall = [run.seconds for run in search.runs]
    rows += [
        ["training time, all trials added up", _duration(training)],
        ["time of all runs", _duration(sum(seconds or 0.0 for seconds in wall))],
    ]
    return [
        Table(
            "The search, as the best trial recorded it.",
            ["what", "value"],
            [[str(name), "not recorded" if value is None else str(value)] for name, value in rows],
            words=["what", "value"],
        ),
        Table(
            f"{_plural(len(search.runs), 'run')} of the search.",
            ["host", "started", "ended", "time", "how it ended"],
            [
                [
                    run.host,
                    run.started,
                    run.ended or "–",
                    "–" if seconds is None else _duration(seconds),
                    run.how or "killed, or still going on",
                ]
                for run, seconds in zip(search.runs, wall, strict=True)
            ],
            words=["host", "started", "ended", "how it ended"],
        ),
    ]
