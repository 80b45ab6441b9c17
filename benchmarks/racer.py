"""This project in the race: trains until it reads as many validation images as it is told to.

    python -m benchmarks.racer --images FILE.npz --seed 0 --target 0.99

FILE.npz is what `benchmarks.images.write` writes. The last line of standard output is one JSON
object: peer, accuracy, epochs. It trains by the step of a search, but one model on all cores: a
process for each, each with its part of every batch, and they share their gradients. It does
without Lightning, whose import takes as long as half an epoch.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.images import read as read_images
from src.core.affinity import release_cores
from src.core.seeding import DROPOUT, INITIALISATION, SHUFFLE, derive_seed
from src.data.batches import EVALUATION_BATCH, Chunks
from src.data.files import Images
from src.training.device import Compute, Precision, autocast, choose_compute, choose_workers
from src.training.network import TwoConvNet
from src.training.schedule import learning_rate_share
from src.training.step import MicroBatchStep, Recipe, logits_from_pixels, make_optimizer

_LEAST = 16
"""Images of a batch that are worth a process."""

_PATIENCE = 60.0
"""Seconds in which the others of a team take a step, if they live."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How the racer trains."""

    conv1: int = 32
    conv2: int = 64
    dense_units: int = 128
    dropout_rate: float = 0.0
    learning_rate: float = 2e-2
    """The highest, of one cycle over `epochs`."""
    batch_size: int = 128
    label_smoothing: float = 0.1
    epochs: float = 2.0
    """Of the cycle, after which it looks for the first time."""
    more: float = 0.25
    """Epochs between two further looks, if it is not there yet."""
    lowest: float = 0.05
    """Share of the highest learning rate at which it goes on then."""
    most: float = 20.0
    """Epochs after which it gives up."""


def untrained(race: Race) -> TwoConvNet:
    """Build the network."""
    return TwoConvNet(
        conv1=race.conv1,
        conv2=race.conv2,
        dense_units=race.dense_units,
        dropout_rate=race.dropout_rate,
        classes=10,
    )


@dataclass(frozen=True)
class Team:
    """What processes that train one model together share."""

    gradients: Tensor
    """(2, processes, parameters): of this step, and of the last one, which some may still read."""
    right: Tensor
    """int64 (processes,): validation images that each has read correctly."""
    barrier: Barrier

    @classmethod
    def of(cls, size: int, race: Race) -> "Team":
        """Found a team of processes that are to be forked."""
        parameters = sum(values.numel() for values in untrained(race).parameters())
        return cls(
            torch.zeros(2, size, parameters).share_memory_(),
            torch.zeros(size, dtype=torch.int64).share_memory_(),
            multiprocessing.get_context("fork").Barrier(size, timeout=_PATIENCE),
        )


class TeamStep(MicroBatchStep):
    """The step of one process of a team: on its part of the batch, by the gradients of all."""

    def join(self, team: Team, member: int) -> None:
        """Name the team, and which of its processes this is."""
        self._team, self._member = team, member

    def _differentiate(self, images: Images, indices: Tensor) -> None:
        gradients = self._team.gradients[self.steps % 2]
        part = slice(self._member, None, len(gradients))
        dropout = self.model.draw_dropout(len(indices), self.generator)[part]
        batch = images[indices[part]]
        self._backward(batch.pixels, batch.labels, dropout)
        mine = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        share = len(batch.labels) / len(indices)
        gradients[self._member] = share * torch.cat([values.flatten() for values in mine])
        self._team.barrier.wait()
        whole = gradients.sum(0).split([values.numel() for values in mine])
        for values, sums in zip(mine, whole, strict=True):
            values.copy_(sums.view_as(values))


def train(
    race: Race,
    images: tuple[Images, Images],
    target: float,
    seed: int,
    compute: Compute,
    team: Team,
    member: int = 0,
) -> tuple[list[tuple[float, float]], TwoConvNet]:
    """Train until the model reads so many validation images; all processes return the same.

    An epoch is of whole batches.

    Args:
        race: how.
        images: those that train, and those that validate.
        target: share of the latter that is to be read.
        seed: of weights, shuffling and dropout.
        compute: on CPU.
        team: of processes with one thread each.
        member: which of them this is.

    Returns:
        Epochs and accuracy at each look, and the model.
    """
    learning, validation = images
    torch.set_num_threads(1)
    torch.manual_seed(derive_seed(seed, INITIALISATION))
    model = untrained(race)
    an_epoch = len(learning) // race.batch_size
    cycle, more = round(race.epochs * an_epoch), max(1, round(race.more * an_epoch))

    def rate(step: int) -> float:
        if step >= cycle:
            return race.learning_rate * race.lowest
        return race.learning_rate * learning_rate_share("one_cycle", step, cycle)

    recipe = Recipe(rate, race.label_smoothing)
    step = TeamStep(model, make_optimizer(model, race.learning_rate), compute, recipe)
    step.join(team, member)
    step.generator.manual_seed(derive_seed(seed, DROPOUT))
    looks: list[tuple[float, float]] = []
    for epoch in itertools.count():
        for chunk in Chunks(
            learning, race.batch_size, derive_seed(seed, SHUFFLE, epoch), end=an_epoch
        ):
            for indices in chunk.batches():
                step(learning, indices)
                if step.steps >= cycle and (step.steps - cycle) % more == 0:
                    mine = validation[torch.arange(member, len(validation), len(team.right))]
                    team.right[member] = read(model, mine, compute)
                    team.barrier.wait()
                    looks.append((step.steps / an_epoch, int(team.right.sum()) / len(validation)))
                    if looks[-1][1] >= target or looks[-1][0] >= race.most:
                        return looks, model
    raise AssertionError("unreachable: epochs are counted for ever")


@torch.no_grad()
def read(model: TwoConvNet, images: Images, compute: Compute) -> int:
    """Return how many of the images the model reads correctly."""
    right = 0
    for chunk in Chunks(images, EVALUATION_BATCH["cpu"]):
        for indices in chunk.batches():
            batch = images[indices]
            with autocast(compute):
                logits = logits_from_pixels(model, batch.pixels)
            right += int((logits.argmax(1) == batch.labels).sum())
    return right


def run(
    race: Race,
    images: tuple[Images, Images],
    target: float,
    seed: int,
    workers: int | None = None,
    precision: Precision = "auto",
) -> tuple[list[tuple[float, float]], TwoConvNet]:
    """Race in as many processes as there are cores; return the looks, and the model."""
    compute = choose_compute("cpu", precision, threads=1)
    least = race.batch_size // _LEAST
    team = Team.of(workers or min(choose_workers("auto", compute), least), race)
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(
            target=train, args=(race, images, target, seed, compute, team, member), daemon=True
        )
        for member in range(1, len(team.right))
    ]
    for other in others:
        other.start()
    return train(race, images, target, seed, compute, team)


def main(argv: Sequence[str] | None = None) -> int:
    """Race once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--weights", type=Path, help="file for the weights, written afterwards")
    options = parser.parse_args(argv)
    release_cores()  # before they are counted
    looks, model = run(Race(), read_images(options.images), options.target, options.seed)
    epochs, accuracy = looks[-1]
    report = {"peer": "ours", "accuracy": accuracy, "epochs": round(epochs, 3)}
    print(json.dumps(report), flush=True)
    if options.weights is not None:
        torch.save(model.state_dict(), options.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
