"""Write a saved model for other programs, as ONNX or as a program of torch.export.

    python -m src.export --model results/mnist/best-model.ckpt --format onnx

Writes model.onnx (or model.pt2) beside the checkpoint, checked on real images. Half a minute on a
laptop.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from src import cli
from src.core.console import open_console, say
from src.core.errors import UserError
from src.core.files import make_writable, replacing
from src.data.catalog import Dataset
from src.data.files import Images, has_images, load_images
from src.training.checkpoint import SavedModel, load_model
from src.training.network import TwoConvNet, to_inputs


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A saved model, written for other programs."""

    model: Path
    """The checkpoint of the model to write."""
    format: Literal["onnx", "torch"] = "onnx"
    """What to write: ONNX (an extra: export), or a program of torch.export."""
    output: Path | None = None
    """File to write; null: model.onnx or model.pt2 beside the model."""
    data_dir: Path = Path("data")
    """Folder with the data sets: where the model's own is there, its images check the file."""


OPSET = 18
"""ONNX's version of its operators: PyTorch's exporter is made for it, and runtimes since 2023 read
it."""

_SHAPES = {"images": {0: torch.export.Dim("N")}}

_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}

_CHECKED = 1000

_BATCHES = [1, 7, 300, _CHECKED - 308]

_TOLERANCE = 1e-4
"""What rounding may change, in largest logits, or in 1 if they are smaller."""

Reader = Callable[[Tensor], Tensor]
"""Images, uint8 (N, 28, 28) → logits, float32 (N, classes)."""


class PixelReader(nn.Module):
    """What is written: the network behind the step that makes pixels its inputs."""

    def __init__(self, model: TwoConvNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 (N, classes), from pixels, uint8 (N, 28, 28)."""
        logits: Tensor = self.model(to_inputs(images))
        return logits


def _run(options: ExportOptions) -> int:
    if options.format == "onnx":
        _need_onnx()
    source = options.model
    saved = load_model(source)
    output = options.output or source.with_name(f"model{_SUFFIX[options.format]}")
    if output.is_dir():
        raise UserError(f"`output` (={output}) is a folder; name a file")
    if output.exists() and output.samefile(source):
        raise UserError(f"`output` (={output}) is the model itself; choose another file")
    make_writable(output.parent, "--output")
    dataset, images = _images_to_check(saved.data_spec.dataset, options.data_dir)
    original = PixelReader(saved.network()).requires_grad_(False).eval()
    # Weights in the plain order: torch.export saves no other without a warning.
    original.to(memory_format=torch.contiguous_format)
    program = torch.export.export(original, (torch.zeros_like(images[:2]),), dynamic_shapes=_SHAPES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    with replacing(output) as temporary:
        if options.format == "onnx":
            written = _write_onnx(temporary, program, _description(saved))
            kind = f"ONNX, opset {OPSET}"
        else:
            written = _write_torch(temporary, program, _description(saved))
            kind = "a program of torch.export"
        checked = _check(output, original, written, images)
    classes = len(saved.class_names)
    say(
        open_console(),
        f"{output}: {kind}, {output.stat().st_size / 1e6:.1f} MB. Reads uint8 (N, 28, 28), light "
        f"strokes on black, upright; gives logits, float32 (N, {classes}).\n"
        f"Checked on {len(images):,} training images of {dataset}: {checked}.",
    )
    return 0


def _need_onnx() -> None:
    try:
        # Tried here, so that the absence of the extra is said in one line.
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`format` (=onnx) needs {error.name}, which is not installed; "
            "pip install -e '.[export]'"
        ) from error


def _images_to_check(own: Dataset, data_dir: Path) -> tuple[Dataset, Tensor]:
    """Return real images, uint8 (N, 28, 28), and the data set that they are from.

    Those of the model's own data set are used if they are there, and else digits, which need no
    download. Whether two programs compute the same can be seen on any characters.
    """
    dataset = own if has_images(own, "train", data_dir) else "mnist_5k"
    pixels = Images.joined(load_images(dataset, "train", data_dir)).pixels
    some = torch.linspace(0, len(pixels) - 1, _CHECKED).long()  # of all classes, where sorted
    return dataset, pixels[some]


def _description(saved: SavedModel) -> dict[str, str]:
    """Return what the file says about itself."""
    return {
        "classes": json.dumps(saved.class_names),
        "dataset": saved.data_spec.dataset,
        "val_accuracy": str(saved.val_accuracy),
        "images": "uint8 (N, 28, 28), light strokes on black, upright",
        "logits": "float32 (N, classes); softmax gives probabilities",
    }


def _write_onnx(
    path: Path, program: torch.export.ExportedProgram, description: dict[str, str]
) -> Reader:
    """Write ONNX, and return what ONNX Runtime makes of it."""
    import onnxruntime

    exported = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_SHAPES,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.update(description)
    exported.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def read(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return read


def _write_torch(
    path: Path, program: torch.export.ExportedProgram, description: dict[str, str]
) -> Reader:
    """Write a program of torch.export, and return it as another process would load it."""
    buffer = io.BytesIO()  # so that a full disk is an OSError like any other
    torch.export.save(program, buffer, extra_files={"description.json": json.dumps(description)})
    path.write_bytes(buffer.getbuffer())
    return torch.export.load(path).module()


@torch.inference_mode()
def _check(path: Path, original: Reader, written: Reader, images: Tensor) -> str:
    """Compare a written model with the original, in batches of several sizes.

    If the logits are the same but for rounding, predictions can differ only where two classes
    are as good as equal.

    Returns:
        what was found.

    Raises:
        UserError: the logits differ.
    """
    wanted = original(images)
    given = torch.cat([written(batch) for batch in images.split(_BATCHES)])
    difference = (wanted - given).abs().max().item()
    agreeing = int((wanted.argmax(dim=1) == given.argmax(dim=1)).sum())
    found = (
        f"logits differ by {difference:.1e} at most, {agreeing:,} of {len(images):,} predictions "
        "agree"
    )
    if not difference <= _TOLERANCE * max(1.0, wanted.abs().max().item()):  # nor NaN
        raise UserError(f"{path} is not written, since it would read otherwise: {found}")
    return found


COMMAND = cli.Command("src.export", __doc__, ExportOptions, _run)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
