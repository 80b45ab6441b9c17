"""Every look at a test split leaves a line."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src import evaluate
from src.training.checkpoint import SavedModel, load_model
from tests.conftest import ENOUGH, Workplace


@pytest.fixture
def models(finished_search: Workplace, tmp_path: Path) -> list[Path]:
    """Two different models in a folder of results."""
    folder = tmp_path / "results/mnist_5k"
    folder.mkdir(parents=True)
    names = ("32-best.ckpt", "64-best.ckpt")
    for name in names:
        shutil.copy(finished_search.results / "mnist_5k" / name, folder)
    return [folder / name for name in names]


def look(model: Path, *options: str) -> int:
    return evaluate.main([str(model), f"--results_dir={model.parents[1]}", *options])


def lines(model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model.parent / "test-log.jsonl").read_text().splitlines()]


def test_every_look_is_counted_and_models_are_told_apart(
    models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for model in (models[0], models[0], models[1]):
        assert look(model) == 0
        said.append(capsys.readouterr().out)
    assert "opened once, for 1 model " in said[0]
    assert "opened twice, for 1 model " in said[1]
    assert "opened 3 times, for 2 models " in said[2]
    first, _, third = lines(models[0])
    assert first["checkpoint_sha256"] == hashlib.sha256(models[0].read_bytes()).hexdigest()
    assert third["checkpoint_sha256"] == hashlib.sha256(models[1].read_bytes()).hexdigest()
    metrics = json.loads((models[1].parent / "metrics.json").read_text())
    assert third["test_accuracy"] == metrics["test_accuracy"]
    assert (third["dataset"], third["n_test"]) == ("mnist_5k", 1000)
    assert metrics["test_split_opened"] == 3


def test_nobody_looks_where_it_cannot_be_recorded(
    models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log = models[0].parent / "test-log.jsonl"
    log.write_text("this is no record\n")
    assert look(models[0]) == 2
    captured = capsys.readouterr()
    assert "test-log.jsonl is damaged" in captured.err
    assert captured.out == ""
    assert not (models[0].parent / "metrics.json").exists()

    assert log.read_text() == "this is no record\n"
    log.unlink()
    log.mkdir()
    assert look(models[0]) == 2
    assert "test-log.jsonl" in capsys.readouterr().err
    assert not (models[0].parent / "metrics.json").exists()


def test_line_without_an_end_spoils_no_other(models: list[Path]) -> None:
    assert look(models[0]) == 0
    log = models[0].parent / "test-log.jsonl"
    log.write_text(log.read_text().rstrip("\n"))
    assert look(models[1]) == 0
    assert len(lines(models[0])) == 2


def test_full_disk_leaves_no_half_line(models: list[Path], environment: dict[str, str]) -> None:
    assert look(models[0]) == 0
    log = models[0].parent / "test-log.jsonl"
    before = log.read_bytes()
    # What a full disk does: the file grows by a part of the line only.
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 20},) * 2)"
    program = (
        f"import signal, sys; from src.results import test_log; real = test_log.record_test\n"
        f"def record(*args):\n    {limit}\n    return real(*args)\n"
        "test_log.record_test = record; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from src import evaluate\n"
        "sys.exit(evaluate.main(sys.argv[1:]))"
    )
    options = [str(models[1]), f"--results_dir={models[1].parents[1]}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *options], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "test-log.jsonl" in done.stderr
    assert done.stdout == ""
    assert log.read_bytes() == before


def test_look_is_recorded_where_the_model_is(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert evaluate.main([str(models[0])]) == 0
    assert len(lines(models[0])) == 1
    monkeypatch.chdir(models[0].parent)
    assert evaluate.main([models[0].name]) == 0
    assert len(lines(models[0])) == 2
    monkeypatch.chdir(elsewhere)
    shutil.copy(models[0], "copy.ckpt")
    assert evaluate.main(["copy.ckpt"]) == 0
    assert len(lines(models[0])) == 2
    (line,) = Path("results/mnist_5k/test-log.jsonl").read_text().splitlines()
    assert json.loads(line)["checkpoint"] == "copy.ckpt"


def test_model_that_is_replaced_meanwhile_is_not_taken_for_the_tested_one(
    models: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_and_replace(path: Path) -> SavedModel:
        loaded = load_model(path)
        models[1].replace(models[0])
        return loaded

    monkeypatch.setattr("src.training.checkpoint.load_model", load_and_replace)
    assert look(models[0]) == 2
    assert "changed while it was read" in capsys.readouterr().err
    assert not (models[0].parent / "test-log.jsonl").exists()


def test_looks_at_once_are_all_recorded(models: list[Path], environment: dict[str, str]) -> None:
    folder = models[0].parent
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "src.evaluate", str(model), "--json"),
                *(f"--results_dir={folder.parent}", f"--output_dir={folder / str(i)}"),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for i, model in enumerate(models)
    ]
    assert [process.wait(timeout=ENOUGH) for process in processes] == [0] * 2
    assert len(lines(models[0])) == 2
