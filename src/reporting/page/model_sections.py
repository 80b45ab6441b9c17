"""Write the report's sections on models: winner, finalists, test."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

from src.core.metrics import ConfusionMatrix
from src.data.catalog import CLASS_NAMES, Dataset
from src.reporting import figures
from src.reporting.analysis import ranking
from src.reporting.findings import Findings
from src.reporting.page.blocks import Block, Picture, Table, Text
from src.reporting.page.words import (
    NO_BEST,
    accuracy_text,
    configuration,
    percent_text,
    picture,
    plural,
    signed_text,
    validated,
)
from src.results.records import Decision, TestRecord
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters

_CLASSES_A_COLUMN = 24
"""Most classes in a table of one part."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """Description of the best model, from its checkpoint."""

    hyperparameters: Hyperparameters
    history: Sequence[Epoch]
    best_epoch: int
    val_accuracy: float
    matrix: ConfusionMatrix
    """Validation images by true and predicted class."""


def winner_blocks(winner: Winner | None) -> list[Block]:
    """Write the winner's learning curves and its validation confusion matrix."""
    if winner is None:
        return [Text("There is no best-model.ckpt yet: no trial has trained to its end.")]
    matrix = winner.matrix
    return [
        Text(
            f"{configuration(asdict(winner.hyperparameters))}. Validation accuracy "
            f"{accuracy_text(winner.val_accuracy, matrix.images)} on {matrix.images:,} images, "
            f"with the weights of epoch {winner.best_epoch} of {len(winner.history)}."
        ),
        picture(
            "winner-curves",
            figures.curves_figure(winner.history, winner.best_epoch),
            f"Accuracy and loss of the best model by epoch; the best is epoch {winner.best_epoch}.",
            "Accuracy and loss on training images (dashed) and validation images (solid). "
            "Training values are taken while the weights change, with dropout, and on images as "
            "the recipe distorts them, so they can be the worse ones; a training loss includes "
            "label smoothing, and averaged weights are used on validation images only.",
        ),
        *_readings("winner", matrix, "validation"),
    ]


def _readings(name: str, matrix: ConfusionMatrix, which: str) -> list[Block]:
    """Write the confusion matrix, the table of classes and the commonest mistakes."""
    wrong = matrix.images - matrix.correct
    classes = sorted(matrix.per_class(), key=lambda one: one.f1)
    confused = matrix.most_confused()
    blocks: list[Block] = [
        picture(
            f"{name}-confusion",
            figures.confusion_figure(matrix),
            f"Confusion matrix of {matrix.images:,} {which} images; {wrong:,} are off the "
            "diagonal.",
            f"Rows: what the {matrix.images:,} {which} images are. Columns: what they were read "
            f"as. {plural(wrong, 'image')} off the diagonal were misread. Shades are shares of a "
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
                [[c.true, c.predicted, f"{c.count:,}", percent_text(c.share, 2)] for c in confused],
                words=["is", "read as"],
            )
        )
    return blocks


def finalists_blocks(finals: Decision | None) -> list[Block]:
    """Write the finals: accuracy of each finalist over seeds, and its optimism."""
    if finals is None:
        return [
            Text(
                "The best configurations have not been trained again with other seeds, so the "
                "accuracies above are each of a single run, the luckiest of many."
            )
        ]
    rows = finals.finalists
    fits = sum(len(one.seeds) for one in rows)
    epochs = sum(sum(one.epochs) for one in rows)
    names = [f"{one.rank}: trial {one.trial}, batch size {one.batch_size}" for one in rows]
    return [
        picture(
            "finalists",
            figures.finalists_figure(names, rows),
            "Validation accuracy of each finalist: "
            + "; ".join(
                f"{name}, mean {one.mean:.5f}" for name, one in zip(names, rows, strict=True)
            )
            + ".",
            "Open circles: one seed each. Filled circles: their mean, with its 95 % interval. "
            "Diamonds: what the search had measured, once; how far they lie to the right of the "
            "mean is the optimism of picking the best of many.",
        ),
        Table(
            "Each configuration trained again with different seeds, for up to "
            f"{plural(finals.max_epochs, 'epoch')}: mean and standard deviation of the "
            "validation accuracy, the 95 % interval of the mean (Student’s t), and its optimism: "
            "how much higher the figure was that the search had selected it for. One that has "
            "fewer seeds than were asked for comes after those that have all. "
            f"{plural(fits, 'fit')}, {plural(epochs, 'epoch')} in all.",
            [
                *("rank", "mean", "standard deviation", "95 % interval", "seeds"),
                *("in the search", "optimism", "trial", "configuration"),
            ],
            [
                [
                    str(one.rank),
                    f"{one.mean:.5f}",
                    "–" if one.std is None else f"{one.std:.5f}",
                    "–" if one.ci95 is None else f"{one.ci95[0]:.5f} to {one.ci95[1]:.5f}",
                    f"{len(one.seeds)}, {len(one.diverged)} diverged"
                    if one.diverged
                    else str(len(one.seeds)),
                    f"{one.search_val_accuracy:.5f}",
                    signed_text(one.optimism),
                    str(one.trial),
                    configuration(asdict(one.hyperparameters)),
                ]
                for one in rows
            ],
            words=["configuration"],
        ),
    ]


def size_blocks(findings: Findings) -> list[Block]:
    """Write accuracy against parameters, and which finalist is the smallest good one."""
    ranked, finals = ranking(findings.trials), findings.finals
    if findings.search is None:
        return [Text(NO_BEST)]
    classes = len(CLASS_NAMES[cast(Dataset, findings.dataset)])
    finalists = finals.finalists if finals is not None else ()
    smallest = finals.smallest if finals is not None else None
    blocks: list[Block] = [
        picture(
            "size",
            figures.size_figure(ranked, finalists, smallest, classes),
            f"Validation accuracy of {plural(len(ranked), 'finished trial')} against the number "
            "of parameters.",
            "What a larger network gains. Open circles: finished trials, each of a single run, and "
            "chosen by this accuracy. The axis of parameters is logarithmic."
            + (" Filled circles: the finalists, over their seeds." if finalists else ""),
        )
    ]
    if smallest is not None:
        first = finalists[0]
        named = next(one for one in finalists if one.rank == smallest)
        size, most = (one.hyperparameters.count_parameters(classes) for one in (named, first))
        text = "No finalist with fewer parameters has a mean within one standard error of the "
        text += f"winner’s, which has {most:,}."
        if named.rank > 1:
            text = (
                "The smallest finalist whose mean is within one standard error of the winner’s is "
                f"that of rank {named.rank} (trial {named.trial}, batch size {named.batch_size}): "
                f"{size:,} parameters, {percent_text(size / most, 0)} of the winner’s {most:,}."
            )
        blocks.append(Text(text))
    return blocks


def test_blocks(findings: Findings) -> list[Block]:
    """Write the test accuracy, its confusion matrix, and every opening of the test images."""
    tested = findings.tested
    if tested is None:
        told = "There is no metrics.json here." if findings.openings else (
            "The test images have not been opened."
        )  # fmt: skip
        return [
            Text(
                f"{told} “python -m src.evaluate” on best-model.ckpt tests it; what it finds is "
                "shown here."
            ),
            *_openings(findings.openings, findings.best_model_sha256),
        ]
    low, high = tested.ci95
    blocks: list[Block] = [
        Text(
            f"{tested.checkpoint} reads {accuracy_text(tested.test_accuracy, tested.n_test)} of "
            f"{tested.n_test:,} test images (95 % interval {accuracy_text(low, tested.n_test)} to "
            f"{accuracy_text(high, tested.n_test)}); the mean over classes is "
            f"{accuracy_text(tested.macro_accuracy, tested.n_test)}. On the validation images, "
            "which it was selected on, it had "
            f"{accuracy_text(tested.val_accuracy, validated(findings.search))}."
        )
    ]
    if tested.checkpoint_sha256 != findings.best_model_sha256:
        blocks.append(
            Text(
                "Caution: this is not the best model shown above, but one that was tested before, "
                "or another one. “python -m src.evaluate” on best-model.ckpt tests that one."
            )
        )
    blocks += _readings("test", tested.matrix, "test")
    if findings.mistakes is not None:
        blocks.append(
            Picture(
                "test-mistakes",
                findings.mistakes,
                "Test images that the model misread with the highest probability.",
                "The misread test images that the model was surest about, the surest first: what "
                "each is, what it was read as, and the probability that the model gave that.",
            )
        )
    else:
        blocks.append(Text("There is no picture of its worst mistakes (mistakes.png)."))
    return [*blocks, *_openings(findings.openings, findings.best_model_sha256)]


def _openings(openings: Sequence[TestRecord], best_model_sha256: str | None) -> list[Block]:
    if not openings:
        return []
    return [
        Table(
            f"The test images were opened {plural(len(openings), 'time')}. Each further look "
            "that decides something makes them worth less as a test.",
            ["date", "checkpoint", "is the best model", "test accuracy", "images"],
            [
                [
                    one.date,
                    one.checkpoint,
                    "yes" if one.checkpoint_sha256 == best_model_sha256 else "no",
                    accuracy_text(one.test_accuracy, one.n_test),
                    f"{one.n_test:,}",
                ]
                for one in openings
            ],
            words=["date", "checkpoint", "is the best model"],
        )
    ]
