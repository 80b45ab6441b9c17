"""Write what was published beside what a search found, both trained again."""

from collections.abc import Sequence

from src.core.intervals import spread
from src.data.catalog import CLASS_NAMES
from src.reporting import figures
from src.reporting.analysis import best_by_batch_size
from src.reporting.findings import Findings
from src.reporting.page.blocks import Block, Table, Text
from src.reporting.page.words import official_images, picture, plural, signed_text
from src.reporting.prior_work import PUBLISHED, Published
from src.reporting.rematch import Match, matches
from src.results.records import Rematch


def rematch_blocks(findings: Findings) -> list[Block]:
    """Write what was published beside both configurations trained again, where that was done."""
    rematch, published = findings.rematch, PUBLISHED.get(findings.dataset)
    if rematch is None or published is None:
        return []
    best = best_by_batch_size(findings.trials).items()
    found = matches(rematch, published, {size: trial.hyperparameters for size, trial in best})
    if not found:
        return []
    classes = len(CLASS_NAMES[rematch.dataset])
    seeds = sorted({len(one.ours.accuracies) for one in found})
    rows = []
    for one in found:
        gain, low, high = one.difference
        row = [str(one.batch_size), f"{one.told:.5f}"]
        for side in (one.published, one.ours):
            row.append(f"{side.spread.mean:.5f} ± {side.spread.std:.5f}")
            row.append(f"{side.spread.low:.5f} to {side.spread.high:.5f}")
        row += [signed_text(gain), f"{signed_text(low)} to {signed_text(high)}"]
        for side in (one.published, one.ours):
            size = side.hyperparameters.count_parameters(classes)
            row.append(f"{size:,}, {round(side.seconds):,}\N{NO-BREAK SPACE}s")
        rows.append(row)
    return [
        picture(
            "rematch",
            figures.rematch_figure(found),
            "Validation accuracy by batch size, published, published and trained again, ours and "
            "trained again: "
            + ", ".join(
                f"{one.batch_size}: {one.told:.4f}, {one.published.spread.mean:.4f}, "
                f"{one.ours.spread.mean:.4f}"
                for one in found
            )
            + ".",
            "What was published beside what its configuration gives when this code trains it, and "
            f"what the best configuration of this search gives: {' or '.join(map(str, seeds))} "
            "seeds each, the same for both.",
        ),
        Text(_shown_by(found)),
        Text(_not_shown_by(rematch, published)),
        Table(
            "The best of each batch size, trained again with the same seeds by the same code, up "
            f"to {plural(rematch.max_epochs, 'epoch')} each: mean ± standard deviation and the "
            "95 % interval of the mean (Student’s t); by how much ours is better on average, "
            "with its 95 % interval (Welch); parameters of the network, and mean time of a fit.",
            [
                *("batch size", "published"),
                *("published, again", "its 95 % interval", "ours, again", "our 95 % interval"),
                *("difference", "its interval", "size and time, published", "size and time, ours"),
            ],
            rows,
        ),
    ]


def _shown_by(found: Sequence[Match]) -> str:
    """Write in a sentence what a rematch shows."""
    gains = [one.difference[0] for one in found]
    text = "Trained again with the same seeds, the best configurations of this search differ from "
    text += "the published ones by "
    if len(found) == 1:
        return f"{text}{signed_text(gains[0])}."
    mean = spread(gains)
    intervals = [(low, high) for _, low, high in (one.difference for one in found) if low < high]
    ours, theirs = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    return (
        f"{text}{signed_text(mean.mean)} on average over {len(found)} batch sizes (95 % interval "
        f"{signed_text(mean.low)} to {signed_text(mean.high)}, Student’s t, as if batch sizes were "
        f"independent, though they share images and seeds); single differences whose interval "
        f"leaves out 0: {ours} in our favour and {theirs} in favour of what was published, of "
        f"{len(intervals)}, where chance alone would give about one in 20."
    )


def _not_shown_by(rematch: Rematch, published: Published) -> str:
    """Write in a sentence what a rematch cannot show."""
    images = rematch.data.images["validation"]
    if rematch.data.validation == "tail" and sum(rematch.data.images.values()) == official_images(
        rematch.dataset
    ):
        text = (
            "It cannot show which of the two reads other images better, as the same "
            f"{images:,} validation images chose both and measure both here"
        )
    else:
        text = (
            f"It cannot show which of the two is better elsewhere: these {images:,} validation "
            "images chose ours and not the published one, which favours ours"
        )
    most = round((published.trials or 0) / len(published.by_batch_size))
    return (
        f"{text}; and “published” is no estimate of what its configuration gives, but the highest "
        f"of all trials at its batch size (about {most:,}, as Keras Tuner counts them) on the "
        "images that it was chosen by."
    )
