import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import predict
from tests.conftest import ENOUGH, REPOSITORY, Workplace, as_letters
from tests.test_photo import bomb, write


@pytest.fixture
def model(finished_search: Workplace) -> str:
    return f"--model={finished_search.results}/mnist_5k/best-model.ckpt"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A picture of a 1."""
    write([(0.5, 0), (0.5, 1)]).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_best_classes_are_printed(
    model: str, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([model, str(one)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{one}: 1 ")
    assert printed.out.count("%") == 3
    assert printed.err == ""


def test_json_is_one_object_a_picture_and_nothing_else(
    model: str, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inverted = one.with_name("inverted.png")
    Image.eval(Image.open(one), lambda value: 255 - value).save(inverted)
    assert predict.main([model, "--json", "--top=20", str(one), str(inverted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["file"] for record in records] == [str(one), str(inverted)]
    for record in records:
        assert record.keys() == {"file", "prediction", "probability", "top"}
        assert [record["prediction"], record["probability"]] == record["top"][0]
        assert record["prediction"] == "1"
        names, probabilities = zip(*record["top"], strict=True)
        assert sorted(names) == list("0123456789")
        assert list(probabilities) == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_other_pictures_are_read_when_some_cannot_be(
    model: str, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [tmp_path / name for name in ("missing.png", "text.png", "empty.png", "bomb.png")]
    bad[1].write_text("no picture")
    Image.new("L", (40, 30), 255).save(bad[2])
    bad[3].write_bytes(bomb())
    bad.append(tmp_path)
    assert predict.main([model, "--json", *map(str, bad), str(one)]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["prediction"] == "1"
    errors = printed.err.splitlines()
    assert len(errors) == len(bad)
    for line, path in zip(errors, bad, strict=True):
        assert line.startswith(f"error: {path}: ")


@pytest.mark.parametrize(
    "name", ["ein Bild.png", "é 文字.png", "[a].png", "1e3", "a\nb.png", "null"]
)
def test_any_file_name_will_do(
    name: str, model: str, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one.rename(one.with_name(name))
    assert predict.main([model, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["file"] == str(path)
    assert predict.main([model, str(path)]) == 0
    assert capsys.readouterr().out.count("\n") == out.count("\n") == 1


def test_show_writes_what_the_model_saw(model: str, one: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/one.png"
    other.parent.mkdir()
    write([(0, 0.5), (1, 0.5)]).save(other)
    before = one.read_bytes()
    for _ in range(2):  # a second run writes the same files
        assert predict.main([model, f"--show={tmp_path}", str(one), str(other)]) == 0
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "one.png", "one-seen.png", "one-seen-2.png"
    }  # fmt: skip
    assert one.read_bytes() == before
    upright, lying = (np.asarray(Image.open(tmp_path / f"one-seen{n}.png")) for n in ("", "-2"))
    assert upright.shape == (280, 280)
    assert np.array_equal(upright[::10, ::10].repeat(10, 0).repeat(10, 1), upright)
    assert np.abs(upright.astype(int) - lying.T).mean() < 2


def test_folder_that_cannot_be_written_to_is_one_line(
    model: str, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("/proc/shown", str(one)):
        assert predict.main([model, f"--show={folder}", str(one)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"error: cannot write to {folder} (")
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nowhere.ckpt", "one.png"], "there is no checkpoint nowhere.ckpt"),
        (["--top=0", "one.png"], "`top` (=0) must be >= 1"),
        ([], "pictures"),
    ],
)
def test_wrong_option_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_usual_model_is_found_from_any_folder(
    one: Path,
    digit_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(folder: Path, *options: str) -> str:
        monkeypatch.chdir(folder)
        assert predict.main(["--json", *options, str(one)]) == 0
        return capsys.readouterr().out

    shipped = "results/emnist_letters_digits/best-model.ckpt"
    came_with_project = read(REPOSITORY, f"--model={shipped}")
    assert read(tmp_path) == read(REPOSITORY) == came_with_project
    own = tmp_path / shipped
    own.parent.mkdir(parents=True)
    as_letters(digit_model, own)
    assert json.loads(read(tmp_path))["prediction"] == "B"
    own.parent.joinpath("shipped").mkdir()
    own.rename(own.parent / "shipped/best-model.ckpt")  # as a search does that has no model yet
    assert json.loads(read(tmp_path))["prediction"] == "B"


def test_output_may_be_closed_early(model: str, one: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "src.predict", model, str(one)],
        cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=ENOUGH)
    assert errors == b""
    assert process.returncode == 141  # as a shell says of a program that SIGPIPE ended
