import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import demo, evaluate, export, finalists, predict, report, train, tune
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
MODULES = [c for c in COMMANDS for c in re.findall(r"python -m src\.\w+.*", c)]
COMMAND = {
    module.__name__.removeprefix("src."): module
    for module in (demo, evaluate, export, finalists, predict, report, train, tune)
}


def test_readme_shows_every_command() -> None:
    shown = {re.match(r"python -m src\.(\w+)", command)[1] for command in MODULES}  # type: ignore[index]
    assert shown == COMMAND.keys()


@pytest.mark.parametrize("command", MODULES)
def test_command_of_the_readme_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    module, *arguments = shlex.split(command)[2:]
    name = module.removeprefix("src.")
    COMMAND[name].COMMAND.parser().parse_args(arguments)


def test_ci_runs_the_readmes_test_command() -> None:
    (tests,) = [command for command in COMMANDS if command.endswith("pytest")]
    # "|| exit 1", because bash's -e does not look at what fails before an "&&".
    assert f"{tests} || exit 1" in (REPOSITORY / ".ci/run").read_text().splitlines()


def test_what_the_readme_names_exists() -> None:
    shown = re.sub(r"tensorboard --logdir|ray start --.*", "", README)
    usage = " ".join(module.COMMAND.parser().format_help() for module in COMMAND.values())
    for option in re.findall(r"--[a-z]\w+", shown):
        assert re.search(rf"{option}\b", usage), option
    for path in re.findall(r"\b(?:src|configs|docs)/[\w./-]+\w", README):
        assert (REPOSITORY / path).exists(), path
    assert "@@" not in README


def test_contributing_maps_every_file() -> None:
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text()
    (tree,) = re.findall(r"^```text\nsrc/\n(.*?)^tests/", contributing, re.MULTILINE | re.DOTALL)
    folder, mapped = "", []
    for indent, name in re.findall(r"^( +)(\S+)", tree, re.MULTILINE):
        if len(indent) == 4:
            mapped.append(Path(folder, name))
        elif name.endswith("/"):
            folder = name
        else:
            mapped.append(Path(name))
    files = (path.relative_to(REPOSITORY / "src") for path in (REPOSITORY / "src").rglob("*.py"))
    # Of a package in a package, the folder.
    there = {Path(*path.parts[:2]) for path in files if path.name != "__init__.py"}
    assert sorted(mapped) == sorted(there)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the quickstart needs of this repository, somewhere else."""
    for folder in ("src", "configs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    return tmp_path


def run_python(command: str, folder: Path) -> str:
    """Run what follows `python` on a command line; return what it prints."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("fewer", "least"),
    [
        pytest.param("", 0.94, marks=pytest.mark.long),
        (" --limit 500 --max_epochs 3", 0.6),  # the same on fewer images, and so much worse
    ],
)
def test_quickstart_takes_under_three_minutes_and_its_model_is_tested(
    fewer: str, least: float, checkout: Path
) -> None:
    (quickstart,) = [command for command in COMMANDS if "quickstart" in command]
    started = time.monotonic()
    searched = run_python(quickstart.rpartition("&& python ")[2] + fewer, checkout)
    assert time.monotonic() - started < 180
    (following,) = re.findall(r"python (-m src\.evaluate .*)", searched)
    accuracy = re.search(r"test accuracy (0\.\d+)", run_python(following, checkout))
    assert accuracy is not None
    assert float(accuracy[1]) > least


def test_faults_name_tests_that_there_are() -> None:
    file = ""
    named = 0
    for name in re.findall(r"`(test_\w+(?:\.py)?)`", (REPOSITORY / "docs/faults.md").read_text()):
        if name.endswith(".py"):
            file = (REPOSITORY / "tests" / name).read_text()
        else:
            assert f"def {name}(" in file, name
            named += 1
    assert named > 15
