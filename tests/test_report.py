import contextlib
import csv
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from src import report
from src.core.files import write_json
from src.core.metrics import Mistake
from src.reporting.analysis import Value, accuracy_within, rung_uses, with_accuracy
from src.reporting.figures import mistakes_figure, to_png
from src.reporting.figures.style import panel_grid
from src.reporting.findings import read_findings
from src.reporting.importance import importances
from src.reporting.prior_work import PUBLISHED
from src.results.folder import ResultsFolder
from src.search.spec import Sampler
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters
from src.training.task import make_task
from tests.conftest import Rows, Workplace
from tests.simulated import finalists_of, metrics_of, simulate_search

with contextlib.suppress(ImportError):
    from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    "sync_playwright" not in globals() or CHROMIUM is None,
    reason="playwright or Chromium is not installed",
)

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page as a reader takes it in; fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        """Rows, the header first, by caption."""
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.keys: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._caption = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.links += [values[name] for name in ("href", "src", "action") if name in values]
        self.keys += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self._open.append(tag)
        if tag == "img":
            self.images.append(values)
        elif tag == "figcaption":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if self._open[-1:] == ["style"]:
            return
        self.text += data
        if "figcaption" in self._open:
            self._caption += data
        elif self._open[-1:] in (["td"], ["th"]):
            self.tables[self._caption][-1][-1] += data

    def table(self, caption: str) -> Rows:
        """Return the rows of a table by the names of its columns."""
        (found,) = [rows for key, rows in self.tables.items() if key.startswith(caption)]
        header = found[0]
        return [dict(zip(header, row, strict=True)) for row in found if row != header]


def read_csv(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def set_column(path: Path, name: str, *values: str) -> None:
    """Put values into a column of a table, over and over."""
    rows = read_csv(path)
    for row, value in zip(rows, itertools.cycle(values), strict=False):
        row[name] = value
    write_csv(path, rows)


def column(rows: Rows, name: str) -> list[str]:
    return [row[name] for row in rows]


def make_report(folder: ResultsFolder) -> Page:
    options = [f"--dataset={folder.path.name}", f"--results_dir={folder.path.parent}"]
    assert report.main(options) == 0
    return Page(folder.report)


@pytest.fixture(scope="module")
def reported(
    finished_search: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ResultsFolder, Page]:
    """A report on a real search, made where the studies are not."""
    folder = ResultsFolder(tmp_path_factory.mktemp("reported"), "mnist_5k")
    folder.path.mkdir()
    for name in ("all.csv", "curves.csv", "best.json", "best-model.ckpt"):
        shutil.copy(finished_search.results / "mnist_5k" / name, folder.path)
    return folder, make_report(folder)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw coarsely: pictures take most of the time, and one report is looked at closely."""
    monkeypatch.setattr("src.reporting.figures.style._PAGE_DPI", 40)


@pytest.fixture
def simulated(tmp_path: Path) -> ResultsFolder:
    return simulate_search(tmp_path, batch_sizes=(64, 208))


# ---- the page


def test_page_needs_no_other_file_and_runs_nothing(reported: tuple[ResultsFolder, Page]) -> None:
    _, page = reported
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", page.html)
    assert len(text) < 60_000
    assert not re.search(r"https?:|//\w|<script|javascript:|@import|url\(", text)
    for link in page.links:
        assert link.startswith(("data:", "#"))
        assert not link.startswith("#") or link[1:] in page.keys
    assert len(set(page.keys)) == len(page.keys)


@pytest.mark.parametrize("panels", range(1, 13))
def test_rows_of_panels_are_as_few_and_as_full_as_can_be(panels: int) -> None:
    rows, columns = panel_grid(panels)
    assert rows == next(n for n in range(1, 13) if 3 * n >= panels)
    assert columns == next(n for n in (1, 2, 3) if n * rows >= panels)


def assert_nothing_is_cut_off(folder: ResultsFolder) -> None:
    for path in folder.figures.iterdir():
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        for border in (grey[0], grey[-1], grey[:, 0], grey[:, -1]):
            assert border.min() > 200, path.name


def test_every_picture_is_a_file_too_and_shows_something(
    reported: tuple[ResultsFolder, Page],
) -> None:
    folder, page = reported
    names = {
        *("batch-sizes", "history", "budget", "learning-curves", "importance", "slices"),
        *("parallel", "winner-curves", "winner-confusion", "size"),
    }
    assert {path.stem for path in folder.figures.iterdir()} == names
    assert len(page.images) == len(names)
    for path in folder.figures.iterdir():
        with Image.open(path) as image:
            assert image.width > 900
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20
    assert_nothing_is_cut_off(folder)
    for shown in page.images:
        assert len(shown["alt"]) > 30
        assert int(shown["width"]) <= 920


def test_ranking_and_batch_sizes_are_those_of_the_csv(
    reported: tuple[ResultsFolder, Page],
) -> None:
    folder, page = reported
    trials = read_csv(folder.all_csv)
    finished = [row for row in trials if row["state"] == "COMPLETE"]
    ranked = sorted(finished, key=lambda row: -float(row["val_accuracy"]))[:10]
    shown = page.table("The best 10")
    for row, trial in zip(shown, ranked, strict=True):
        accuracy = float(trial["val_accuracy"])
        assert row["validation accuracy"] == f"{accuracy:.4f}"
        for name in ("conv1", "conv2", "dense_units", "batch_size", "epochs", "bracket", "trial"):
            assert row[name.replace("_", " ")] == trial[name]
        for name in ("dropout_rate", "learning_rate"):
            assert float(row[name.replace("_", " ")]) == pytest.approx(float(trial[name]), rel=5e-3)
        exact = scipy.stats.binomtest(round(accuracy * 20), 20).proportion_ci(method="wilson")
        assert row["95 % interval"] == f"{exact.low:.4f} to {exact.high:.4f}"

    for row in page.table("The best finished trial"):
        here = [trial for trial in trials if trial["batch_size"] == row["batch size"]]
        assert int(row["trials"]) == len(here) == 17
        done = [float(trial["val_accuracy"]) for trial in here if trial["state"] == "COMPLETE"]
        assert int(row["finished"]) == len(done)
        assert row["best validation accuracy"] == f"{max(done):.4f}"


def test_rungs_account_for_every_trial_and_epoch(reported: tuple[ResultsFolder, Page]) -> None:
    folder, page = reported
    trials = read_csv(folder.all_csv)
    shown = [
        {name: int(cell.replace(",", "")) for name, cell in row.items() if name != "share"}
        for row in page.table("Trials and epochs")
    ]
    assert sum(row["epochs spent"] for row in shown) == sum(int(row["epochs"]) for row in trials)
    ends = [name for name in shown[0] if name not in _NOT_ENDS]
    assert sum(row[name] for row in shown for name in ends) == len(trials)
    lost = Counter(
        (int(row["bracket"]), int(row["epochs"])) for row in trials if row["state"] == "PRUNED"
    )
    for row in shown:
        assert row["trials sent here"] == row["went on"] + sum(row[name] for name in ends)
        epochs = [
            int(trial["epochs"]) for trial in trials if int(trial["bracket"]) == row["bracket"]
        ]
        assert row["stopped by the rung"] == lost[row["bracket"], row["rung (epochs)"]]
        if row["rung (epochs)"] == max(epochs):
            assert row["went on"] == 0
        else:
            assert row["went on"] == sum(one > row["rung (epochs)"] for one in epochs)
    # Algorithm 1 of the paper for R = 9, η = 3, as the README shows it
    assert [row["plan"] for row in shown] == [9, 3, 1, 5, 1, 3]


_NOT_ENDS = (*("bracket", "rung (epochs)", "trials sent here", "plan", "went on", "epochs spent"),)


def test_classes_are_counted_from_the_winners_confusion_matrix(
    reported: tuple[ResultsFolder, Page],
) -> None:
    _, page = reported
    classes = page.table("Classes by F1")
    assert sorted(column(classes, "class")) == list("0123456789")
    assert sum(map(int, column(classes, "images"))) == 20
    assert column(classes, "F1") == sorted(column(classes, "F1"))


def test_a_part_that_is_not_there_yet_is_a_sentence(
    reported: tuple[ResultsFolder, Page], finished_search: Workplace, tmp_path: Path
) -> None:
    folder, page = reported
    assert "have not been trained again with other seeds" in page.text
    assert "The test images have not been opened" in page.text
    bare = ResultsFolder(tmp_path, "mnist_5k")
    bare.path.mkdir()
    shutil.copy(folder.all_csv, bare.path)
    page = make_report(bare)
    assert "best.json is missing" in page.text
    assert "There is no best-model.ckpt" in page.text
    assert page.images == []
    shutil.copy(folder.best_json, bare.path)
    page = make_report(bare)
    assert "The learning curves are not there (curves.csv)" in page.text
    assert len(page.images) == 6


def test_nothing_finished_yet_is_told(simulated: ResultsFolder) -> None:
    lines = simulated.all_csv.read_text().splitlines()
    simulated.all_csv.write_text("\n".join(line for line in lines if "COMPLETE" not in line) + "\n")
    for path in (simulated.best_json, simulated.best_model, simulated.curves_csv):
        path.unlink()
    assert "No trial has trained to its end yet" in make_report(simulated).text


# ---- published figures, finalists, tests


def test_published_figures_stand_beside_ours_and_say_what_differs(tmp_path: Path) -> None:
    whole = make_report(simulate_search(tmp_path / "whole", batch_sizes=(64, 208)))
    table = whole.table("The best finished trial")
    assert column(table, "published") == ["0.99383", "0.99450"]
    for row in table:
        difference = float(row["difference"].replace("−", "-"))
        ours = float(row["best validation accuracy"])
        assert difference == pytest.approx(ours - float(row["published"]), abs=2e-5)
    assert "on another split" in whole.text
    assert "subset" not in whole.text
    assert "not the training" not in whole.text
    folder = ResultsFolder(tmp_path / "whole", "mnist")
    folder.all_csv.write_text(folder.all_csv.read_text().replace(",none,False", ",affine,True"))
    assert "here it has augmentation and weight averaging" in make_report(folder).text
    folder.all_csv.write_text(folder.all_csv.read_text().replace(",constant,", ",cosine,"))
    assert "here it has schedule, augmentation and weight averaging" in make_report(folder).text
    part = make_report(simulate_search(tmp_path / "part", "emnist_digits", images=78_978))
    assert "EMNIST digits subset" in part.text
    assert "a subset, 78,978 of the 240,000 images" in part.text
    assert "0.996125" in part.text
    assert part.table("The best finished trial")[0]["published"] == "0.99600"
    other = make_report(
        simulate_search(tmp_path / "other", "emnist_letters_digits", images=364_800)
    )
    assert "Nothing was published on these classes" in other.text


def test_published_best_is_the_best_of_its_batch_sizes() -> None:
    for dataset, sizes, best in (
        ("mnist", range(16, 257, 16), 208),
        ("emnist_digits", range(32, 257, 32), 224),
    ):
        published = PUBLISHED[dataset]
        assert list(published.by_batch_size) == list(sizes)
        assert published.best_trial == published.by_batch_size[best]
        assert published.best_trial.val_accuracy == published.best


def test_smallest_good_finalist_is_named_with_its_size(simulated: ResultsFolder) -> None:
    document = finalists_of(simulated) | {"smallest": 2}
    second = document["finalists"][1]  # type: ignore[index]
    first = dict(second["hyperparameters"])
    second["hyperparameters"] = first | {"conv1": 32, "conv2": 32, "dense_units": 32}
    write_json(simulated.finalists_json, document)
    text = make_report(simulated).text
    small, large = (
        sum(p.numel() for p in make_task(Hyperparameters(**hp), 10).parameters())
        for hp in (second["hyperparameters"], first)
    )
    assert re.search(rf"{small:,} parameters, {100 * small / large:.0f}\s% of", text)
    assert f"the winner’s {large:,}" in text
    assert_nothing_is_cut_off(simulated)
    write_json(simulated.finalists_json, document | {"smallest": 1})
    assert "No finalist with fewer parameters" in make_report(simulated).text


def test_finalists_and_tests_are_shown_as_their_files_have_them(simulated: ResultsFolder) -> None:
    write_json(simulated.finalists_json, finalists_of(simulated))
    metrics = metrics_of(simulated)
    write_json(simulated.metrics_json, metrics)
    pixels = np.zeros((28, 28), dtype=np.uint8)
    simulated.mistakes.write_bytes(to_png(mistakes_figure([Mistake(pixels, "1", "7", 0.99)])))
    line = {
        "date": "2026-01-03", "checkpoint": "best-model.ckpt", "checkpoint_sha256": "0" * 64,
        "dataset": "mnist", "test_accuracy": 0.97, "n_test": 10_000, "more": [1],
    }  # fmt: skip
    simulated.test_log.write_text(json.dumps(line) + "\n")
    page = make_report(simulated)
    assert "smallest finalist" not in page.text
    finalists = page.table("Each configuration trained")
    assert column(finalists, "mean") == ["0.98100", "0.97100"]
    assert finalists[0]["95 % interval"] == "0.97850 to 0.98350"
    assert finalists[1]["optimism"] == "+0.01200"
    assert column(finalists, "seeds") == ["3", "3, 1 diverged"]
    assert "best model, test accuracy" in page.text
    assert f"{metrics['test_accuracy']:.5f} of 10,000 test images" in page.text
    assert (simulated.figures / "test-mistakes.png").exists()
    opened = page.table("The test images were")
    assert column(opened, "is the best model") == ["no"]
    assert "this is not the best model shown above" not in page.text
    assert "6 fits, 150 epochs in all" in page.text
    assert column(page.table("2 runs"), "stage") == ["search", "finals"]
    write_json(simulated.metrics_json, metrics | {"checkpoint_sha256": "0" * 64})
    page = make_report(simulated)
    assert "this is not the best model shown above" in page.text
    assert "another model, test accuracy" in page.text
    simulated.metrics_json.unlink()
    assert "have not been opened" not in make_report(simulated).text


@pytest.mark.parametrize(("dataset", "classes"), [("emnist_letters", 26), ("emnist_byclass", 62)])
def test_any_number_of_classes_is_listed_once(dataset: str, classes: int, tmp_path: Path) -> None:
    page = make_report(simulate_search(tmp_path, dataset, max_epochs=3))
    listed = column(page.table("Classes by F1"), "class")
    assert len(set(listed)) == len(listed) == classes
    assert "Nothing was published on these classes" in page.text


# ---- what mattered


def test_trials_are_compared_after_the_same_epochs(simulated: ResultsFolder) -> None:
    curves: dict[tuple[int, int], list[float]] = {}
    for row in read_csv(simulated.curves_csv):
        curve = curves.setdefault((int(row["batch_size"]), int(row["trial"])), [])
        curve.append(float(row["val_accuracy"]))
    expected = {key: max(curve[:3]) for key, curve in curves.items() if len(curve) >= 3}
    trials = read_findings(simulated).trials
    found = {(t.batch_size, t.trial): accuracy_within(t, 3) for t in trials}
    assert {key: value for key, value in found.items() if value is not None} == expected
    assert None in found.values()


def test_the_hyperparameter_that_decides_is_the_most_important_every_time() -> None:
    generator = np.random.default_rng(0)
    configurations: list[dict[str, Value]] = []
    accuracies = []
    for _ in range(100):
        rate = float(10 ** generator.uniform(-4, -2))
        schedule = str(generator.choice(["constant", "cosine"]))
        units = int(generator.integers(1, 9)) * 32
        configurations.append({"units": units, "schedule": schedule, "learning_rate": rate})
        accuracies.append(0.9 - 0.1 * (np.log10(rate) + 3) ** 2 + 0.001 * generator.random())
    first, *others = importances(configurations, accuracies)
    assert first.name == "learning_rate"
    assert first.value > 0.8
    assert first.low > max(other.high for other in others)
    assert sum(one.value for one in (first, *others)) == pytest.approx(1)
    assert importances(configurations, accuracies) == [first, *others]


def test_hyperparameters_are_those_of_the_table_and_only_what_varies_is_compared(
    simulated: ResultsFolder,
) -> None:
    set_column(simulated.all_csv, "schedule", "constant", "cosine")
    set_column(simulated.all_csv, "label_smoothing", "0.1")
    page = make_report(simulated)
    ranked = page.table("The best 10")[0].keys()
    assert "schedule" in ranked
    assert not {"label smoothing", "augmentation"} & ranked
    (slices,) = [image["alt"] for image in page.images if "against each of" in image["alt"]]
    assert "schedule" in slices
    assert "label smoothing" not in slices
    same = "label smoothing 0.1, augmentation none, weight averaging no, weight decay 0"
    assert page.text.count(f"The same in all trials: {same}.") == 1


def test_all_epochs_are_spent_on_some_rung(tmp_path: Path) -> None:
    folder = simulate_search(tmp_path, max_epochs=30, reduction_factor=2)
    findings = read_findings(folder)
    assert findings.search is not None
    uses = rung_uses(findings.trials, findings.search.plan)
    assert sum(use.spent for use in uses) == sum(
        int(row["epochs"]) for row in read_csv(folder.all_csv)
    )
    assert [use.epochs for use in uses if use.bracket == 4] == [2, 4, 8, 15, 30]


# ---- rungs within the first epoch, on which trials wait


@pytest.fixture
def halved(tmp_path: Path) -> ResultsFolder:
    """A search with rungs at 1/9, 1/3, 1, 3 and 9 epochs that promotes exactly one in three."""
    return simulate_search(
        tmp_path, batch_sizes=(64, 208), min_epochs=1 / 9, promotion="synchronous"
    )


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_batch_sizes_that_learn_from_each_other_are_not_compared_without_a_word(
    sampler: Sampler, tmp_path: Path
) -> None:
    page = make_report(simulate_search(tmp_path, batch_sizes=(64, 208), sampler=sampler))
    assert ("began with what the earlier ones had shown" in page.text) == (sampler == "gp")


def test_each_rung_shows_whom_it_promoted_beside_the_plan(halved: ResultsFolder) -> None:
    page = make_report(halved)
    assert "until exactly the best one in 3 of those sent there are promoted" in page.text
    assert "judged the moment they arrive" not in page.text
    assert "Not ended yet" not in page.text
    shown = page.table("Trials and epochs")
    assert [(row["bracket"], row["rung (epochs)"]) for row in shown] == [
        *(("4", "0.111"), ("4", "0.333"), ("4", "1"), ("4", "3"), ("4", "9")),
        *(("3", "0.333"), ("3", "1"), ("3", "3"), ("3", "9")),
        *(("2", "1"), ("2", "3"), ("2", "9")),
        *(("1", "3"), ("1", "9")),
        ("0", "9"),
    ]
    # Algorithm 1 of the paper for R = 9, η = 3 and five brackets, at two batch sizes
    plan = ["162", "54", "18", "6", "2", "68", "22", "6", "2", "30", "10", "2", "16", "4", "10"]
    promoted = ["54", "18", "6", "2", "0", "22", "6", "2", "0", "10", "2", "0", "4", "0", "0"]
    assert column(shown, "plan") == column(shown, "trials sent here") == plan
    assert column(shown, "promoted") == promoted
    # of bracket 4: 162/9, 54 · 2/9, 18 · 2/3, 6 · 2 and 2 · 6; of bracket 3: 68/3, 22 · 2/3, …
    spent = ["18", "12", "12", "12", "12", "22.4", "14.7", "12", "12"]
    assert column(shown, "epochs spent")[:9] == spent  # one of the 68 diverged at 1/9
    trials = read_csv(halved.all_csv)
    lost = Counter(
        (row["bracket"], f"{float(row['epochs']):.3g}")
        for row in trials
        if row["reason"].startswith("lost")
    )
    ends = ("stopped by the rung", "all epochs trained", "diverged", "stopped early")
    for row in shown:
        assert int(row["trials sent here"]) == sum(int(row[name]) for name in ("promoted", *ends))
        epochs = [float(one["epochs"]) for one in trials if one["bracket"] == row["bracket"]]
        arrived = sum(one > 0.999 * float(row["rung (epochs)"]) for one in epochs)
        assert int(row["arrived"]) == arrived
        assert int(row["stopped by the rung"]) == lost[row["bracket"], row["rung (epochs)"]]
    total = sum(float(row["epochs"]) for row in trials)
    (told,) = re.findall(r"([\d.]+) epochs were trained", page.text)
    assert float(told) == pytest.approx(total, abs=0.1)


def test_trials_that_have_not_ended_are_told(halved: ResultsFolder) -> None:
    rows = read_csv(halved.all_csv)
    rows.remove(next(row for row in rows if row["reason"].startswith("lost")))
    write_csv(halved.all_csv, rows)
    assert "Not ended yet, and not shown: 1 trial of the plan." in make_report(halved).text


def test_where_trials_do_not_wait_the_report_says_so(tmp_path: Path) -> None:
    page = make_report(simulate_search(tmp_path, min_epochs=1 / 9))
    assert "as trials are judged the moment they arrive, more or fewer may pass" in page.text
    shown = page.table("Trials and epochs")
    plan = ["81", "27", "9", "3", "1", "34", "11", "3", "1", "15", "5", "1", "8", "2", "5"]
    assert column(shown, "plan") == plan
    assert "promoted" not in shown[0]


def test_search_of_some_brackets_is_shown_with_these(tmp_path: Path) -> None:
    folder = simulate_search(tmp_path, brackets=1, promotion="synchronous")
    shown = make_report(folder).table("Trials and epochs")
    assert column(shown, "plan") == ["9", "3", "1"]
    assert "factor 3, 1 iteration of 1 of its 3 brackets: 21 epochs" in make_report(folder).text


def test_trial_of_a_bracket_that_was_not_planned_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = simulate_search(tmp_path)
    set_setting(folder, "brackets", 2)
    assert report.main(["--dataset=mnist", f"--results_dir={folder.path.parent}"]) == 2
    assert "it has a bracket 0; the plan has [2, 1]" in capsys.readouterr().err


def test_asynchronous_promotion_is_told(halved: ResultsFolder) -> None:
    set_setting(halved, "promotion", "asynchronous")
    assert "until they are among the best one in 3 of those" in make_report(halved).text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("promotion", "sideways"),
        *(("min_epochs", value) for value in (0, -1, 10, 1e-300, "1")),
        *(("brackets", value) for value in (0, 6, "1")),
    ],
)
def test_settings_that_no_search_has_are_refused(
    name: str, value: object, halved: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    set_setting(halved, name, value)
    assert report.main(["--dataset=mnist", f"--results_dir={halved.path.parent}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {halved.best_json} is")
    assert name in error


def set_setting(folder: ResultsFolder, name: str, value: object) -> None:
    best = json.loads(folder.best_json.read_text())
    best["search"]["settings"][name] = value
    folder.best_json.write_text(json.dumps(best))


def test_rungs_that_tables_round_are_those_of_the_plan_again(halved: ResultsFolder) -> None:
    trials = read_findings(halved).trials
    assert {trial.epochs for trial in trials if "lost" in trial.reason} == {1 / 9, 1 / 3, 1, 3}
    looks = {look.epoch for trial in trials for look in trial.history}
    assert looks == {1 / 9, 1 / 3, *range(1, 10)}


def test_trials_are_compared_on_a_rung_within_the_first_epoch(halved: ResultsFolder) -> None:
    first = {
        (int(row["batch_size"]), int(row["trial"])): float(row["val_accuracy"])
        for row in read_csv(halved.curves_csv)
        if row["epoch"] == "0.1111"
    }
    trials = read_findings(halved).trials
    assert {(t.batch_size, t.trial): accuracy_within(t, 1 / 9) for t in trials} == first
    assert "after 0.111 epochs, the lowest rung" in make_report(halved).text


def test_what_a_part_of_the_images_gave_is_no_best_epoch(halved: ResultsFolder) -> None:
    trial = next(trial for trial in read_findings(halved).trials if trial.epochs == 3)
    curve = {1 / 9: 0.5, 1 / 3: 0.9, 1: 0.7, 2: 0.8, 3: 0.6}
    trial = replace(
        trial, history=tuple(Epoch(epoch, 1, 0.5, 1, value) for epoch, value in curve.items())
    )
    found = [accuracy_within(trial, epochs) for epochs in (1 / 9, 1 / 3, 1, 3, 9)]
    assert found == [0.5, 0.9, 0.7, 0.8, None]
    assert accuracy_within(replace(trial, history=()), 1) is None


def test_a_trial_lost_within_its_first_epoch_has_the_accuracy_of_its_last_look(
    halved: ResultsFolder,
) -> None:
    last = {
        (int(row["batch_size"]), int(row["trial"])): float(row["val_accuracy"])
        for row in read_csv(halved.curves_csv)
    }
    trials = read_findings(halved).trials
    found = with_accuracy(trials)
    early = {(t.batch_size, t.trial): value for t, value in found if t.epochs < 1}
    assert len(early) == 2 * (54 + 18 + 23) - 4  # lost at 1/9 and 1/3, but for 4 that diverged
    assert early == {key: last[key] for key in early}
    assert len(trials) - len(found) == 4


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_page_and_its_ranking_fit_the_screen(width: int, simulated: ResultsFolder) -> None:
    set_column(simulated.all_csv, "weight_averaging", "True", "False")
    make_report(simulated)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(simulated.report.as_uri())
        too_wide = "element => element.scrollWidth - element.clientWidth"
        assert page.locator("html").evaluate(too_wide) == 0
        assert page.locator("#ranking .scroll").evaluate(too_wide) == 0
        shown = page.locator("#ranking tbody tr").first.inner_text()
        browser.close()
    best = max(read_csv(simulated.all_csv), key=lambda row: float(row["val_accuracy"] or 0))
    for name in ("conv1", "dense_units", "batch_size", "trial"):
        assert best[name] in shown.split()


# ---- hostile, damaged, missing


def test_text_from_files_is_escaped(simulated: ResultsFolder) -> None:
    attack = "<script>alert(1)</script>"
    set_column(simulated.all_csv, "reason", attack)
    best = json.loads(simulated.best_json.read_text())
    best["provenance"]["command"] = attack
    best["search"]["runs"][0]["host"] = '"><img src=x onerror=alert(1)>'
    best["search"]["settings"]["patience"] = {"a": attack}
    simulated.best_json.write_text(json.dumps(best))
    page = make_report(simulated)
    assert "<script" not in page.html
    assert "<img src=x" not in page.html
    assert attack in page.text


def test_a_folder_without_a_search_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--dataset=mnist", f"--results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert f"there is no search in {tmp_path / 'mnist'}" in error
    assert "python -m src.tune --dataset mnist" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _put(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _named(folder: Path, smallest: int) -> dict[str, object]:
    finals = finalists_of(ResultsFolder(folder.parent, folder.name))
    return finals | {"smallest": smallest}


@pytest.mark.parametrize("name", ["all.csv", "curves.csv"])
@pytest.mark.parametrize(
    ("save", "told"),
    [
        (
            lambda text: ("\ufeff" + text.replace(",", ";").replace(".", ",")).encode(),
            "semicolons separate its columns",
        ),
        (lambda text: text.replace(",", "\t").encode("utf-16"), "UTF-16"),
        (lambda text: text.replace(",", "\t").encode(), "tabs separate its columns"),
        (
            lambda text: re.sub(r"(\d+)\.(\d+)", r'"\1,\2"', text).encode(),
            "has a decimal comma",
        ),
    ],
    ids=["semicolons", "utf-16", "tabs", "quoted commas"],
)
def test_a_table_that_a_spreadsheet_has_changed_is_named_for_what_it_is(
    save: Callable[[str], bytes],
    told: str,
    name: str,
    simulated: ResultsFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = simulated.path / name
    path.write_bytes(save(path.read_text()))
    options = [f"--dataset={simulated.path.name}", f"--results_dir={simulated.path.parent}"]
    assert report.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} is")
    assert "a spreadsheet has saved it" in error
    assert told in error
    assert error.count("\n") == 1


def test_a_table_that_a_spreadsheet_has_saved_unchanged_is_read(simulated: ResultsFolder) -> None:
    before = read_findings(simulated).trials
    for path in (simulated.all_csv, simulated.curves_csv):
        saved = path.read_text().replace("\n", "\r\n").replace("False", "FALSE")
        path.write_bytes(b"\xef\xbb\xbf" + saved.encode())
    assert read_findings(simulated).trials == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("all.csv", _cut),
        ("all.csv", _put("a,b\n1,2\n")),
        ("all.csv", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        ("all.csv", lambda path: path.write_text(path.read_text().replace("COMPLETE", "DONE"))),
        ("all.csv", lambda path: path.write_text(path.read_text().replace("\n0.", "\n1."))),
        ("all.csv", lambda path: path.write_text(path.read_text().replace("COMPLETE", "PRUNED"))),
        ("all.csv", lambda path: set_column(path, "seconds", "nan")),
        ("all.csv", lambda path: set_column(path, "seconds", "inf")),
        ("all.csv", lambda path: set_column(path, "schedule", "$\\bad$")),
        ("all.csv", lambda path: set_column(path, "conv1", "9" * 400)),
        ("all.csv", lambda path: set_column(path, "weight_averaging", "perhaps")),
        ("curves.csv", _cut),
        ("curves.csv", _put("x")),
        ("best.json", _cut),
        ("best.json", _put("[]")),
        ("best.json", _put('{"search": {"settings": {"max_epochs": 1e999}}}')),
        ("best-model.ckpt", _cut),
        ("finalists.json", _put("{}")),
        ("finalists.json", _put('{"seeds": 1, "max_epochs": 1, "finalists": [{"rank": "x"}]}')),
        ("finalists.json", lambda path: write_json(path, _named(path.parent, 3))),
        ("metrics.json", _put("NaN")),
        ("metrics.json", _put('{"per_class": [], "confusion_matrix": [[1]]}')),
        ("test-log.jsonl", _put('{"date": 1}\n')),
    ],
)
def test_a_damaged_file_is_named_and_the_old_report_stays(
    name: str,
    damage: Callable[[Path], object],
    simulated: ResultsFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulated.report.write_text("old")
    damage(simulated.path / name)
    options = [f"--dataset={simulated.path.name}", f"--results_dir={simulated.path.parent}"]
    assert report.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {simulated.path / name} is")
    assert error.count("\n") == 1
    assert simulated.report.read_text() == "old"


def test_where_nothing_can_be_written_is_one_line(
    simulated: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated.figures.write_text("no folder")
    options = [f"--dataset={simulated.path.name}", f"--results_dir={simulated.path.parent}"]
    assert report.main(options) == 2
    error = capsys.readouterr().err
    assert f"cannot write to {simulated.figures}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("writes", [pytest.param(1, marks=pytest.mark.long), 10])
def test_killed_between_two_writes_it_leaves_the_old_report(
    writes: int, simulated: ResultsFolder, environment: dict[str, str]
) -> None:
    simulated.report.write_text("old")
    program = (
        "import os, signal, sys\n"
        "from src import report\n"
        "from src.reporting.figures import style\n"
        "style._PAGE_DPI = 40\n"
        "calls = 0\n"
        "def fsync(_):\n"
        "    global calls\n"
        "    calls += 1\n"
        f"    if calls == {writes}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = fsync\n"
        "report.main(sys.argv[1:])"
    )
    options = [f"--dataset={simulated.path.name}", f"--results_dir={simulated.path.parent}"]
    killed = subprocess.run([sys.executable, "-c", program, *options], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert simulated.report.read_text() == "old"
    make_report(simulated)
    simulated.sweep()
    assert [p for p in simulated.path.rglob(".*.*.*") if p.is_file()] == []


def test_pictures_of_an_earlier_report_go_and_others_stay(simulated: ResultsFolder) -> None:
    make_report(simulated)
    simulated.curves_csv.unlink()
    own = simulated.figures / "own.png"
    own.write_bytes(b"mine")
    make_report(simulated)
    assert not (simulated.figures / "learning-curves.png").exists()
    assert own.exists()


def test_results_that_came_with_the_project_are_found_from_elsewhere(
    simulated: ResultsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    usual = (Path("results"), simulated.path.parent)
    monkeypatch.setattr("src.results.saved_models.usual_results_dirs", lambda: usual)
    assert report.main([f"--dataset={simulated.path.name}"]) == 0
    assert simulated.report.exists()
    ours = ResultsFolder("results", simulated.path.name)
    shutil.copytree(simulated.path, ours.path)
    ours.report.unlink()
    before = simulated.report.stat().st_mtime_ns
    assert report.main([f"--dataset={simulated.path.name}"]) == 0
    assert ours.report.exists()
    assert simulated.report.stat().st_mtime_ns == before
