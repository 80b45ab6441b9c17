"""(a) Training images a second, of this project and its peers, with the whole machine."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants, images

SHAPES = ((32, 64, 128), (128, 128, 128), (256, 160, 256))
"""conv1, conv2, dense units: small, middling, and the best that was published."""
BATCH_SIZES = (16, 64, 208)
LIMIT = 12_500
"""Images: 10,000 train."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train each shape at each batch size for a while, one contestant after the other."""
    seconds = "2" if options.quick else "10"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = images.write(Path(folder) / "images.npz", images.load(LIMIT, options.data_dir))
        for shape in SHAPES[:1] if options.quick else SHAPES:
            for batch_size in BATCH_SIZES[1:2] if options.quick else BATCH_SIZES:
                arguments = ["throughput", f"--images={file}", f"--seconds={seconds}"]
                arguments += [f"--batch_size={batch_size}"]
                for name, value in zip(("conv1", "conv2", "dense_units"), shape, strict=True):
                    arguments.append(f"--{name}={value}")
                rows.append(_row(shape, batch_size, arguments, options.keras))
    return {
        "rows": rows,
        "notes": ["images a second; ours: as many fits at once as there are workers"],
        "images": {"dataset": "mnist", "train": LIMIT * 4 // 5},
    }


def _row(
    shape: tuple[int, int, int], batch_size: int, arguments: list[str], keras: Path | None
) -> dict[str, Any]:
    reports = {
        "ours": contestants.ours("benchmarks.ours", *arguments),
        "stock Lightning": contestants.stock(*arguments),
        "Keras": contestants.keras(keras, *arguments),
    }
    rates = {name: report and report["images_per_second"] for name, report in reports.items()}
    return {
        "conv1-conv2-dense": "-".join(map(str, shape)),
        "batch size": batch_size,
        **{name: rate and round(rate) for name, rate in rates.items()},
        **{
            f"ours / {name}": rate and round(rates["ours"] / rate, 2)
            for name, rate in rates.items()
            if name != "ours"
        },
        "other load": max(report["other_load"] for report in reports.values() if report),
        "reports": reports,
    }
