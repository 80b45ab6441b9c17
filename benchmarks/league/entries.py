"""The contestants of a league, as they are named on the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

from benchmarks.league import ours
from benchmarks.league.baselines import OneEpoch, RandomSearch
from benchmarks.league.peer import PROGRAMS, Peer
from benchmarks.league.replay import Moment, Replay
from benchmarks.league.surrogate import NotApplicable, Surrogate
from benchmarks.league.tuners import search
from src.core.errors import UserError

OURS, RANDOM, ONE_EPOCH = "ours", "random", "one_epoch"

_OPTIONS = {
    OURS: tuple(field.name for field in fields(ours.Ours)),
    RANDOM: (),
    ONE_EPOCH: ("best",),
} | dict.fromkeys(PROGRAMS, ("factor", "min_epochs", "begin"))


@dataclass(frozen=True)
class Entry:
    """A tuner and its options."""

    name: str
    options: dict[str, Any]
    label: str
    """Name and options for people."""

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Read NAME or NAME:OPTION=VALUE,OPTION=VALUE.

        Raises:
            UserError: there is no such tuner or option.
        """
        name, _, rest = text.partition(":")
        if name not in _OPTIONS:
            raise UserError(f"`tuners` (={text}) must name one of {', '.join(_OPTIONS)}")
        options: dict[str, Any] = {}
        words = [name.replace("_", " ")]
        for word in filter(None, rest.split(",")):
            key, _, value = word.partition("=")
            if key not in _OPTIONS[name]:
                allowed = ", ".join(_OPTIONS[name]) or "none"
                raise UserError(f"`tuners` (={text}): options of {name} are {allowed}")
            options[key] = _read(key, value, text)
            words.append(value if key in ("promotion", "sampler") else word)
        return cls(name, options, " ".join(words))


def _read(key: str, value: str, text: str) -> Any:
    try:
        if key in ("min_epochs", "cost_exponent"):
            return float(Fraction(value))
        if key in ("factor", "iterations", "brackets", "best"):
            return int(value)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"`tuners` (={text}): {key} must be a number") from None
    if key == "after":
        return value
    choices = ("middle",) if key == "begin" else get_args(get_type_hints(ours.Ours)[key])
    if value not in choices:
        raise UserError(f"`tuners` (={text}): {key} must be one of {', '.join(choices)}")
    return value


@dataclass(frozen=True)
class Searched:
    """One search that has spent its budget."""

    moments: list[Moment]
    """Whenever its best trial changed."""
    busy: float
    """Share of the workers' time in which they trained."""


@dataclass(frozen=True)
class Played:
    """Searches of one contestant."""

    searches: list[Searched]
    resumes: str = ""
    """What becomes of promoted trials: they never pause, go on, or start anew."""
    versions: dict[str, str] | None = None
    """Of the contestant's packages."""
    reason: str = ""
    """Why there are none."""


def play(
    entry: Entry,
    replays: Sequence[Replay],
    seeds: range,
    python: Path | None,
    surrogates: Mapping[str, Surrogate],
) -> Played:
    """Let a contestant search once for each seed.

    Args:
        entry: who.
        replays: the workers of each search.
        seeds: of the searches.
        python: of the peers' environment.
        surrogates: by table, of which a contestant may have searched one before.

    Raises:
        NotApplicable: the contestant cannot search so, or not here.
    """
    resumes, versions = "never pauses", None
    if entry.name in PROGRAMS:
        if python is None:
            raise NotApplicable("left out: `--python` of an environment that has it")
        with Peer(python, entry.name) as peer:
            for seed, replay in zip(seeds, replays, strict=True):
                epochs = replay.budget / replay.surrogate.images
                peer.start(seed, replay.surrogate.max_epochs, epochs, entry.options)
                search(peer, replay, seed)
        resumes, versions = peer.about["resumes"], peer.about["versions"]
    else:
        for seed, replay in zip(seeds, replays, strict=True):
            _search_here(entry, replay, seed, surrogates)
        if entry.name == ONE_EPOCH or (
            entry.name == OURS and ours.Ours(**entry.options).promotion != "stopping"
        ):
            resumes = "goes on"
    searches = [
        Searched(replay.moments, replay.busy / (replay.clock or 1) / replay.workers)
        for replay in replays
    ]
    return Played(searches, resumes, versions)


def _search_here(
    entry: Entry, replay: Replay, seed: int, surrogates: Mapping[str, Surrogate]
) -> None:
    max_epochs = replay.surrogate.max_epochs
    if entry.name == OURS:
        options = ours.Ours(**entry.options)
        replays = [replay]
        if options.after:
            before = surrogates[options.after]
            here = replay.surrogate
            if before.dataset != here.dataset or before.batch_size == here.batch_size:
                raise NotApplicable("not the same data set, or the same batch size")
            budget = replay.budget * before.images // here.images
            replays.insert(0, Replay(before, replay.workers, budget, replay.unit))
        ours.search(options, replays, seed)
    elif entry.name == RANDOM:
        search(RandomSearch(seed, max_epochs), replay, seed)
    else:
        epochs = replay.budget / replay.surrogate.images
        search(OneEpoch(seed, max_epochs, epochs, **entry.options), replay, seed)
