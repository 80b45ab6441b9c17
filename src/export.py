"""Write a saved model for other programs, as ONNX or as a program of torch.export.

    python -m src.export --model results/mnist/best-model.ckpt --format onnx

Writes model.onnx (or model.pt2) beside the checkpoint, checked on real images. Half a minute on a
laptop.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src import cli
from src.core.console import open_console, say
from src.core.errors import UserError
from src.core.files import make_writable, replacing


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export`."""

    model: Path
    """The checkpoint of the model to write."""
    format: Literal["onnx", "torch"] = "onnx"
    """What to write: ONNX (an extra: export), or a program of torch.export."""
    output: Path | None = None
    """File to write; null: model.onnx or model.pt2 beside the model."""
    data_dir: Path = Path("data")
    """Folder with the data sets: where the model's own is there, its images check the file."""


_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


def _run(options: ExportOptions) -> int:
    from src.inference import exported
    from src.training.checkpoint import load_model

    if options.format == "onnx":
        exported.require_onnx()
        kind = f"ONNX, opset {exported.OPSET}, IR {exported.IR_VERSION}"
        write = exported.write_onnx
    else:
        kind = "a program of torch.export"
        write = exported.write_program
    source = options.model
    saved = load_model(source)
    output = options.output or source.with_name(f"model{_SUFFIX[options.format]}")
    if output.is_dir():
        raise UserError(f"`output` (={output}) is a folder; name a file")
    if output.exists() and output.samefile(source):
        raise UserError(f"`output` (={output}) is the model itself; choose another file")
    make_writable(output.parent, "--output")
    dataset, images = exported.images_to_check(saved.data_spec.dataset, options.data_dir)
    with replacing(output) as temporary:
        written = write(temporary, saved)
        found = exported.compare(output, saved, written, images)
    say(
        open_console(),
        f"{output}: {kind}, {output.stat().st_size / 1e6:.1f} MB. Reads uint8 (N, 28, 28), light "
        f"strokes on black, upright; gives logits, float32 (N, {len(saved.class_names)}).\n"
        f"Checked on {len(images):,} training images of {dataset}: {found}.",
    )
    return 0


COMMAND = cli.Command("src.export", __doc__, ExportOptions, _run)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
