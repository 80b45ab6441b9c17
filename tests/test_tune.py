import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src import evaluate, tune
from src.checkpoint import load_model
from src.data import CLASS_NAMES, load_images
from src.results import ResultsFolder
from src.studies import load_studies, open_storage
from tests.conftest import REAL_DATA, REPOSITORY, Rows, Workplace, needs_emnist, needs_mnist
from tests.test_data import write_idx

PUBLISHED = [
    "val_accuracy", "conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "epochs",
    "batch_size",
]  # fmt: skip


def without_time(rows: Rows) -> Rows:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def states(workplace: Workplace) -> list[optuna.trial.TrialState]:
    storage = open_storage(ResultsFolder(workplace.results, "mnist_5k"))
    return [t.state for study in load_studies(storage).values() for t in study.trials]


# ---- what a finished search leaves


def test_rungs_are_exact(finished_search: Workplace) -> None:
    rows = finished_search.rows()
    assert len(rows) == 2 * 17
    for row in rows:
        epochs = int(row["epochs"])
        if row["state"] == "PRUNED":
            assert epochs in {"2": {1, 3}, "1": {3}, "0": set()}[row["bracket"]]
            assert row["reason"] == f"lost on the rung at epoch {epochs}"
        else:
            assert row["state"] == "COMPLETE"
            assert epochs == 9 or row["reason"] == "early stopping: no better epoch in 3"
    for batch_size in ("32", "64"):
        brackets = [row["bracket"] for row in rows if row["batch_size"] == batch_size]
        assert [brackets.count(s) for s in "210"] == [9, 5, 3]


def test_tables_have_the_published_columns_first(finished_search: Workplace) -> None:
    everything = finished_search.rows()
    assert list(everything[0]) == [*PUBLISHED, "trial", "state", "bracket", "seconds", "reason"]
    assert finished_search.rows("32-all.csv") + finished_search.rows("64-all.csv") == everything


def test_configurations_lie_in_the_search_space(finished_search: Workplace) -> None:
    for row in finished_search.rows():
        for name in ("conv1", "conv2", "dense_units"):
            assert int(row[name]) in range(32, 257, 32)
        assert row["dropout_rate"] in {f"0.{tenths}" for tenths in range(1, 10)}
        assert 1e-4 <= float(row["learning_rate"]) <= 1e-2


def test_best_is_the_first_of_all_trials_and_says_where_it_comes_from(
    finished_search: Workplace,
) -> None:
    best = json.loads((finished_search.results / "mnist_5k/best.json").read_text())
    rows = finished_search.rows()
    assert best["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    (row,) = [
        row
        for row in rows
        if (row["trial"], row["batch_size"])
        == (str(best["provenance"]["trial"]), str(best["batch_size"]))
    ]
    assert float(row["val_accuracy"]) == best["val_accuracy"]
    assert float(row["learning_rate"]) == best["learning_rate"]
    assert best["data"]["images"] == {"train": 160, "validation": 40}
    assert re.fullmatch("[0-9a-f]{64}", best["data"]["split_hash"])
    assert best["data"]["seed"] == 0
    assert {"command", "date", "git_commit", "versions", "device"} <= best["provenance"].keys()
    assert best["search"]["settings"]["max_epochs"] == 9
    assert best["search"]["settings"]["iterations"] == 1
    assert best["search"]["trials"] == {
        state: sum(row["state"] == state for row in rows)
        for state in ("COMPLETE", "PRUNED", "FAIL")
    }


@pytest.mark.parametrize("batch_size", [32, 64])
def test_pictures_are_drawn(finished_search: Workplace, batch_size: int) -> None:
    for name, least in (("best", (1500, 500)), ("rungs", (900, 400))):
        with Image.open(finished_search.results / f"mnist_5k/{batch_size}-{name}.png") as image:
            assert image.width >= least[0]
            assert image.height >= least[1]
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20


def test_train_reload_and_test_agree(
    finished_search: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = finished_search.results / "mnist_5k/best-model.ckpt"
    model = load_model(checkpoint)
    assert sum(map(sum, model.validation_confusion)) == 40
    correct = sum(model.validation_confusion[i][i] for i in range(10))
    assert correct / 40 == pytest.approx(model.val_accuracy, abs=1e-6)

    assert evaluate.main([str(checkpoint), "--json", f"--output_dir={tmp_path}"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "metrics.json").read_text())
    assert printed["dataset"] == "mnist_5k"
    assert printed["n_test"] == 1000
    low, high = printed["ci95"]
    assert low < printed["test_accuracy"] < high
    # 100 images a class: both accuracies are the same.
    assert printed["macro_accuracy"] == pytest.approx(printed["test_accuracy"])
    assert [c["name"] for c in printed["per_class"]] == list("0123456789")
    with Image.open(tmp_path / "confusion-matrix.png") as image:
        assert image.width > 500


def test_tensorboard_has_curves_against_epochs_and_hyperparameters(
    finished_search: Workplace,
) -> None:
    rows = {row["trial"]: row for row in finished_search.rows("32-all.csv")}
    runs = sorted((finished_search.logs / "mnist_5k/batch_32").iterdir())
    assert [run.name for run in runs] == [f"trial_{n:04d}" for n in range(17)]
    for run in runs:
        events = EventAccumulator(str(run)).Reload()
        row = rows[str(int(run.name[-4:]))]
        for tag in ("accuracy/train", "accuracy/validation", "loss/train", "loss/validation"):
            steps = [event.step for event in events.Scalars(tag)]
            assert steps == list(range(1, int(row["epochs"]) + 1))
        accuracies = [event.value for event in events.Scalars("accuracy/validation")]
        assert max(accuracies) == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
        (final,) = events.Scalars("val_accuracy")
        assert final.value == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        for name in ("conv1", "dropout_rate", "learning_rate", "batch_size"):
            assert name.encode() in content


def test_the_search_says_what_it_found_and_what_to_do_next(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune() == 0
    out = capsys.readouterr().out
    assert out.index("5 trials for each batch size") < out.index("batch 64 trial   0"), "plan first"
    assert "Best: conv1 " in out
    folder = workplace.results / "mnist_5k"
    written = re.search(r"Written to (.*): (.*)", out)
    assert written is not None
    assert written[1] == str(folder)
    assert all((folder / name).exists() for name in written[2].split(", "))
    assert f"tensorboard --logdir {workplace.logs}" in out
    assert f"python -m src.evaluate {folder / 'best-model.ckpt'}" in out


# ---- running it again


def test_plan_prints_and_stops(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert workplace.tune("--plan", "--batch_sizes=[16,32,64]", "--iterations=2") == 0
    out = capsys.readouterr().out
    assert "3 → 1" in out
    assert "10 trials for each batch size, 30 in all" in out
    assert "90 at most" in out
    assert not workplace.results.exists()


def test_rerun_does_nothing_and_another_iteration_adds_one(workplace: Workplace) -> None:
    assert workplace.tune() == 0
    first = workplace.rows()
    assert len(first) == 5
    journal = workplace.results / "mnist_5k/study.journal"
    before = journal.read_bytes()
    assert workplace.tune() == 0
    assert workplace.rows() == first
    assert journal.read_bytes() == before
    assert workplace.tune("--iterations=2") == 0
    second = workplace.rows()
    assert second[:5] == first
    assert [row["bracket"] for row in second] == 2 * ["1", "1", "1", "0", "0"]


def test_another_batch_size_joins_the_ranking(workplace: Workplace) -> None:
    assert workplace.tune("--batch_sizes=[64]") == 0
    assert workplace.tune("--batch_sizes=[16]") == 0
    assert {row["batch_size"] for row in workplace.rows()} == {"16", "64"}
    best = json.loads((workplace.results / "mnist_5k/best.json").read_text())
    assert best["val_accuracy"] == max(float(r["val_accuracy"]) for r in workplace.rows())


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ("--seed=1", "`seed` (=1) differs"),
        ("--max_epochs=9", "`max_epochs` (=9) differs"),
        ("--sampler=random", "`sampler` (=random) differs"),
        ("--limit=300", "`limit` (=300) differs"),
        ("--precision=bf16", "`precision` (=bf16) differs"),
    ],
)
def test_changed_settings_are_refused(
    workplace: Workplace, changed: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune("--timeout=0.001s") == 0
    assert workplace.tune(changed) == 2
    error = capsys.readouterr().err
    assert shown in error
    assert "--results_dir" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_configuration_is_drawn_twice_at_any_batch_size(
    sampler: str, workplace: Workplace
) -> None:
    assert workplace.tune("--batch_sizes=[32,64]", f"--sampler={sampler}") == 0
    rates = [row["learning_rate"] for row in workplace.rows()]
    assert len(rates) == 10
    assert len(set(rates)) == 10


def test_diverged_trial_is_pruned_with_its_reason(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.space.LEARNING_RATE", (1e20, 1e30))
    assert workplace.tune() == 0
    rows = workplace.rows()
    assert len(rows) == 5
    assert {row["state"] for row in rows} == {"PRUNED"}
    assert all(row["reason"].startswith("diverged: ") for row in rows)
    assert not (workplace.results / "mnist_5k/best.json").exists()


# ---- being stopped


def start(
    workplace: Workplace, environment: dict[str, str], *options: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "src.tune", *workplace.options(*options)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_trial(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if f"trial {number:3d} " in line:
            return
    raise AssertionError("the search ended before that trial")


def test_killed_search_ends_like_an_uninterrupted_one(
    workplace: Workplace, tmp_path: Path, environment: dict[str, str]
) -> None:
    for number in (1, 3):
        process = start(workplace, environment)
        wait_for_trial(process, number)
        time.sleep(0.1)  # into the next trial
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert workplace.tune() == 0
    whole = Workplace(tmp_path / "whole")
    assert whole.tune() == 0

    def by_configuration(workplace: Workplace) -> set[tuple[str, ...]]:
        columns = [*PUBLISHED, "state", "bracket"]
        rows = [row for row in workplace.rows() if row["state"] != "FAIL"]
        assert len(rows) == 5
        return {tuple(row[column] for column in columns) for row in rows}

    assert by_configuration(workplace) == by_configuration(whole)
    assert optuna.trial.TrialState.RUNNING not in states(workplace)
    one, other = (
        json.loads((w.results / "mnist_5k/best.json").read_text()) for w in (workplace, whole)
    )
    assert one["val_accuracy"] == other["val_accuracy"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_within_seconds_and_leaves_no_trial_running(
    number: signal.Signals, code: int, workplace: Workplace, environment: dict[str, str]
) -> None:
    # Long trials, so that the signal comes in the middle of one.
    process = start(workplace, environment, "--max_epochs=81", "--limit=4000")
    assert process.stdout is not None
    while "images train" not in process.stdout.readline():
        pass
    time.sleep(2)
    process.send_signal(number)
    signalled = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - signalled < 15
    assert process.returncode == code, err
    assert "the same command goes on from here" in out
    assert "Traceback" not in err
    found = states(workplace)
    assert found
    assert set(found) == {optuna.trial.TrialState.FAIL}
    (row,) = workplace.rows()
    assert row["reason"].startswith("interrupted by ")


def test_timeout_stops_in_the_middle_and_the_same_command_goes_on(workplace: Workplace) -> None:
    started = time.monotonic()
    assert workplace.tune("--timeout=6s", "--limit=4000", "--patience=null", max_epochs=27) == 0
    assert time.monotonic() - started < 15
    (stopped,) = workplace.rows()
    assert (stopped["state"], stopped["reason"]) == ("FAIL", "time is up")
    same = ["--limit=4000", "--patience=null", "--timeout=6s"]
    assert workplace.tune(*same, max_epochs=27) == 0
    again = workplace.rows()[1]
    hyperparameters = ["conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "bracket"]
    assert [again[name] for name in hyperparameters] == [stopped[name] for name in hyperparameters]


def test_second_search_in_the_same_folder_is_refused(
    workplace: Workplace, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(workplace, environment)
    wait_for_trial(process, 0)
    assert workplace.tune() == 2
    assert "another search is running in" in capsys.readouterr().err
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(workplace.rows()) == 5


def test_damaged_journal_is_refused_and_left_alone(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune() == 0
    journal = workplace.results / "mnist_5k/study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], b"not json\n", *lines[3:]])
    journal.write_bytes(damaged)
    assert workplace.tune() == 2
    assert "study.journal is damaged" in capsys.readouterr().err
    assert journal.read_bytes() == damaged
    assert len(workplace.rows()) == 5


def test_line_that_a_crash_cut_short_costs_nothing(workplace: Workplace) -> None:
    assert workplace.tune() == 0
    before = workplace.rows()
    journal = workplace.results / "mnist_5k/study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker_i')
    assert workplace.tune("--iterations=2") == 0
    assert workplace.tune("--iterations=2") == 0
    assert workplace.rows()[:5] == before
    assert len(workplace.rows()) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.journal", b"", "is missing or empty, though all.csv shows trials"),
        ("study.journal", None, "is missing or empty, though all.csv shows trials"),
        ("study.journal", b'{"op_co', "is missing or empty, though all.csv shows trials"),
        ("64-best.ckpt", b"PK", "64-best.ckpt is refused: it is damaged"),
        ("64-best.ckpt", None, "there is no checkpoint"),
    ],
)
def test_lost_state_is_refused_and_the_results_stay(
    name: str,
    content: bytes | None,
    message: str,
    workplace: Workplace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert workplace.tune() == 0
    folder = workplace.results / "mnist_5k"
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert workplace.tune("--iterations=2") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to begin a new search" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_lock_that_a_killed_process_left_does_not_hold_up_the_next(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    # Optuna's journal lock is a link named so; with a relative path it leads nowhere.
    folder = workplace.results / "mnist_5k"
    folder.mkdir(parents=True)
    (folder / "study.journal.lock").symlink_to("results/mnist_5k/study.journal")
    done = subprocess.run(
        [sys.executable, "-m", "src.tune", *workplace.options("--results_dir=results")],
        cwd=workplace.folder,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0
    assert len(workplace.rows()) == 5


def test_two_searches_keep_their_curves_apart(workplace: Workplace, tmp_path: Path) -> None:
    assert workplace.tune() == 0
    curves = workplace.logs / "mnist_5k/batch_64"
    before = {path: path.read_bytes() for path in curves.rglob("*") if path.is_file()}
    assert workplace.tune(f"--results_dir={tmp_path}/other", "--seed=1") == 0
    after = {path: path.read_bytes() for path in curves.rglob("*") if path.is_file()}
    assert after == before
    assert len(list((workplace.logs / "mnist_5k/batch_64-2").iterdir())) == 5


def test_odd_names_are_printed_so_that_they_can_be_typed(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red] é"
    assert workplace.tune(f"--results_dir={folder}") == 0
    out = capsys.readouterr().out
    (following,) = re.findall(r"python -m src\.evaluate (.*)", out)
    assert shlex.split(following) == [f"{folder}/mnist_5k/best-model.ckpt"]


@pytest.mark.parametrize("option", ["results_dir", "log_dir"])
def test_folder_that_cannot_be_written_is_refused_before_training(
    option: str, workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert workplace.tune(f"--{option}={tmp_path}/file") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write to ")
    assert f"--{option}" in error


# ---- on the real sets


@pytest.fixture
def opened() -> Iterator[set[str]]:
    """Names of all files that this process opens during the test."""
    names: set[str] = set()
    active = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open":
            names.add(Path(str(arguments[0])).name)

    sys.addaudithook(note)  # can never be removed
    yield names
    active = False


def test_search_needs_no_test_files_and_opens_none(
    workplace: Workplace, tmp_path: Path, opened: set[str]
) -> None:
    # Runs everywhere: real digits, in files laid out as EMNIST's, and no test split at all.
    (sample,) = load_images("mnist_5k", "train", "nowhere")
    pixels, labels = sample.pixels.numpy(), sample.labels.numpy()
    write_idx(tmp_path / "EMNIST/raw", "emnist-digits-train", pixels, labels)
    assert workplace.tune("--dataset=emnist_digits", f"--data_dir={tmp_path}") == 0
    assert {name for name in opened if name.endswith("-ubyte")} == {
        "emnist-digits-train-images-idx3-ubyte",
        "emnist-digits-train-labels-idx1-ubyte",
    }


@needs_mnist
@needs_emnist
@pytest.mark.parametrize("dataset", ["mnist", "emnist_letters_digits"])
def test_search_on_real_images_does_not_open_the_test_split(
    dataset: str, workplace: Workplace, opened: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        f"--dataset={dataset}", f"--data_dir={REAL_DATA}", "--batch_sizes=[128]",
        "--max_epochs=2", "--reduction_factor=2", "--limit=2000",
        f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}",
    ]  # fmt: skip
    assert tune.main(options) == 0
    prefixes = {"mnist": ["train"]}.get(dataset, ["emnist-digits-train", "emnist-letters-train"])
    assert {name for name in opened if name.endswith("-ubyte")} == {
        f"{prefix}-{kind}-ubyte" for prefix in prefixes for kind in ("images-idx3", "labels-idx1")
    }

    checkpoint = workplace.results / dataset / "best-model.ckpt"
    capsys.readouterr()
    assert evaluate.main([str(checkpoint), "--json", f"--data_dir={REAL_DATA}"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["n_test"] == {"mnist": 10_000}.get(dataset, 30_400)
    assert len(metrics["per_class"]) == len(CLASS_NAMES[dataset])  # type: ignore[index]
    assert metrics["test_accuracy"] > {"mnist": 0.8}.get(dataset, 0.4)


@needs_mnist
def test_model_is_tested_on_another_set_of_the_same_classes_only(
    finished_search: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished_search.results / "mnist_5k/best-model.ckpt")
    data = f"--data_dir={REAL_DATA}"
    assert evaluate.main([checkpoint, "--dataset=mnist", "--json", data]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 10_000
    assert (finished_search.results / "mnist_5k/metrics-on-mnist.json").exists()
    assert evaluate.main([checkpoint, "--dataset=emnist_letters", data]) == 2
    assert "`dataset` (=emnist_letters) has other classes" in capsys.readouterr().err


@needs_mnist
@needs_emnist
def test_test_images_that_were_trained_on_are_refused_or_pointed_out(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"--data_dir={REAL_DATA}"
    assert workplace.tune("--dataset=mnist", data) == 0
    checkpoint = str(workplace.results / "mnist/best-model.ckpt")
    assert evaluate.main([checkpoint, "--dataset=mnist_5k", data]) == 2
    assert "among MNIST's training images" in capsys.readouterr().err
    assert evaluate.main([checkpoint, "--dataset=emnist_digits", "--json", data]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["caution"] in captured.err
    assert "come from the same forms" in captured.err


@needs_mnist
def test_model_is_tested_where_only_the_test_files_are(
    finished_search: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (REAL_DATA / "MNIST/raw").glob("t10k-*"):
        shutil.copy(file, raw)
    checkpoint = str(finished_search.results / "mnist_5k/best-model.ckpt")
    options = ["--dataset=mnist", "--json", f"--data_dir={tmp_path}", f"--output_dir={tmp_path}"]
    assert evaluate.main([checkpoint, *options]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 10_000
