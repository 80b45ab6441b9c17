import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse.typing import SecretStr

from src import demo, evaluate, export, finalists, predict, report, train, tune
from src.cli import Command
from src.core.command import recorded_command
from tests.conftest import REPOSITORY, Workplace

COMMANDS: dict[str, Command[Any]] = {
    "tune": tune.COMMAND,
    "finalists": finalists.COMMAND,
    "train": train.COMMAND,
    "evaluate": evaluate.COMMAND,
    "predict": predict.COMMAND,
    "report": report.COMMAND,
    "export": export.COMMAND,
    "demo": demo.COMMAND,
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
        (
            ["--dataset=mnist", "--cost_exponent=1.5"],
            "`cost_exponent` (=1.5) must be >= 0 and <= 1",
        ),
        (
            ["--dataset=mnist", "--cost_exponent=0.5", "--sampler=tpe"],
            "0 but with `sampler` gp (=tpe)",
        ),
        (["--dataset=mnist", "--timeout=soon"], "`timeout` (=soon) must be a duration"),
        (["--dataset=mnist", "--timeout=0m"], "`timeout` (=0m) must be a duration"),
        (
            ["--dataset=mnist", "--timeout=9999999999h"],
            "must be a duration above 0 and up to a year",
        ),
        (["--dataset=mnist", "--precision=16"], "`precision` (=16) must be one of auto, 32, bf16"),
        (["--dataset=mnist", "--sampler=grid"], "`sampler` (=grid) must be one of gp, tpe, random"),
        (["--dataset=mnist", "--epochs=3"], "unrecognized arguments: --epochs "),
        (["--config=nowhere.yaml"], "`config` (=nowhere.yaml) must be a file of options"),
        (["--config="], "`config` (=) must be a file of options"),
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


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_can_be_abbreviated(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = set(re.findall(r"--\w+", COMMANDS[command].parser().format_help()))
    for short in {option[:-1] for option in options} - options:
        assert COMMANDS[command].main([f"{short}=postgresql://me:hunter2@h/d"]) == 2
        assert COMMANDS[command].main([short, "postgresql://me:hunter2@h/d"]) == 2
        error = capsys.readouterr().err
        assert error.count("error: ") == error.count("\n") == 2
        assert "hunter2" not in error


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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every kind that there is."""

    files: tuple[Path, ...]
    """Files to read."""
    folder: Path = Path("here")
    """Folder to write to."""
    other: Path | None = None
    """Another folder."""
    storage: SecretStr | None = None
    """A secret."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of something."""
    sizes: tuple[int, ...] = (64,)
    """Sizes of something."""
    schedule: Literal["constant", "cosine"] | tuple[Literal["constant", "cosine"], ...] = "constant"
    """One or several."""
    smoothing: float | tuple[float, ...] = 0.0
    """One or several."""
    averaging: bool | tuple[bool, ...] = False
    """One or several."""
    workers: int | Literal["auto"] = "auto"
    """How many."""
    patience: int | None = 3
    """How long."""
    timeout: str | float | None = None
    """How long at most."""
    json: bool = False
    """Print something else."""


def run(*arguments: str) -> Options:
    seen: list[Options] = []

    def take(options: Options) -> int:
        seen.append(options)
        return 0

    command = Command("src.x", "Do it.", Options, take, flags=("json",), positional="files")
    assert command.main(arguments) == 0
    return seen[0]


_NAME = st.sampled_from(["--", "~", "null", "./null", "---", "#"]) | st.text(
    "abcXYZ019 -_.~'\"$\\[]{}:#*&!=é", min_size=1, max_size=12
).filter(lambda name: not name.startswith("~"))

_FLOAT = st.floats(0, 1e30, allow_nan=False)


def one_or_several(one: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return one | st.lists(one, min_size=1, max_size=3).map(tuple)


@settings(deadline=None, max_examples=50)
@given(
    files=st.lists(_NAME.map(lambda name: f"a/{name}"), min_size=1, max_size=2),
    flags=st.sampled_from([[], ["--json"]]),
    values=st.fixed_dictionaries(
        {},
        optional={
            "folder": _NAME,
            "other": _NAME,
            "precision": st.sampled_from(["auto", "32", "bf16"]),
            "sizes": st.lists(st.integers(1, 999), max_size=3),
            "schedule": one_or_several(st.sampled_from(["constant", "cosine"])),
            "smoothing": one_or_several(_FLOAT),
            "averaging": one_or_several(st.booleans()),
            "workers": st.sampled_from(["auto", 3]),
            "patience": st.sampled_from([None, 1, 5]),
            "timeout": st.sampled_from([None, 90, "1h"]),
        },
    ),
)
def test_recorded_command_gives_the_same_options_again(
    files: list[str], flags: list[str], values: dict[str, object]
) -> None:
    given_options = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    ]
    options = run(*given_options, *flags, *files)
    words = shlex.split(recorded_command())
    assert words[:3] == ["python", "-m", "src.x"]
    assert run(*words[3:]) == options


def test_recorded_command_names_what_differs_from_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("sizes: [1, 2]\nworkers: auto\npatience: null\n")
    run(f"--config={tmp_path}/some.yaml", "--folder=there", "--timeout=1h", "--json", "a b")
    assert recorded_command() == (
        "python -m src.x --folder there --sizes '[1, 2]' --patience null --timeout 1h --json 'a b'"
    )


@pytest.mark.parametrize("way", ["--storage=hunter2", "--storage hunter2", "a file"])
def test_recorded_command_hides_secrets(way: str, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("storage: hunter2\n")
    arguments = [f"--config={tmp_path}/some.yaml"] if way == "a file" else way.split()
    storage = run(*arguments, "x").storage
    assert storage is not None
    assert storage.get_secret_value() == "hunter2"
    assert recorded_command() == "python -m src.x --storage '***' x"


@pytest.mark.parametrize("way", ["option", "file"])
def test_paths_are_absolute_and_home_is_expanded(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("folder: ~/runs\nother: up/../there\n")
    arguments = ["--folder=~/runs", "--other=up/../there"]
    options = run(*(arguments if way == "option" else ["--config=some.yaml"]), "~/a.png", "b.png")
    assert options.folder == Path("/home/me/runs")
    assert options.other == tmp_path / "up/../there"
    assert options.files == (Path("/home/me/a.png"), tmp_path / "b.png")
    assert run("x").folder == tmp_path / "here"


@pytest.mark.parametrize("way", ["{}={}", "{} {}"])
@pytest.mark.parametrize("name", ["#", "&a", "*a", "~", "Null", "true", "5", "[a]", "a=b"])
def test_a_path_on_the_command_line_is_never_read_as_yaml(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "~"))
    monkeypatch.chdir(tmp_path)
    words = [way.format(option, name).split() for option in ("--folder", "--other")]
    options = run(*itertools.chain(*words), "--", "--other=a")
    assert options.folder == options.other == tmp_path / name
    assert options.files == (tmp_path / "--other=a",)


@pytest.mark.parametrize("line", ["other: null", "other: ~", "--other=null", "--other null"])
def test_null_is_no_path_and_in_a_file_yaml_calls_it_tilde_too(line: str, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text(line)
    in_file = not line.startswith("--")
    words = [f"--config={tmp_path}/some.yaml"] if in_file else line.split()
    assert run("--other=a", *words, "x").other is None


def test_two_dashes_as_a_path_are_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--folder=--", "--other=--", "x").folder == tmp_path / "--"
    assert recorded_command() == "python -m src.x --folder ./-- --other ./-- x"


def test_a_name_that_is_no_text_can_be_recorded(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.ckpt")
    assert run(name).files[0].name == name
    assert recorded_command().encode().endswith(rb"\udcff.ckpt'")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("results_dir: 5", "`results_dir` must be a path, as text"),
        ("results_dir: [a]", "`results_dir` must be a path, as text"),
        ("results_dir: null", "`results_dir` (=null) must have a value"),
        ("storage: [hunter2]", "`storage` must be text"),
        ("storage: 5", "`storage` must be text"),
    ],
)
def test_what_is_no_text_in_a_file_is_no_path_and_no_secret(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.yaml").write_text(f"dataset: mnist\n{line}\n")
    assert tune.main([f"--config={tmp_path}/odd.yaml", "--plan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/odd.yaml: {message}")
    assert error.count("\n") == 1
    assert "hunter2" not in error


def test_path_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("~nobody-of-this-name/x", "a\0b"):
        assert report.main(["--dataset=mnist", f"--results_dir={folder}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: `results_dir` (=")
        assert error.count("\n") == 1


def test_messages_show_paths_without_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here", f"{tmp_path}/here"):
        assert report.main(["--dataset=mnist", f"--results_dir={folder}"]) == 2
        error = capsys.readouterr().err
        assert "here/mnist" in error
        assert str(tmp_path) not in error


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--timeout={}"], "postgresql://me:***@host/d"),
        (["{}"], "unrecognized arguments: postgresql://me:***@host/d"),
        (["--config={}"], "postgresql://me:***@host/d"),
        (["--plan={}"], "postgresql://me:***@host/d"),
    ],
)
@pytest.mark.parametrize("password", ["hunter2", "hunt/er2", "%40hunter2"])
def test_password_given_in_the_wrong_place_is_not_shown(
    options: list[str], shown: str, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://me:{password}@host/d"
    assert tune.main(["--dataset=mnist", *(option.format(url) for option in options)]) == 2
    error = capsys.readouterr().err
    assert shown in error
    assert password not in error


def test_password_with_a_bare_at_sign_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--dataset=mnist", "--storage=postgresql://me:a@b/c@host/d"]) == 2
    assert capsys.readouterr().err == (
        "error: `storage` must have %40 for each @ in its password\n"
    )


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:a/b@host/d", "postgresql://me:a?b@host/d", "postgresql://host/d?password=a"],
)
def test_ray_is_given_no_password(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--dataset=mnist", "--launcher=ray", f"--storage={url}"]) == 2
    assert "must name no password with `--launcher ray`" in capsys.readouterr().err


def test_url_without_a_password_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://me@host:5432/d"
    assert tune.main(["--dataset=mnist", "--launcher=ray", f"--storage={url}", "--plan"]) == 0
