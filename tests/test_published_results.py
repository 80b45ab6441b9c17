"""What the README says of results follows from the files that are committed beside it."""

import csv
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from src.reporting.prior_work import PUBLISHED
from src.training.checkpoint import load_model
from src.training.network import TwoConvNet
from tests.conftest import REPOSITORY


def committed(path: Path) -> bytes:
    """Return a file as it was committed, whatever a user has made of it; without git, as it is."""
    name = path.relative_to(REPOSITORY).as_posix()
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:{name}"], cwd=REPOSITORY, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return path.read_bytes()
    return shown.stdout


def shipped_files(folder: Path) -> list[Path]:
    note = committed(folder / "SHIPPED.md").decode()
    return [folder / name for name in re.findall(r"^- `(.*)`$", note, flags=re.MULTILINE)]


SHIPPED = sorted(note.parent for note in (REPOSITORY / "results").glob("*/SHIPPED.md"))
NAMES = {
    "mnist": "MNIST",
    "emnist_digits": "EMNIST digits, subset",
    "emnist_letters_digits": "EMNIST letters + digits, subset",
}


def read_table() -> Iterator[tuple[str, dict[str, str]]]:
    """Give the README's table of results by data set: what is said of it, by row."""
    readme = (REPOSITORY / "README.md").read_text()
    section = re.search(r"^## Results\n(.*?)^## ", readme, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    for i, name in enumerate(head[1:], start=1):
        yield name, {row[0]: row[i] for row in rows}


def seconds(runs: list[dict[str, str]]) -> float:
    return sum(
        (
            datetime.fromisoformat(run["ended"]) - datetime.fromisoformat(run["started"])
        ).total_seconds()
        for run in runs
    )


def minutes(runs: list[dict[str, str]]) -> str:
    return f"{round(seconds(runs) / 60)} min"


def compute(dataset: str) -> dict[str, str]:
    """Return the same from the files."""
    folder = REPOSITORY / "results" / dataset

    def read(name: str) -> Any:
        return json.loads(committed(folder / name))

    best, finals, tested = read("best.json"), read("finalists.json"), read("metrics.json")
    winner = finals["finalists"][0]
    values = np.array(winner["val_accuracies"])
    interval = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    trials = list(csv.DictReader(committed(folder / "all.csv").decode().splitlines()))
    finished = [float(row["val_accuracy"]) for row in trials if row["state"] == "COMPLETE"]
    right = sum(row[i] for i, row in enumerate(tested["confusion_matrix"]))
    images = sum(map(sum, tested["confusion_matrix"]))
    low, high = stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    counts = best["data"]["images"]
    fits = [fit for finalist in finals["finalists"] for fit in finalist["epochs"]]
    published = PUBLISHED.get(dataset)
    return {
        "images that train, validate, test": (
            f"{counts['train']:,}, {counts['validation']:,}, {images:,}"
        ),
        "winner, mean ± standard deviation over seeds": (
            f"{values.mean():.5f} ± {values.std(ddof=1):.5f} ({len(values)})"
        ),
        "95 % interval of that mean": f"{interval[0]:.5f} to {interval[1]:.5f}",
        "published, best of all trials": str(published.best) if published else "–",
        "best of our trials": f"{max(finished):.5f}",
        "its model, validation": f"{best['val_accuracy']:.5f}",
        "its model, test (95 % interval)": f"{right / images:.4f} ({low:.4f} to {high:.4f})",
        "trials + fits of the finals": f"{len(trials)} + {len(fits)}",
        "epochs": f"{round(sum(float(row['epochs']) for row in trials))} + {sum(fits)}",
        "wall time": f"{minutes(best['search']['runs'])} + {minutes(finals['runs'])}",
        "size of best-model.ckpt": f"{len(committed(folder / 'best-model.ckpt')) / 1e6:.1f} MB",
    }


def test_table_has_every_set_that_is_shipped() -> None:
    shown = {name for name, _ in read_table()}
    assert {NAMES[folder.name] for folder in SHIPPED} <= shown <= set(NAMES.values())


@pytest.mark.parametrize("dataset", [folder.name for folder in SHIPPED])
def test_readme_says_what_the_files_say(dataset: str) -> None:
    assert dict(read_table())[NAMES[dataset]] == compute(dataset)


@pytest.mark.parametrize("dataset", [folder.name for folder in SHIPPED])
def test_shipped_model_is_the_one_that_was_tested_once(dataset: str, tmp_path: Path) -> None:
    folder = REPOSITORY / "results" / dataset
    content = committed(folder / "best-model.ckpt")
    sha256 = hashlib.sha256(content).hexdigest()
    looks = map(json.loads, committed(folder / "test-log.jsonl").splitlines())
    (look,) = (look for look in looks if look["checkpoint_sha256"] == sha256)
    metrics = json.loads(committed(folder / "metrics.json"))
    assert metrics["checkpoint_sha256"] == sha256
    assert metrics["test_accuracy"] == look["test_accuracy"]
    winner = json.loads(committed(folder / "finalists.json"))["finalists"][0]
    (tmp_path / "model.ckpt").write_bytes(content)
    assert load_model(tmp_path / "model.ckpt").val_accuracy == max(winner["val_accuracies"])


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_results_name_no_path_of_the_machine_that_made_them(folder: Path) -> None:
    for path in shipped_files(folder):
        content = committed(path)
        assert content
        assert not re.search(rb"[\"' =](/home|/opt|/root|/tmp|/work)/", content), path


LEAGUE = REPOSITORY / "benchmarks/results/league.json"
OTHER_WORKERS = REPOSITORY / "benchmarks/results/other-workers/league.json"
FOREST = REPOSITORY / "benchmarks/results/forest/league.json"

TABLES = {
    "MNIST, 32": "mnist_32",
    "MNIST, 208": "mnist_208",
    "letters + digits, 64": "emnist_letters_digits_64",
}


def table_cells(text: str) -> list[list[str]]:
    """Return the cells of each line of a table, the heading and its rule too."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


def table_of_the_readme(section: str) -> list[list[str]]:
    """Return the cells of the table in a section."""
    readme = (REPOSITORY / "README.md").read_text()
    found = re.search(rf"^## {section}\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    return table_cells(found[1])


def test_seconds_of_the_readme_are_those_of_their_file() -> None:
    _, _, *lines = table_of_the_readme("How fast it is")
    shown = [cells for _, *cells in lines]
    rows = json.loads(committed(REPOSITORY / "benchmarks/results/search.json"))["rows"]
    assert shown == [
        [f"{row['seconds']:,.0f}", f"{row['images/s']:,}", f"{row['best val accuracy']:.4f}"]
        for row in rows
    ]


def test_throughput_without_bf16_is_that_of_its_file() -> None:
    file = REPOSITORY / "benchmarks/results/without-bf16/throughput.json"
    rows = json.loads(committed(file))["rows"]
    names = [name for name in rows[0] if name != "reports"]
    documents = (REPOSITORY / "benchmarks/README.md").read_text()
    _, after = documents.split("The same on a processor without bfloat16", 1)
    head, _, *lines = table_cells(after.split("\n#", 1)[0])
    assert head == names
    assert [[cell.replace(",", "") for cell in line] for line in lines] == [
        [str(row[name]) for name in names] for row in rows
    ]
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    ratios = {
        peer: f"{min(found):.1f} to {max(found):.1f} times as many"
        for peer in ("stock Lightning", "Keras")
        if (found := [row[f"ours / {peer}"] for row in rows])
    }
    assert f"{ratios['stock Lightning']} images a second as Lightning" in readme
    assert f"{ratios['Keras']} as Keras" in readme


def test_league_of_the_readme_is_that_of_its_file() -> None:
    head, _, *shown = table_of_the_readme("How good its search is")
    assert head[1:] == [*TABLES, "mean rank"]
    rows = {
        (row["table"], row["tuner"]): row
        for row in json.loads(committed(LEAGUE))["rows"]
        if row["workers"] == 2
    }
    assert [line[0] for line in shown] == [tuner for table, tuner in rows if table == "all"]
    for tuner, *cells, rank in shown:
        assert cells == [rows[table, tuner]["regret"] for table in TABLES.values()]
        assert rank == f"{rows['all', tuner]['rank at 1']:.2f}"


def lines_under(heading: str) -> list[list[str]]:
    """Return the lines of a table in the benchmarks' documents, whose heading begins so."""
    documents = (REPOSITORY / "benchmarks/README.md").read_text()
    found = re.search(rf"^{re.escape(heading)}.*\n\|.*\n((?:\|.*\n)+)", documents, re.MULTILINE)
    assert found is not None
    return table_cells(found[1])


def test_league_with_other_workers_is_that_of_its_file() -> None:
    shown = lines_under("| | 1 worker | 2 workers ")
    rows = {
        (row["table"], row["workers"], row["tuner"]): row
        for file in (LEAGUE, OTHER_WORKERS)
        for row in json.loads(committed(file))["rows"]
    }
    assert [tuner for tuner, *_ in shown] == [
        tuner for table, workers, tuner in rows if (table, workers) == ("all", 1)
    ]
    for tuner, *cells in shown:
        assert cells == [
            *(rows["mnist_208", workers, tuner]["thousands to 0.001"] for workers in (1, 2, 8)),
            *(f"{rows['all', workers, tuner]['rank at 1']:.2f}" for workers in (1, 8)),
        ]


def test_league_with_curves_of_a_forest_is_that_of_its_file() -> None:
    shown = lines_under("| | MNIST, 32 | MNIST, 208 | letters + digits, 64 | rank at 0.11 ")
    rows = {(row["table"], row["tuner"]): row for row in json.loads(committed(FOREST))["rows"]}
    tuners = [tuner for table, tuner in rows if table == "all"]
    assert [tuner for tuner, *_ in shown] == tuners
    for tuner, *cells in shown:
        over = [rows[table, tuner].get("over the first's") for table in TABLES.values()]
        thousandths = [
            re.sub(r"[+-]\d\.\d+", lambda found: f"{1000 * float(found[0]):+.1f}", text)
            if text
            else "–"
            for text in over
        ]
        ranks = [f"{rows['all', tuner][f'rank at {share}']:.2f}" for share in ("0.11", "1")]
        assert cells == [*thousandths, *ranks]


PLAIN = REPOSITORY / "results/plain/mnist"


def rematch_of_mnist() -> tuple[list[list[str]], str]:
    """Compute the README's table of what was published, trained again, and what it shows."""
    published = PUBLISHED["mnist"]
    sides = ("published", "ours")
    fits = json.loads(committed(PLAIN / "rematch.json"))["fits"]
    sizes = sorted({fit["hyperparameters"]["batch_size"] for fit in fits})

    def of(name: str) -> Any:
        """Return a value of each fit: (sides, batch sizes, seeds)."""
        return np.array([
            [
                [
                    fit[name]
                    for fit in fits
                    if (fit["whose"], fit["hyperparameters"]["batch_size"]) == (whose, size)
                ]
                for size in sizes
            ]
            for whose in sides
        ])  # fmt: skip

    accuracies, chosen = of("val_accuracy"), of("hyperparameters")
    parameters = np.vectorize(weights_of)(chosen)
    told = [published.by_batch_size[size].val_accuracy for size in sizes]
    runs = json.loads(committed(PLAIN / "best.json"))["search"]["runs"]
    trials = list(csv.DictReader(committed(PLAIN / "all.csv").decode().splitlines()))
    theirs, ours = parameters.mean(axis=(1, 2))
    table = [
        [
            f"mean over {len(sizes)} batch sizes",
            *("published", "published, trained again", "ours, trained again"),
        ],
        [
            "validation accuracy",
            *(f"{mean:.5f}" for mean in (np.mean(told), *accuracies.mean(axis=(1, 2)))),
        ],
        ["parameters", f"{theirs:,.0f}", f"{theirs:,.0f}", f"{ours:,.0f}"],
        ["seconds a fit", "–", *(f"{mean:.0f}" for mean in of("seconds").mean(axis=(1, 2)))],
        ["trials of the search", *(f"{published.trials:,}",) * 2, f"{len(trials):,}"],
        ["hours of the search", "72", "72", f"{seconds(runs) / 3600:.1f}"],
    ]
    assert (accuracies[0].mean(axis=1) < told).all()  # "none gives what was published of it"
    gains = np.diff(accuracies.mean(axis=2), axis=0)[0]
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    single = stats.ttest_ind(*accuracies[::-1], axis=1, equal_var=False).confidence_interval(0.95)
    shown = (
        f"{gains.mean():+.5f} on average (95 % interval {low:+.5f} to {high:+.5f}); single "
        f"differences whose interval leaves out 0: {sum(single.low > 0)} in our favour and "
        f"{sum(single.high < 0)} in favour of what was published, of {len(sizes)}"
    )
    return table, shown.replace("-", "−")


def weights_of(chosen: dict[str, Any]) -> int:
    sizes = {name: chosen[name] for name in ("conv1", "conv2", "dense_units", "dropout_rate")}
    return sum(weights.numel() for weights in TwoConvNet(**sizes, classes=10).parameters())


def test_published_table_again_is_that_of_its_files() -> None:
    computed, sentence = rematch_of_mnist()
    head, _, *rows = table_of_the_readme("The published table again")
    assert [head, *rows] == computed
    assert sentence in " ".join((REPOSITORY / "README.md").read_text().split())
