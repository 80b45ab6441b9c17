"""Fit one configuration and keep the weights of its best validation epoch.

    python -m src.train --dataset mnist --conv1 256 --conv2 160 --dense_units 256 \
        --dropout_rate 0.3 --learning_rate 0.000804 --batch_size 208 --max_epochs 15

Writes results/<dataset>/train/<configuration>/ (model.ckpt, model.json, model.png), a new folder
each time, and curves to lightning_logs/<dataset>/train/. Ctrl-C ends it and keeps the best so far.
"""

import shlex
import sys

from src import cli
from src.core.command import recorded_command
from src.core.console import live_progress, open_console, say
from src.core.errors import UserError
from src.core.files import free_name, make_writable, optional, write_json
from src.core.interrupt import Signals
from src.options import TrainOptions
from src.training.device import choose_compute


def _run(options: TrainOptions) -> int:
    from src.data.split import load_training_data, refuse_large_batches
    from src.reporting.publish import describe_model, draw_model
    from src.results.provenance import provenance
    from src.training.checkpoint import model_of, save_model
    from src.training.fit import fit
    from src.training.progress import FitDisplay, print_data
    from src.training.spec import FitSpec
    from src.training.tensorboard import TensorBoardRun

    hp = options.hyperparameters
    name = (
        f"{hp.conv1}-{hp.conv2}-{hp.dense_units}_dropout{hp.dropout_rate:g}"
        f"_lr{hp.learning_rate:g}_batch{hp.batch_size}_seed{options.seed}"
    )
    models = options.results_dir / options.dataset / "train"
    console = open_console()
    compute = choose_compute(options.device, options.precision)
    # Of the code that trains, even if it is edited meanwhile.
    origin = provenance(compute, recorded_command())
    make_writable(models, "--results_dir")
    make_writable(options.log_dir, "--log_dir")
    with Signals() as interruption:
        data = load_training_data(options.data_spec, options.data_dir, compute.device, interruption)
        refuse_large_batches("batch_size", [hp.batch_size], data)
        print_data(console, data, compute)
        name = free_name(models, name)
        folder = models / name
        folder.mkdir()  # before training, so that nobody else takes it meanwhile
        spec = FitSpec(
            hyperparameters=hp,
            max_epochs=options.max_epochs,
            patience=None,
            seed=options.seed,
            compute=compute,
            tensorboard=TensorBoardRun(options.log_dir, f"{options.dataset}/train", name),
        )
        with live_progress(console) as progress:
            display = FitDisplay(progress, options.max_epochs)
            try:
                fitted = fit(spec, data, interruption, [display])
            except BaseException:
                folder.rmdir()
                raise
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
    write_json(folder / "model.json", describe_model(model).to_document())
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
        "Next:\n"
        f"  python -m src.evaluate {shlex.quote(str(folder / 'model.ckpt'))}",
    )
    return fitted.interrupted.exit_code if fitted.interrupted else 0


COMMAND = cli.Command("src.train", __doc__, TrainOptions, _run)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
