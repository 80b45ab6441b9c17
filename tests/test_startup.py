"""What commands import before they answer, seen from outside: `python -X importtime`."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.conftest import ENOUGH, REPOSITORY, Workplace

COMMANDS = ["tune", "finalists", "train", "evaluate", "predict", "report", "export", "demo"]
TRAINING = {"lightning", "torchmetrics", "optuna", "sqlalchemy"}
HEAVY = {*TRAINING, "torch", "torchvision", "numba", "sklearn", "scipy", "matplotlib", "pandas"}
NEEDED = {
    "tune": ["--dataset=mnist"],
    "finalists": ["--dataset=mnist"],
    "train": [
        *("--dataset=mnist", "--conv1=8", "--conv2=8", "--dense_units=8", "--dropout_rate=0.1"),
        *("--learning_rate=0.001", "--batch_size=32"),
    ],
    "evaluate": ["model.ckpt"],
    "predict": ["photo.png"],
    "report": ["--dataset=mnist"],
    "export": ["--model=model.ckpt"],
    "demo": [],
}


def imported(errors: str) -> set[str]:
    """Return the packages that a process imported, of what it wrote to standard error."""
    modules = re.findall(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", errors, re.MULTILINE)
    return {module.partition(".")[0] for module in modules}


def run(command: str, *arguments: str, code: int = 0) -> set[str]:
    """Run a command in a process of its own; return the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"src.{command}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr[-2000:]
    packages = imported(done.stderr)
    assert "src" in packages
    return packages


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "--print_config", "--nonsense"])
def test_an_answer_about_options_imports_nothing_heavy(command: str, option: str) -> None:
    code = 2 if option == "--nonsense" else 0
    assert not HEAVY & run(command, *NEEDED[command], option, code=code)


def test_the_plan_is_printed_before_anything_heavy_is_imported() -> None:
    assert not HEAVY & run("tune", "--dataset=mnist", "--plan")


def test_reading_a_picture_imports_no_training_and_no_data_sets(
    digit_model: Path, tmp_path: Path
) -> None:
    picture = Image.new("L", (100, 100), 255)
    ImageDraw.Draw(picture).line([(50, 20), (50, 80)], fill=0, width=8)
    picture.save(tmp_path / "one.png")
    packages = run("predict", str(tmp_path / "one.png"), f"--model={digit_model}")
    assert "torch" in packages
    assert not {*TRAINING, "torchvision", "numba", "sklearn", "matplotlib"} & packages


def test_testing_a_model_imports_no_training(digit_model: Path, tmp_path: Path) -> None:
    folders = [f"--results_dir={tmp_path}", f"--output_dir={tmp_path}"]
    packages = run("evaluate", str(digit_model), "--device=cpu", *folders)
    assert "torch" in packages
    assert not {*TRAINING, "torchvision", "numba", "sklearn"} & packages


def test_exporting_a_model_imports_no_training(digit_model: Path, tmp_path: Path) -> None:
    output = f"--output={tmp_path}/model.pt2"
    packages = run("export", f"--model={digit_model}", "--format=torch", output)
    assert "torch" in packages
    assert not TRAINING & packages


def test_reporting_a_search_imports_no_torch(finished_search: Workplace) -> None:
    packages = run("report", "--dataset=mnist_5k", f"--results_dir={finished_search.results}")
    assert "matplotlib" in packages
    assert not {"torch", "lightning", "torchvision"} & packages


def test_the_page_to_draw_on_imports_no_training(digit_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    options = [str(digit_model), f"--results_dir={tmp_path}", "--no_browser", "--port=0"]
    with (tmp_path / "errors.txt").open("w") as errors:
        demo = subprocess.Popen(
            [sys.executable, "-u", "-X", "importtime", "-m", "src.demo", *options],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert demo.stdout is not None
        (url,) = re.findall(r"Draw at (\S+)", demo.stdout.readline())
        with urllib.request.urlopen(url, timeout=ENOUGH) as answer:
            assert answer.status == 200
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=ENOUGH)
    assert demo.returncode == 130
    packages = imported((tmp_path / "errors.txt").read_text())
    assert {"gradio", "torch"} <= packages
    assert not {*TRAINING, "torchvision", "numba", "sklearn"} & packages
