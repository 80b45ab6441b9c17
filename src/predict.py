"""Read the handwritten characters on pictures, one on each.

    python -m src.predict photo.png

Any size, dark on light or light on dark. A fifth of a second a picture on a laptop. A file that
cannot be read gets a line on standard error, and the exit code is 2; the others are read.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src import cli
from src.core import checks
from src.core.errors import UserError
from src.core.files import make_writable, replacing
from src.training.device import Device, choose_compute

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of `predict`."""

    pictures: tuple[str, ...]
    """Pictures, such as photo.png."""
    model: Path | None = None
    """The checkpoint of the model that reads; null: results/emnist_letters_digits/best-model.ckpt,
    or where there is none, the one that came with the project."""
    top: int = 3
    """How many classes to name for each picture, the most probable first."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    show: Path | None = None
    """Folder for what the model saw of each picture: its 28×28 pixels, enlarged, as NAME-seen.png;
    null: nowhere."""
    json: bool = False
    """Print one JSON object a picture and nothing else."""

    def __post_init__(self) -> None:
        checks.within("top", self.top, 1)


_ENLARGED = 10
"""Pixels a side of each pixel of what is shown."""


def _run(options: PredictOptions) -> int:
    import torch

    from src.inference.photo import bring_to_emnist
    from src.inference.picture_files import load_picture
    from src.inference.predictions import read_probabilities
    from src.results.saved_models import usual_model
    from src.training.checkpoint import load_model

    compute = choose_compute(options.device, "32")
    saved = load_model(options.model or usual_model("emnist_letters_digits"))
    model = saved.network()
    if options.show:
        make_writable(options.show, "--show")
    shown: set[Path] = set()
    exit_code = 0
    for file in options.pictures:
        try:
            pixels = bring_to_emnist(load_picture(file))
        except UserError as error:
            exit_code = cli.fail(f"{file}: {error}")
            continue
        if options.show:
            _write_enlarged(_free_path(options.show, Path(file), shown), pixels)
        (probabilities,) = read_probabilities(model, torch.from_numpy(pixels)[None], compute)
        best = probabilities.argsort(descending=True)[: options.top].tolist()
        top = [(saved.class_names[i], float(probabilities[i])) for i in best]
        if options.json:
            prediction, probability = top[0]
            record = {
                "file": file, "prediction": prediction, "probability": probability, "top": top
            }  # fmt: skip
            line = json.dumps(record)
        else:
            reading = ", ".join(f"{name} {p:.1%}" for name, p in top)
            line = cli.printable(f"{file}: {reading}")
        print(line, flush=True)
    return exit_code


def _free_path(folder: Path, file: Path, taken: set[Path]) -> Path:
    """Name the PNG that shows a picture's 28×28 pixels as no other one of this run is named."""
    number = 1
    while (path := folder / f"{file.stem}-seen{f'-{number}' * (number > 1)}.png") in taken:
        number += 1
    taken.add(path)
    return path


def _write_enlarged(path: Path, pixels: "NDArray[np.uint8]") -> None:
    """Write pixels, uint8 (28, 28), as a PNG of 280×280."""
    from PIL import Image

    large = Image.fromarray(pixels.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1))
    with replacing(path) as temporary:
        large.save(temporary)


COMMAND = cli.Command(
    "src.predict", __doc__, PredictOptions, _run, flags=("json",), positional="pictures"
)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
