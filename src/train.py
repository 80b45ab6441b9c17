"""Fit one configuration and keep the weights of its best validation epoch.

    python -m src.train --dataset mnist --conv1 256 --conv2 160 --dense_units 256 \
        --dropout_rate 0.3 --learning_rate 0.000804 --batch_size 208 --max_epochs 15

Writes results/<dataset>/train/<configuration>/ (model.ckpt, model.json, model.png), a new folder
each time, and curves to lightning_logs/<dataset>/train/. Ctrl-C ends it and keeps the best so far.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from src import cli
from src.core.console import live_progress, open_console, say
from src.core.errors import UserError
from src.core.files import free_name, make_writable, optional, write_json
from src.core.interrupt import Signals
from src.data.split import load_training_data, refuse_large_batches
from src.options import TrainConfig
from src.reporting.publish import describe_model, draw_model
from src.results.provenance import provenance
from src.search.display import print_data
from src.training.checkpoint import model_of, save_model
from src.training.device import choose_compute
from src.training.fit import fit
from src.training.progress import FitDisplay
from src.training.spec import FitSpec
from src.training.tensorboard import TensorBoardRun


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the command's parser."""
    parser = cli.make_parser("src.train", cli.first_line(__doc__), TrainConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return cli.run(make_parser(), _train, argv)


def _train(options: jsonargparse.Namespace) -> int:
    config = cli.make_config(TrainConfig, options)
    hp = config.hyperparameters
    name = (
        f"{hp.conv1}-{hp.conv2}-{hp.dense_units}_dropout{hp.dropout_rate:g}"
        f"_lr{hp.learning_rate:g}_batch{hp.batch_size}_seed{config.seed}"
    )
    models = Path(config.results_dir) / config.dataset / "train"
    console = open_console()
    compute = choose_compute(config.device, config.precision)
    origin = provenance(compute)  # of the code that trains, even if it is edited meanwhile
    make_writable(models, "--results_dir")
    make_writable(Path(config.log_dir), "--log_dir")
    with Signals() as interruption:
        data = load_training_data(config.data_spec, config.data_dir, compute.device, interruption)
        refuse_large_batches("batch_size", [hp.batch_size], data)
        print_data(console, data, compute)
        name = free_name(models, name)
        folder = models / name
        folder.mkdir()  # before training, so that nobody else takes it meanwhile
        spec = FitSpec(
            hyperparameters=hp,
            max_epochs=config.max_epochs,
            patience=None,
            seed=config.seed,
            tensorboard=TensorBoardRun(config.log_dir, f"{config.dataset}/train", name),
        )
        with live_progress(console) as progress:
            display = FitDisplay(progress, config.max_epochs)
            fitted = fit(spec, data, compute, interruption, [display])
    if fitted.best is None:
        folder.rmdir()
        if fitted.interrupted:
            raise fitted.interrupted
        raise UserError(
            f"training {fitted.diverged}; lower `learning_rate` (={hp.learning_rate}); "
            "nothing was written"
        )
    model = model_of(fitted, hp, data, origin)
    save_model(folder / "model.ckpt", model)
    write_json(folder / "model.json", describe_model(model))
    with optional("the picture", folder / "model.png"):
        draw_model(folder / "model.png", model)
    ending = (
        (fitted.interrupted and fitted.interrupted.reason)
        or fitted.diverged
        or "all epochs trained"
    )
    say(
        console,
        f"Validation accuracy {model.val_accuracy:.6f} at epoch {model.best_epoch} of "
        f"{len(model.history)} ({ending}), {fitted.seconds:.0f} s.\n"
        f"Written to {folder}: model.ckpt, model.json, model.png\n"
        f"Next: python -m src.evaluate {shlex.quote(str(folder / 'model.ckpt'))}",
    )
    return fitted.interrupted.exit_code if fitted.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
