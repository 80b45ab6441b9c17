import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from src import demo, evaluate, export, predict, train, tune
from tests.conftest import REPOSITORY, Workplace

Main = Callable[[Sequence[str] | None], int]
MAINS = {
    "tune": tune.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "export": export.main,
    "demo": demo.main,
}
TRAIN = [
    "--dataset=mnist_5k", "--conv1=8", "--conv2=8", "--dense_units=16", "--dropout_rate=0.1",
    "--learning_rate=0.003", "--batch_size=32", "--limit=200", "--max_epochs=2", "--precision=32",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=mnst"], "`dataset` (=mnst) must be one of mnist_5k, mnist, "),
        ([], "dataset"),
        (["--dataset=mnist", "--seed=x"], "`seed` (=x) must be a whole number"),
        (["--dataset=mnist", "--seed=-1"], "`seed` (=-1) must be >= 0"),
        (["--dataset=mnist", "--seed=4294967296"], "`seed` (=4294967296) must be <="),
        (["--dataset=mnist", "--limit=many"], "`limit` (=many) must be a whole number"),
        (["--dataset=mnist", "--limit=3"], "`limit` (=3) must be >= 10"),
        (["--dataset=mnist", "--batch_sizes=64"], "`batch_sizes` (=64) must be a list"),
        (["--dataset=mnist", "--batch_sizes=[]"], "`batch_sizes` (=[]) must name at least one"),
        (["--dataset=mnist", "--batch_sizes=[64,64]"], "names one twice"),
        (["--dataset=mnist", "--batch_sizes=[0]"], "`batch_sizes` (=0) must be >= 1"),
        (["--dataset=mnist", "--max_epochs=0"], "`max_epochs` (=0) must be >= 1"),
        (["--dataset=mnist", "--reduction_factor=1"], "`reduction_factor` (=1) must be >= 2"),
        (["--dataset=mnist", "--iterations=0"], "`iterations` (=0) must be >= 1"),
        (["--dataset=mnist", "--patience=0"], "`patience` (=0) must be >= 1"),
        (["--dataset=mnist", "--timeout=soon"], "`timeout` (=soon) must be a duration"),
        (["--dataset=mnist", "--timeout=0m"], "`timeout` (=0m) must be a duration"),
        (["--dataset=mnist", "--precision=16"], "`precision` (=16) must be one of auto, 32, bf16"),
        (["--dataset=mnist", "--sampler=grid"], "`sampler` (=grid) must be one of tpe, random"),
        (["--dataset=mnist", "--epochs=3"], "unrecognized arguments: --epochs=3"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*arguments, "--plan"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--dropout_rate=1", "`dropout_rate` (=1.0) must be >= 0 and < 1"),
        ("--learning_rate=0", "`learning_rate` (=0.0) must be above 0"),
        ("--learning_rate=.nan", "`learning_rate` (=nan) must be above 0"),
        ("--conv1=0", "`conv1` (=0) must be >= 1"),
        ("--learning_rate=1e30", "lower `learning_rate` (=1e+30)"),
    ],
)
def test_wrong_hyperparameters_are_refused(
    option: str, message: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}"]
    assert train.main([*TRAIN, *folders, option]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b"dataset: mnist\nepochs: 3\n", b"dataset: [", b"3", b"", b"dataset: {a: b}\n", b"\xff\xfe",
        b"dataset: mnist\nseed: null\n", b"dataset: mnist\nmax_epochs: null\n",
        b"dataset: mnist\nresults_dir: null\n", b"dataset: mnist\nprecision: 32\n",
        b"dataset: mnist\nbatch_sizes: null\n", b"dataset: mnist\nvalidation: null\n",
    ],
)  # fmt: skip
def test_wrong_configuration_file_is_one_line_and_exit_code_2(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_bytes(content)
    assert tune.main([f"--config={tmp_path}/wrong.yaml", "--plan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", MAINS)
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[command](["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    explanations = dict(re.findall(r"^  --(\w+)(.*?)(?=^  -|\Z)", out, re.MULTILINE | re.DOTALL))
    assert {"config", "print_config"} <= explanations.keys()
    for name, explanation in explanations.items():
        assert re.search(r"[A-Z][\w'-]+ \w+", explanation), f"--{name} is not explained"


def test_printed_configuration_is_a_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset=emnist_letters_digits", "--batch_sizes=[64,208]", "--timeout=10m"]
    with pytest.raises(SystemExit):
        tune.main([*options, "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["batch_sizes"] == [64, 208]
    (tmp_path / "again.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        tune.main([f"--config={tmp_path}/again.yaml", "--print_config"])
    assert capsys.readouterr().out == printed


def test_train_keeps_its_best_epoch(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}"]
    assert train.main([*TRAIN, *folders]) == 0
    (folder,) = (workplace.results / "mnist_5k/train").iterdir()
    assert {path.name for path in folder.iterdir()} == {"model.ckpt", "model.json", "model.png"}
    out = capsys.readouterr().out
    assert "epoch 2/2: loss " in out
    assert evaluate.main([str(folder / "model.ckpt"), "--json", *folders]) == 0


def test_training_again_keeps_the_earlier_model(workplace: Workplace) -> None:
    folders = [f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}"]
    assert train.main([*TRAIN, *folders]) == 0
    (first,) = (workplace.results / "mnist_5k/train").iterdir()
    before = (first / "model.ckpt").read_bytes()
    assert train.main([*TRAIN, *folders, "--max_epochs=1"]) == 0
    assert (first / "model.ckpt").read_bytes() == before
    names = {path.name for path in (workplace.results / "mnist_5k/train").iterdir()}
    assert names == {first.name, f"{first.name}-2"}
    assert {path.name for path in (workplace.logs / "mnist_5k/train").iterdir()} == names


def test_output_that_cannot_show_an_arrow_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src.tune", "--dataset=mnist", "--plan"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0
    assert b"43 trials for each batch size" in done.stdout


def test_a_command_prints_one_line_when_its_checkpoint_is_missing() -> None:
    # In a process of its own, as a user has it.
    done = subprocess.run(
        [sys.executable, "-m", "src.evaluate", "results/mnist/nope.ckpt"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: there is no checkpoint results/mnist/nope.ckpt; `tune` and `train` make some\n"
    )
