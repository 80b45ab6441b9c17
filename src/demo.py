"""Open a page on which one draws a character and sees what the models read in it.

    python -m src.demo

Offers results/*/best-model.ckpt and the checkpoints named. Runs until Ctrl-C, writes nothing.
"""

import os
import sys
import webbrowser
from collections.abc import Sequence

import jsonargparse
import torch

from src import cli
from src.checkpoint import load_model
from src.config import DemoConfig
from src.display import open_console, say
from src.errors import UserError
from src.interrupt import Signals
from src.page import Models, Server


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the command's parser."""
    parser = cli.make_parser("src.demo", cli.first_line(__doc__), DemoConfig)
    parser.add_argument(
        "models", type=str, nargs="*", default=[], help="More models, such as model.ckpt."
    )
    parser.add_argument(
        "--no_browser", action="store_true", help="Only say where the page is; open no browser."
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return cli.run(make_parser(), _demo, argv)


def _demo(options: jsonargparse.Namespace) -> int:
    config = cli.make_config(DemoConfig, options)
    for given in options.models:
        load_model(given)  # so that a wrong one is noticed now
    models = Models(config.results_dir, options.models)
    if not models.paths():
        raise UserError(
            f"there is no model: no best-model.ckpt in a folder of {config.results_dir}, and none "
            "is named; `python -m src.tune --config configs/quickstart.yaml` makes one"
        )
    torch.set_num_threads(1)  # one small image at a time; the threads of several users would clash
    with Signals() as signals, Server(config.host, config.port, models, signals.check) as server:
        say(
            open_console(),
            f"Draw at {server.url} (Ctrl-C ends it). Models: {', '.join(models.paths())}",
        )
        sys.stdout.flush()
        if not options.no_browser and _has_screen():
            webbrowser.open(server.url)
        server.serve()
    return 0


def _has_screen() -> bool:
    """Return whether a browser would be a window, and not take over this terminal."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


if __name__ == "__main__":
    sys.exit(main())
