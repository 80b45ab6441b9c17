"""Write the report's sections on the search: ranking, history, rungs, importance, provenance."""

from collections.abc import Sequence
from dataclasses import asdict

from src.core.intervals import wilson_interval
from src.reporting import figures
from src.reporting.analysis import (
    HYPERPARAMETERS,
    Kind,
    RungUse,
    Value,
    accuracy_of,
    accuracy_within,
    best_by_batch_size,
    common_budget,
    ranking,
    rung_uses,
    value_of,
    varying,
    with_accuracy,
)
from src.reporting.findings import Findings, Search
from src.reporting.importance import BEST, LEAST, importances
from src.reporting.page.blocks import Block, Picture, Table, Text
from src.reporting.page.rematch_blocks import rematch_blocks
from src.reporting.page.words import (
    NO_BEST,
    accuracy_text,
    configuration,
    duration_text,
    is_subset,
    number_text,
    percent_text,
    picture,
    plural,
    signed_text,
    validated,
    value_text,
)
from src.reporting.prior_work import PUBLISHED, Published
from src.results.records import TrialRecord
from src.search.hyperband import Plan
from src.training.hyperparameters import RECIPE, Hyperparameters

_RANKED = 10
"""Rows of the ranking."""

_FEW_TRIALS = 50
"""Fewest trials for an importance that is more than a hint."""

_PART = "a part of the validation images, or of all where there are few"
"""What gives accuracies within the first epoch."""

_NO_CURVES = (
    "The learning curves are not there (curves.csv): the “tune” command that made this search "
    "writes them when it is run once more."
)


def ranking_blocks(findings: Findings) -> list[Block]:
    """Write the table of the best trials, with confidence intervals."""
    ranked, images = ranking(findings.trials), validated(findings.search)
    if not ranked:
        return [Text("No trial has trained to its end yet.")]
    names = varying(findings.trials)
    table = Table(
        f"The best {min(_RANKED, len(ranked))} of {plural(len(ranked), 'finished trial')}, by "
        "the validation accuracy of the best epoch. Where the 95 % intervals (Wilson) "
        "of neighbours overlap, which of them is ahead may be luck.",
        [
            *("rank", "validation accuracy", "95 % interval"),
            *map(figures.words, names),
            *("epochs", "bracket", "trial"),
        ],
        [
            [
                str(rank),
                accuracy_text(trial.val_accuracy, images),
                _interval(trial, images),
                *(value_text(value_of(trial, name)) for name in names),
                *(figures.epochs_text(trial.epochs), str(trial.bracket), str(trial.trial)),
            ]
            for rank, trial in enumerate(ranked[:_RANKED], start=1)
        ],
    )
    return [table, *_same_in_all(findings.trials, names)]


def _same_in_all(trials: Sequence[TrialRecord], varied: Sequence[str]) -> list[Block]:
    """Write the hyperparameters that all trials share, in one sentence."""
    same = {name: value_of(trials[0], name) for name in HYPERPARAMETERS if name not in varied}
    return [Text(f"The same in all trials: {configuration(same)}.")] if same else []


def _wilson(trial: TrialRecord, images: int) -> tuple[float, float]:
    return wilson_interval(round(accuracy_of(trial) * images), images)


def _interval(trial: TrialRecord, images: int) -> str:
    if not images:
        return "–"
    low, high = (accuracy_text(bound, images) for bound in _wilson(trial, images))
    return f"{low}\N{NO-BREAK SPACE}to {high}"  # in a narrow column `to` does not stand alone


def batch_size_blocks(findings: Findings) -> list[Block]:
    """Write the best trial of each batch size, beside the published figures."""
    best, images = best_by_batch_size(findings.trials), validated(findings.search)
    published = PUBLISHED.get(findings.dataset)
    by_size = _published_accuracies(published)
    if not best or not images:
        return [Text(NO_BEST), Text(_published_words(findings)), *rematch_blocks(findings)]
    columns = ["batch size", "trials", "finished", "best validation accuracy", "95 % interval"]
    columns += ["published", "difference"] if by_size else []
    rows = []
    for size, trial in best.items():
        here = [one for one in findings.trials if one.batch_size == size]
        row = [
            str(size),
            str(len(here)),
            str(sum(one.state == "COMPLETE" for one in here)),
            accuracy_text(trial.val_accuracy, images),
            _interval(trial, images),
        ]
        if by_size:
            told = by_size.get(size)
            row.append("–" if told is None else f"{told:.5f}")
            row.append("–" if told is None else signed_text(accuracy_of(trial) - told))
        rows.append(row)
    caption = "The best finished trial at each batch size"
    caption += ", beside the best that was published at it." if by_size else "."
    figure = figures.batch_sizes_figure(
        findings.trials, {size: _wilson(trial, images) for size, trial in best.items()}, by_size
    )
    values = ", ".join(f"{size}: {accuracy_of(trial):.4f}" for size, trial in best.items())
    return [
        Text(_published_words(findings)),
        picture(
            "batch-sizes",
            figure,
            f"Best validation accuracy by batch size: {values}.",
            "Filled circles: the best of this search at each batch size, with the 95 % interval "
            f"that {images:,} validation images allow. Where the lines overlap, the order may "
            "be luck." + (" Open diamonds: as published." if by_size else ""),
        ),
        Table(caption, columns, rows),
        *rematch_blocks(findings),
    ]


def _published_accuracies(published: Published | None) -> dict[int, float]:
    """Return the best published accuracy at each batch size, where there is one."""
    trials = published.by_batch_size.items() if published is not None else ()
    return {batch_size: trial.val_accuracy for batch_size, trial in trials}


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
    if (best := published.best_trial) is not None:
        text += f" ({configuration(asdict(best.hyperparameters))})"
    text += (
        ". It is the highest of all trials on the images it was selected on, the last 20 % of the "
        "official training images; Keras Tuner counts each promotion as a trial."
    )
    differs = []
    if is_subset(findings.dataset, search):
        differs.append("with fewer images")
    if search is not None and search.summary.settings.get("validation") != "tail":
        differs.append("on another split")
    if differs:
        text += f" This search trained and validated {' and '.join(differs)}: look at the two side "
        text += "by side, but do not read a difference as better or worse."
    if beyond := _beyond_plain(findings):
        text += f" The network is the same, but not the training: here it has {beyond}."
    return text


def _beyond_plain(findings: Findings) -> str:
    """List the parts of any trial's recipe that the published training had not."""
    names = []
    for name in RECIPE:
        plain = getattr(Hyperparameters, name)
        if any(getattr(trial.hyperparameters, name) != plain for trial in findings.trials):
            names.append(figures.words(name))
    return " and ".join(", ".join(names).rsplit(", ", 1))


def history_blocks(findings: Findings) -> list[Block]:
    """Write the optimisation history: the accuracy of each trial, in order."""
    if findings.search is None:
        return [Text(NO_BEST)]
    figure = figures.history_figure(findings.trials, findings.search.plan)
    best = ranking(findings.trials)[0]
    return [
        picture(
            "history",
            figure,
            f"Validation accuracy of {plural(len(findings.trials), 'trial')} in order; the best "
            f"is trial {best.trial} at batch size {best.batch_size} with {accuracy_of(best):.4f}.",
            "Each mark is a trial, at the accuracy of its best epoch; its shape and shade tell "
            "how far it trained, so pale marks are lower also because they had fewer epochs. The "
            "black line is the best finished trial so far; each batch size is a study of its own, "
            "where the line begins anew. The axis is stretched towards 100 %."
            + _within_an_epoch(findings.search),
        )
    ]


def _within_an_epoch(search: Search) -> str:
    """Write what accuracies within the first epoch are, where there are rungs."""
    if not search.plan.looks:
        return ""
    return (
        f" Accuracies within the first epoch are those of {_PART}; a trial that ended there has "
        "no others."
    )


_KIND_WORDS: dict[Kind, str] = {
    "lost": "stopped by the rung",
    "early": "stopped early",
    "finished": "all epochs trained",
    "diverged": "diverged",
    "failed": "failed",
}


def rung_blocks(findings: Findings) -> list[Block]:
    """Write epochs spent and trials ended, by bracket and rung, and the learning curves."""
    search = findings.search
    if search is None:
        return [Text(NO_BEST)]
    plan, trials, waits = search.plan, findings.trials, search.promotion != "stopping"
    uses = rung_uses(trials, plan)
    kinds = [kind for kind in _KIND_WORDS if any(use.ended.get(kind) for use in uses)]
    spent = sum(use.spent for use in uses)
    everything = len(trials) * plan.max_epochs
    share = percent_text(spent / max(everything, 1), 0)
    batch_sizes = len(search.summary.batch_sizes)
    shown = plan.iterations * batch_sizes if waits else 1
    columns = ["bracket", "rung (epochs)", "trials sent here", "plan"]
    columns += ["arrived", "promoted"] if waits else ["went on"]
    columns += [_KIND_WORDS[kind] for kind in kinds]
    rows = [
        [
            *(str(use.bracket), figures.epochs_text(use.epochs)),
            *(str(use.entered), str(shown * use.planned)),
            *([str(use.arrived), str(use.promoted)] if waits else [str(use.went_on)]),
            *(str(use.ended.get(kind, 0)) for kind in kinds),
            *(number_text(round(use.spent, 1)), percent_text(use.spent / max(spent, 1), 1)),
        ]
        for use in uses
    ]
    blocks: list[Block] = [
        Text(
            f"Hyperband with at most {plural(plan.max_epochs, 'epoch')} a trial, factor "
            f"{plan.reduction_factor}, {plan.extent}: "
            f"{plural(round(spent, 1), 'epoch')} were trained, {share} of the "
            f"{everything:,} that {plural(len(trials), 'trial')} would have taken without "
            f"rungs.{_promotion_words(search)}{_missing_words(trials, search)}"
        ),
        _promotions_picture(uses, trials, plan, batch_sizes)
        if waits
        else _budget_picture(uses, trials, plan),
        Table(
            "Trials and epochs by bracket and rung, all batch sizes and iterations together. "
            + (
                f"“Plan” is what the whole search sends there if exactly one in "
                f"{plan.reduction_factor} is promoted."
                if waits
                else "“Plan” is what one iteration at one batch size sends there if exactly one in "
                f"{plan.reduction_factor} is promoted; as trials are judged the moment they "
                "arrive, more or fewer may pass."
            ),
            [*columns, "epochs spent", "share"],
            rows,
        ),
    ]
    if not any(trial.history for trial in trials):
        return [*blocks, Text(_NO_CURVES)]
    blocks.append(
        picture(
            "learning-curves",
            figures.learning_figure(trials, plan),
            "Learning curves of all trials, which end at the rungs that stopped them.",
            "Validation accuracy epoch by epoch, one line a trial, coloured by the rung at which "
            "it was stopped; a mark is its last epoch. Both axes are stretched: epochs are "
            "logarithmic, and accuracy is logarithmic in the error." + _within_an_epoch(search),
        )
    )
    return blocks


def _promotion_words(search: Search) -> str:
    """Write when a rung promotes which trials, where they wait for it."""
    if search.promotion == "stopping":
        return ""
    factor = search.plan.reduction_factor
    if search.promotion == "synchronous":
        return (
            f" Trials wait on a rung until exactly the best one in {factor} of those sent there "
            "are promoted: when all have arrived, or as soon as those still missing can change "
            "nothing."
        )
    return (
        f" Trials wait on a rung until they are among the best one in {factor} of those that have "
        "arrived there, or can no longer be; more may be promoted than planned."
    )


def _missing_words(trials: Sequence[TrialRecord], search: Search) -> str:
    """Write how many trials have not ended, of all batch sizes, where there are such."""
    ended = sum(trial.state != "FAIL" for trial in trials)
    missing = search.plan.trials * len(search.summary.batch_sizes) - ended
    if missing <= 0:
        return ""
    return f" Not ended yet, and not shown: {plural(missing, 'trial')} of the plan."


def _budget_picture(uses: Sequence[RungUse], trials: Sequence[TrialRecord], plan: Plan) -> Picture:
    return picture(
        "budget",
        figures.budget_figure(uses, trials, plan),
        "Stacked bars for each bracket: epochs spent towards each rung, and where its trials "
        "ended; the table below has the numbers.",
        "Left: epochs spent by each bracket, split by the rung that they led to. Right: its "
        "trials, split by where they ended. The higher a bracket's number, the more trials it "
        "begins and the sooner it stops them.",
    )


def _promotions_picture(
    uses: Sequence[RungUse], trials: Sequence[TrialRecord], plan: Plan, batch_sizes: int
) -> Picture:
    return picture(
        "budget",
        figures.promotions_figure(uses, trials, plan, batch_sizes),
        "Bars for each rung of each bracket: epochs spent towards it, and how many of the trials "
        "sent there it promoted; the table below has the numbers.",
        "Left: epochs spent between the rung before and this one. Right: the trials that were sent "
        "to this rung, split into those that it promoted and those that ended here, beside the "
        "plan. The higher a bracket's number, the more trials it begins and the sooner it stops "
        "them.",
    )


def importance_blocks(findings: Findings) -> list[Block]:
    """Write the importance of the hyperparameters (PED-ANOVA)."""
    search = findings.search
    if search is None:
        return [Text(NO_BEST)]
    if not any(trial.history for trial in findings.trials):
        return [Text(_NO_CURVES)]
    budget = common_budget(search.plan)
    within = [(trial, accuracy_within(trial, budget)) for trial in findings.trials]
    known = [(trial, value) for trial, value in within if value is not None]
    if len(known) < LEAST:
        return [Text(f"{plural(len(known), 'trial')} are too few to tell what mattered.")]
    names = varying([trial for trial, _ in known])
    configurations: list[dict[str, Value]] = [
        {name: value_of(trial, name) for name in names} for trial, _ in known
    ]
    if len({value for _, value in known}) == 1 or not names:
        return [Text("All trials are alike, so nothing can be told apart.")]
    found = importances(configurations, [value for _, value in known])
    left_out = len(findings.trials) - len(known)
    caption = (
        f"Which hyperparameters set the best {percent_text(BEST, 0)} of trials apart from all "
        f"(PED-ANOVA; {plural(len(known), 'trial')}). Trials that a rung stopped cannot be "
        "compared with those that trained on, so all are compared after "
        f"{plural(budget, 'epoch')}, the lowest rung: it tells what makes learning fast, which "
        "need not be what makes it good in the end"
    )
    caption += (
        f"; {plural(left_out, 'trial')} ended before and are left out. " if left_out else ". "
    )
    if budget < 1:
        caption += f"Their accuracies there are those of {_PART}. "
    caption += "The lines show where 80 % of the values lie when the trials are drawn anew."
    if search.sampler == "gp" and "batch_size" in names:
        caption += (
            " A batch size that was searched later began with what the earlier ones had shown: its "
            "trials are the better for that, too."
        )
    if len(known) < _FEW_TRIALS:
        caption += " With so few trials this is little more than a hint."
    rows = ", ".join(f"{figures.words(one.name)} {percent_text(one.value, 0)}" for one in found)
    return [
        picture(
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


def slice_blocks(findings: Findings) -> list[Block]:
    """Write slice plots and parallel coordinates of the hyperparameters that vary."""
    if findings.search is None:
        return [Text(NO_BEST)]
    trials, plan = findings.trials, findings.search.plan
    known = [trial for trial, _ in with_accuracy(trials)]
    names = varying(known) if known else []
    if not names:
        return [Text("All trials have the same configuration, so there is nothing to compare.")]
    listed = ", ".join(map(figures.words, names))
    return [
        picture(
            "slices",
            figures.slices_figure(known, names, plan),
            f"Validation accuracy against each of {listed}, a mark for each trial.",
            "Accuracy of the best epoch against each hyperparameter. Look at marks of one shade: "
            "paler trials had fewer epochs. Where there are many trials, those of one value are "
            "spread sideways a little." + _within_an_epoch(findings.search),
        ),
        picture(
            "parallel",
            figures.parallel_figure(known, names, plan),
            f"Parallel coordinates of {listed} and validation accuracy.",
            "Each line is a trial: it crosses every axis at the value it had, and ends on the "
            "right at its accuracy (stretched towards 100 %). Where the dark lines run together, "
            "the good configurations agree; of many trials only the best 20 are dark.",
        ),
    ]


def provenance_blocks(findings: Findings) -> list[Block]:
    """Write command, versions, settings and runs of the search."""
    search = findings.search
    if search is None:
        return [Text(NO_BEST)]
    told = search.summary.provenance
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
        [figures.words(name), _setting(value)]
        for name, value in search.summary.settings.items()
        if name not in ("dataset", "precision")
    ]
    training = sum(trial.seconds or 0.0 for trial in findings.trials)
    runs = [("search", run) for run in search.summary.runs]
    rows += [["training time, all trials added up", duration_text(training)]]
    if (finals := findings.finals) is not None:
        training = sum(sum(one.seconds) for one in finals.finalists)
        rows += [["training time of the finals", duration_text(training)]]
        runs += [("finals", run) for run in finals.runs]
    wall = sum(run.seconds or 0.0 for _, run in runs)
    rows += [["time of all runs", duration_text(wall)]]
    return [
        Table(
            "The search, as the best trial recorded it.",
            ["what", "value"],
            [[str(name), "not recorded" if value is None else str(value)] for name, value in rows],
            words=["what", "value"],
        ),
        Table(
            f"{plural(len(runs), 'run')}.",
            ["stage", "host", "started", "ended", "time", "how it ended"],
            [
                [
                    stage,
                    run.host,
                    run.started,
                    run.ended or "–",
                    "–" if run.seconds is None else duration_text(run.seconds),
                    run.how or "killed, or still going on",
                ]
                for stage, run in runs
            ],
            words=["stage", "host", "started", "ended", "how it ended"],
        ),
    ]


def _setting(value: object) -> str:
    """Format a setting; several values are those that a trial could have."""
    if isinstance(value, dict):
        return "; ".join(f"{figures.words(name)} {_setting(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        value = float(f"{value:.4g}")
    return str(value)
