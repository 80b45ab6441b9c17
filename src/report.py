"""Write a search's report: one page with its best models, its cost and what mattered.

    python -m src.report --dataset mnist

Reads results/<dataset>/ alone, and writes report.html there, which opens without a network, and
its pictures to figures/. Seconds.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from src import cli
from src.core.console import open_console, say
from src.core.files import make_writable, replacing
from src.data.catalog import Dataset
from src.results.folder import ResultsFolder


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `report`."""

    dataset: Dataset
    """Data set of the search to report on."""
    results_dir: Path | None = None
    """Folder for results: one folder in it for each data set; null: results, or where it has no
    such search, the results that came with the project."""


def _run(options: ReportOptions) -> int:
    from src.core.metrics import ConfusionMatrix
    from src.reporting.findings import read_findings
    from src.reporting.page import PICTURES, Winner, make_page, render
    from src.results.saved_models import usual_results_dirs
    from src.training.checkpoint import load_description

    given = options.results_dir
    folders = [
        ResultsFolder(results_dir.absolute(), options.dataset)
        for results_dir in ((given,) if given else usual_results_dirs())
    ]
    folder = next((folder for folder in folders if folder.all_csv.exists()), folders[0])
    findings = read_findings(folder)
    winner = None
    if folder.best_model.exists():
        model = load_description(folder.best_model)
        winner = Winner(
            hyperparameters=model.hyperparameters,
            history=model.history,
            best_epoch=model.best_epoch,
            val_accuracy=model.val_accuracy,
            matrix=ConfusionMatrix(model.validation_confusion, model.class_names),
        )
    make_writable(folder.figures, "--results_dir")
    page = make_page(findings, winner)
    pictures = {folder.figures / f"{picture.name}.png": picture for picture in page.pictures()}
    for path, picture in pictures.items():
        with replacing(path) as temporary:
            temporary.write_bytes(picture.content)
    with replacing(folder.report) as temporary:  # last, as it holds all pictures itself
        temporary.write_text(render(page), encoding="utf-8")
    for name in PICTURES:  # of an earlier report
        if (old := folder.figures / f"{name}.png") not in pictures:
            old.unlink(missing_ok=True)
    say(
        open_console(),
        f"Written: {folder.report} (opens in any browser, without a network), and its "
        f"{len(pictures)} pictures to {folder.figures}",
    )
    return 0


COMMAND = cli.Command("src.report", __doc__, ReportOptions, _run)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
