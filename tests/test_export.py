import contextlib
import dataclasses
import io
import json
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src import export
from src.data.files import load_images
from src.training.checkpoint import load_model
from src.training.network import to_inputs
from tests.conftest import as_letters

try:
    import onnx
    import onnx_ir
    import onnxruntime
    import onnxscript  # noqa: F401  # what torch.onnx.export needs
except ImportError:
    has_onnx = False
else:
    has_onnx = True

needs_onnx = pytest.mark.skipif(not has_onnx, reason="ONNX is not installed (an extra)")

Read = Callable[[Tensor], Tensor]


def open_onnx(path: Path) -> tuple[Read, dict[str, str]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 28, 28])
    return (
        lambda pixels: torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0]),
        session.get_modelmeta().custom_metadata_map,
    )


def open_torch(path: Path) -> tuple[Read, dict[str, str]]:
    files = {"description.json": ""}
    program = torch.export.load(path, extra_files=files)
    return program.module(), json.loads(files["description.json"])


FORMATS = {
    "onnx": pytest.param(("onnx", "model.onnx", open_onnx), id="onnx", marks=needs_onnx),
    "torch": pytest.param(("torch", "model.pt2", open_torch), id="torch"),
}


@dataclasses.dataclass(frozen=True)
class Written:
    """A model as a command wrote it."""

    checkpoint: Path
    path: Path
    said: str
    read: Read
    description: dict[str, str]


@pytest.fixture(scope="module", params=FORMATS.values())
def written(
    request: pytest.FixtureRequest, digit_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    kind, name, reopen = request.param
    folder = tmp_path_factory.mktemp(kind)
    checkpoint = folder / "best-model.ckpt"
    checkpoint.write_bytes(digit_model.read_bytes())
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert export.main([f"--model={checkpoint}", f"--format={kind}", "--data_dir=nowhere"]) == 0
    assert {path.name for path in folder.iterdir()} == {checkpoint.name, name}
    return Written(checkpoint, folder / name, said.getvalue(), *reopen(folder / name))


@pytest.fixture
def checkpoint(digit_model: Path, tmp_path: Path) -> Path:
    """A model of digits, alone in a folder."""
    copy = tmp_path / "best-model.ckpt"
    copy.write_bytes(digit_model.read_bytes())
    return copy


def test_a_written_model_reads_as_its_checkpoint_does(written: Written) -> None:
    assert "Checked on 1,000 training images of mnist_5k" in written.said
    assert "1,000 of 1,000 predictions agree" in written.said
    (images,) = load_images("mnist_5k", "test", "nowhere")
    original = load_model(written.checkpoint).network()
    for size in (1, 7, 300):
        batch = images.pixels[:size]
        with torch.inference_mode():
            torch.testing.assert_close(
                written.read(batch), original(to_inputs(batch)), rtol=1e-4, atol=1e-4
            )


def test_a_written_model_says_what_its_logits_stand_for(written: Written) -> None:
    (images,) = load_images("mnist_5k", "test", "nowhere")
    classes = json.loads(written.description["classes"])
    read = [classes[i] for i in written.read(images.pixels).argmax(dim=1)]
    shown = [str(label) for label in images.labels.tolist()]
    assert sum(a == b for a, b in zip(read, shown, strict=True)) > 900
    assert written.description["dataset"] == "mnist_5k"


def test_a_written_model_names_no_folder_and_holds_no_image(written: Written) -> None:
    content = written.path.read_bytes()
    assert str(Path(export.__file__).parent).encode() not in content
    weights = sum(4 * value.numel() for value in load_model(written.checkpoint).weights.values())
    assert len(content) - weights < 50_000


@pytest.mark.parametrize("written", [FORMATS["onnx"]], indirect=True)
def test_onnx_has_the_versions_of_the_runtimes_of_2023(written: Written) -> None:
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    (opset,) = model.opset_import
    assert f"ONNX, opset {opset.version}, IR {model.ir_version}, " in written.said
    # "ONNX version support" of ONNX Runtime 1.14, of February 2023: ONNX 1.13.
    assert (opset.version, model.ir_version) == (18, 8)
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.value_info, *graph.output):
        assert not part.metadata_props  # which IR 10 brought


@pytest.mark.long
@pytest.mark.parametrize("version", ["1.15.1", "1.16.3"])
@pytest.mark.parametrize("written", [FORMATS["onnx"]], indirect=True)
def test_runtimes_of_2023_read_an_exported_model(
    version: str, written: Written, tmp_path: Path
) -> None:
    python = str(tmp_path / "environment/bin/python")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
    packages = [f"onnxruntime=={version}", "numpy<2"]
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *packages]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install onnxruntime {version}: {done.stderr.strip()[-300:]}")
    (images,) = load_images("mnist_5k", "test", "nowhere")
    np.save(tmp_path / "images.npy", images.pixels[:300].numpy())
    program = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save("logits.npy", session.run(None, {"images": numpy.load("images.npy")})[0])
print(onnxruntime.__version__)
"""
    command = [python, "-c", program, str(written.path)]
    read = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (read.returncode, read.stdout) == (0, f"{version}\n"), read.stderr
    with torch.inference_mode():
        original = load_model(written.checkpoint).network()(to_inputs(images.pixels[:300]))
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    torch.testing.assert_close(logits, original, rtol=1e-4, atol=1e-4)


def test_a_model_of_letters_is_checked_on_digits_where_no_letters_are(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_letters(checkpoint, tmp_path / "letters.ckpt")
    arguments = [f"--model={tmp_path}/letters.ckpt", "--format=torch", "--data_dir=nowhere"]
    assert export.main([*arguments, f"--output={tmp_path}/new/letters.pt2"]) == 0
    assert "images of mnist_5k" in capsys.readouterr().out
    read, description = open_torch(tmp_path / "new/letters.pt2")
    assert json.loads(description["classes"]) == list(string.ascii_uppercase)
    assert read(torch.zeros(3, 28, 28, dtype=torch.uint8)).shape == (3, 26)


@needs_onnx
def test_a_file_that_reads_otherwise_is_not_written(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = torch.onnx.export

    def spoil(*arguments: Any, **options: Any) -> Any:
        exported: Any = real(*arguments, **options)
        bias = exported.model.graph.initializers["model.logits.bias"]
        changed = bias.const_value.numpy().copy()
        changed[3] += 0.01
        bias.const_value = onnx_ir.tensor(changed)
        return exported

    monkeypatch.setattr(torch.onnx, "export", spoil)
    earlier = checkpoint.parent / "model.onnx"
    earlier.write_text("an earlier one")
    assert export.main([f"--model={checkpoint}", "--data_dir=nowhere"]) == 2
    error = capsys.readouterr().err
    assert "model.onnx is not written" in error
    assert "logits differ by 1.0e-02" in error
    assert error.count("\n") == 1
    assert earlier.read_text() == "an earlier one"
    assert set(checkpoint.parent.iterdir()) == {checkpoint, earlier}


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_packages_onnx_is_one_line_and_exit_code_2(
    missing: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    assert export.main([f"--model={checkpoint}"]) == 2
    assert capsys.readouterr().err == (
        f"error: `format` (=onnx) needs {missing}, which is not installed; "
        "pip install -e '.[export]'\n"
    )


def test_a_damaged_checkpoint_is_one_line_and_nothing_is_written(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert export.main([f"--model={checkpoint}", "--format=torch"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {checkpoint} is refused: it is damaged")
    assert error.count("\n") == 1
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_neither_the_model_nor_a_folder_is_written_over(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.read_bytes()
    for output, what in ((checkpoint, "is the model itself"), (checkpoint.parent, "is a folder")):
        assert export.main([f"--model={checkpoint}", "--format=torch", f"--output={output}"]) == 2
        assert f"`output` (={output}) {what}; " in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
