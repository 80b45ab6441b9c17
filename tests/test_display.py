"""What a search shows in terminals of any width."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from src.core.console import say
from src.reporting.findings import read_findings
from src.results.records import DecidedModel, Decision, Finalist, TrialRecord
from src.search.display import SearchDisplay, print_finals, print_plan, print_ranking
from src.search.hyperband import make_plan
from src.search.planned_study import Place, StartedTrial
from tests.conftest import wait_until
from tests.simulated import simulate_search

WIDTHS = pytest.mark.parametrize("width", [40, 80, 120])
TERMINAL = pytest.mark.parametrize("terminal", [True, False])


class Screen:
    """What was printed, without colours and movements of the cursor."""

    def __init__(self, width: int, terminal: bool = True) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file, width=width, force_terminal=terminal, _environ={"TERM": "xterm"}
        )

    @property
    def lines(self) -> list[str]:
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self._file.getvalue()).splitlines()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.lines).split())

    @property
    def numbers(self) -> list[float]:
        """Every number, in the order of the text, but for those in headings: conv1, 95 %."""
        found = re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.…]| %)", self.words)
        return [float(number) for number in found]

    def shows(self, row: list[float]) -> bool:
        """Return whether these numbers follow each other, to three digits."""
        starts = range(len(self.numbers) - len(row) + 1)
        return any(
            self.numbers[i : i + len(row)] == pytest.approx(row, rel=6e-3, abs=6e-6) for i in starts
        )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialRecord, ...]:
    folder = simulate_search(tmp_path_factory.mktemp("results"), batch_sizes=(16, 208))
    return read_findings(folder).trials


@WIDTHS
@TERMINAL
def test_every_figure_of_the_ranking_is_whole(
    width: int, terminal: bool, records: tuple[TrialRecord, ...]
) -> None:
    screen = Screen(width, terminal)
    print_ranking(screen.console, records)
    finished = [record for record in records if record.state == "COMPLETE"]
    for record in sorted(finished, key=lambda r: r.val_accuracy or 0, reverse=True)[:10]:
        hp = record.hyperparameters
        assert f"{record.val_accuracy:.6f}" in screen.words
        assert screen.shows(
            [
                *(record.val_accuracy or 0, hp.conv1, hp.conv2, hp.dense_units, hp.dropout_rate),
                *(hp.learning_rate, hp.batch_size, record.epochs, record.bracket, record.trial),
            ]
        )
    assert not terminal or max(map(len, screen.lines)) <= width
    assert "…" not in screen.words


@WIDTHS
@TERMINAL
def test_every_figure_of_the_finals_is_whole(
    width: int, terminal: bool, records: tuple[TrialRecord, ...]
) -> None:
    finalists = tuple(
        Finalist(
            rank=rank, batch_size=record.batch_size, trial=record.trial,
            hyperparameters=record.hyperparameters, search_val_accuracy=0.99512 - rank / 1000,
            seeds=(0, 1), diverged=(2,), val_accuracies=(0.99, 0.991), epochs=(9, 9),
            seconds=(1.0, 1.0), mean=0.99234 - rank / 100, std=0.00123,
            ci95=(0.98765, 0.99876), optimism=0.00278,
        )
        for rank, record in enumerate(records[:3], start=1)
    )  # fmt: skip
    screen = Screen(width, terminal)
    decision = Decision(
        dataset="mnist", max_epochs=9, patience=3, finalists=finalists,
        winner=DecidedModel(rank=1, seed=0), smallest=2, runs=(),
    )  # fmt: skip
    print_finals(screen.console, decision)
    second = records[1]
    named = f"batch size {second.batch_size}, trial {second.trial}."
    told = "The smallest within one standard error of the winner's mean"
    assert screen.words.endswith(f"{told}: {named}")
    for one in finalists:
        hp = one.hyperparameters
        row = [one.mean, 0.00123, *(one.ci95 or ()), 2, 1, one.search_val_accuracy, one.optimism]
        assert screen.shows([*row, one.batch_size, one.trial])
        assert re.search(rf" {hp.conv1}-{hp.conv2}-{hp.dense_units}(?!\d)", screen.words)
    assert not terminal or max(map(len, screen.lines)) <= width
    assert "…" not in screen.words


@WIDTHS
@pytest.mark.parametrize("max_epochs", [9, 81, 10_000])
def test_every_figure_of_the_plan_is_whole(width: int, max_epochs: int) -> None:
    plan, screen = make_plan(max_epochs, 2), Screen(width)
    print_plan(screen.console, plan, [64, 208])
    for bracket in plan.brackets:
        for rung in bracket.rungs:
            assert re.search(rf"(?<!\d){rung.trials} → {rung.epochs}(?!\d)", screen.words)
    assert max(map(len, screen.lines)) <= width
    assert "…" not in screen.words


@WIDTHS
def test_plan_shows_rungs_within_the_first_epoch_with_few_digits(width: int) -> None:
    screen = Screen(width)
    print_plan(screen.console, make_plan(9, 3, min_epochs=1 / 9), [64])
    for bracket in [
        ["81 → 0.111", "27 → 0.333", "9 → 1", "3 → 3", "1 → 9"],
        ["34 → 0.333", "11 → 1", "3 → 3", "1 → 9"],
        ["15 → 1", "5 → 3", "1 → 9"],
        ["8 → 3", "2 → 9"],
        ["5 → 9"],
    ]:
        row = r"\W+(?:rung \d )?".join(bracket)
        assert re.search(rf"(?<![\d.]){row}(?![\d.])", screen.words)
    assert max(map(len, screen.lines)) <= width
    # 33 + 92/3 + 31 + 36 + 45 by bracket
    assert "Epochs: 175.7 if exactly one trial in 3" in screen.words
    whole = Screen(width)
    print_plan(whole.console, make_plan(9, 3), [64])
    assert "Epochs: 69 if exactly one trial in 3" in whole.words


def test_parts_of_an_epoch_are_shown_with_three_decimals(records: tuple[TrialRecord, ...]) -> None:
    lost = next(record for record in records if record.state == "PRUNED")
    record = replace(lost, val_accuracy=None, epochs=1 / 9, reason="lost on the rung")
    place = Place(key=1, bracket=4, seed=0, batch_size=64, label="trial", model="64-best", order=1)
    trial = StartedTrial(
        number=1, place=place, hyperparameters=record.hyperparameters, max_epochs=9
    )
    screen = Screen(120)
    with SearchDisplay(screen.console, "search", 100, records) as display:
        display.trial_started(trial)
        display.epoch_ended(trial, 1 / 9, 0.5)
        wait_until(lambda: "epoch 0.111/9 · val 0.5000" in screen.words)
        display.trial_ended(trial, record)
    assert "PRUNED – 0.111 epochs" in screen.words


@WIDTHS
@TERMINAL
@pytest.mark.parametrize(
    "label",
    ["batch 208 trial {number:3d} bracket 2", "finalist: batch 208 trial 123 seed 10"],
)
def test_a_trial_is_shown_whole_while_it_trains_and_when_it_has_ended(
    width: int, terminal: bool, label: str, records: tuple[TrialRecord, ...]
) -> None:
    lost = next(record for record in records if record.state == "PRUNED")
    record = replace(lost, val_accuracy=0.987654, epochs=27, seconds=1234.5)
    hp = record.hyperparameters
    place = Place(key=1, bracket=2, seed=0, batch_size=208, label=label, model="208-best", order=1)
    trial = StartedTrial(number=123, place=place, hyperparameters=hp, max_epochs=100)
    screen = Screen(width, terminal)
    with SearchDisplay(screen.console, "search", 100, records) as display:
        display.trial_started(trial)
        display.epoch_ended(trial, 42, 0.976543)
        if terminal:
            wait_until(lambda: "0.9765" in screen.words)
            assert re.search(rf"{trial.label}.*42%.* epoch 42/100 · val 0.9765", screen.words)
        display.trial_ended(trial, record)
    told = [
        f"{trial.label} PRUNED 0.987654 27 epochs 1234.5 s",
        f"{hp.conv1}-{hp.conv2}-{hp.dense_units} {hp.dropout_rate:g} {hp.learning_rate:.2e}",
        record.reason,
    ]
    assert " ".join(" ".join(told).split()) in screen.words
    if terminal:
        assert max(map(len, screen.lines)) <= width
        assert "…" not in screen.words
    else:
        assert len(screen.lines) == 1


def test_a_line_goes_on_between_words_but_a_command_stays_whole() -> None:
    command = "  python -m src.evaluate results/mnist/best-model.ckpt --device cpu"
    narrow, piped = Screen(40), Screen(40, terminal=False)
    for screen in (narrow, piped):
        say(screen.console, f"Six words and a {'long' * 9} word more\n{command}")
    assert narrow.lines == ["Six words and a", f"  {'long' * 9}", "  word more", command]
    assert piped.lines == [f"Six words and a {'long' * 9} word more", command]
