"""Write a network for other programs, as ONNX or as a program of torch.export, and check it."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.data.catalog import Dataset
from src.data.files import Images, has_images, load_images
from src.training.checkpoint import SavedModel
from src.training.network import TwoConvNet, to_inputs

OPSET = 18
"""Version of ONNX's operators, that of onnx 1.13 (December 2022): PyTorch's exporter is made for
it."""

IR_VERSION = 8
"""Version of ONNX's file format, that of the same onnx: runtimes refuse what is newer than they
are, and the exporter alone would write 10 (May 2024)."""

_SHAPES = {"images": {0: torch.export.Dim("N")}}

_CHECKED = 1000
"""Images that a written model is checked on."""

_BATCHES = [1, 7, 300, _CHECKED - 308]

_TOLERANCE = 1e-4
"""What rounding may change, in largest logits, or in 1 if they are smaller."""

Reader = Callable[[Tensor], Tensor]
"""Images, uint8 (N, 28, 28) → logits, float32 (N, classes)."""


class PixelReader(nn.Module):
    """The network behind the step that makes pixels its inputs: the whole of what is written."""

    def __init__(self, model: TwoConvNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, float32 (N, classes), from pixels, uint8 (N, 28, 28)."""
        logits: Tensor = self.model(to_inputs(images))
        return logits


def require_onnx() -> None:
    """Raise `UserError` if a package is not installed that writes or checks ONNX."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`format` (=onnx) needs {error.name}, which is not installed; "
            "pip install -e '.[export]'"
        ) from error


def images_to_check(own: Dataset, data_dir: Path) -> tuple[Dataset, Tensor]:
    """Load real images, uint8 (N, 28, 28), to compare two programs on; name their data set.

    Those of the model's own data set are used if they are there, and else digits, which need no
    download. Whether two programs compute the same can be seen on any characters.
    """
    dataset = own if has_images(own, "train", data_dir) else "mnist_5k"
    pixels = Images.joined(load_images(dataset, "train", data_dir)).pixels
    some = torch.linspace(0, len(pixels) - 1, _CHECKED).long()  # of all classes, where sorted
    return dataset, pixels[some]


def write_onnx(path: Path, saved: SavedModel) -> Reader:
    """Write a model as ONNX, with its classes in the file's metadata.

    Returns:
        What ONNX Runtime makes of the file.
    """
    import onnx
    import onnxruntime

    exported = torch.onnx.export(
        _traced(saved),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_SHAPES,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model
    model.ir_version = IR_VERSION
    model.metadata_props.update(_description(saved))
    # PyTorch notes what came from what, as metadata that only later versions of the format have.
    graph = model.graph
    outputs = (value for node in graph for value in node.outputs)
    for part in (graph, *graph, *graph.inputs, *graph.initializers.values(), *outputs):
        part.metadata_props.clear()
    exported.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def read(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return read


def write_program(path: Path, saved: SavedModel) -> Reader:
    """Write a model as a program of torch.export, with its classes in description.json.

    Returns:
        The program as another process would load it.
    """
    files = {"description.json": json.dumps(_description(saved))}
    buffer = io.BytesIO()  # so that a full disk is an OSError like any other
    torch.export.save(_traced(saved), buffer, extra_files=files)
    path.write_bytes(buffer.getbuffer())
    return torch.export.load(path).module()


def _traced(saved: SavedModel) -> torch.export.ExportedProgram:
    """Trace a model for batches of any size."""
    # Weights in the plain order: torch.export saves no other without a warning.
    reader = _reader(saved).to(memory_format=torch.contiguous_format)
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    program = torch.export.export(reader, (images,), dynamic_shapes=_SHAPES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _reader(saved: SavedModel) -> PixelReader:
    return PixelReader(saved.network()).requires_grad_(False).eval()


def _description(saved: SavedModel) -> dict[str, str]:
    """Return what a written file says of itself."""
    return {
        "classes": json.dumps(saved.class_names),
        "dataset": saved.data_spec.dataset,
        "val_accuracy": str(saved.val_accuracy),
        "images": "uint8 (N, 28, 28), light strokes on black, upright",
        "logits": "float32 (N, classes); softmax gives probabilities",
    }


@torch.inference_mode()
def compare(path: Path, saved: SavedModel, written: Reader, images: Tensor) -> str:
    """Compare a written model's logits with the original's, in batches of several sizes.

    If the logits are the same but for rounding, predictions can differ only where two classes
    are as good as equal.

    Returns:
        What was found, for people.

    Raises:
        UserError: the logits differ.
    """
    wanted = _reader(saved)(images)  # (N, classes)
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
