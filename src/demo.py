"""Open a page on which one draws a character and sees what a model reads in it.

    python -m src.demo

Offers results/*/best-model.ckpt and the checkpoints named, and reads pictures too. Runs until
Ctrl-C, and leaves nothing behind. Needs the extra `demo`: Gradio.
"""

import gc
import logging
import os
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src import cli
from src.core import checks
from src.core.console import open_console, say
from src.core.errors import UserError
from src.core.interrupt import Interruption, Signals

if TYPE_CHECKING:
    import gradio

    from src.results.saved_models import ModelChoice


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of `demo`."""

    models: tuple[Path, ...] = ()
    """More models, such as model.ckpt."""
    results_dir: Path | None = None
    """Folder with results: the best model of each data set in it is offered; null: results, and of
    data sets that it has no model of, what came with the project."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own let anybody in who can reach it."""
    port: int = 7860
    """Port to listen on; 0: any that is free."""
    no_browser: bool = False
    """Only say where the page is; open no browser."""

    def __post_init__(self) -> None:
        checks.within("port", self.port, 0, 2**16 - 1)


_UPLOAD_AT_MOST = 32 * 2**20
"""Bytes of an opened picture."""

_KEPT = 600
"""Seconds that Gradio keeps an opened picture's file."""

_OPENED = ["image", ".heic", ".heif"]
"""Kinds of files to open, as Gradio names them; not every system takes HEIC for a picture."""

_TOP = 5
"""Classes shown."""


def _run(options: DemoOptions) -> int:
    import torch

    from src.results.saved_models import ModelChoice, usual_results_dirs
    from src.training.checkpoint import load_model

    for given in options.models:
        load_model(given)  # so that a wrong one is noticed now
    folders = usual_results_dirs() if options.results_dir is None else (options.results_dir,)
    models = ModelChoice(folders, options.models)
    if not models.paths():
        raise UserError(
            f"there is no model: no best-model.ckpt in a folder of {folders[0]}, and none "
            "is named; `python -m src.tune --config configs/quickstart.yaml` makes one"
        )
    torch.set_num_threads(1)  # one small image at a time
    with Signals() as signals, _listen(options.host, options.port) as listener, _gradio_folder():
        serve = _make_server(_make_page(models), signals)
        signals.check()
        url = _url(listener)
        say(open_console(), f"Draw at {url} (Ctrl-C ends it). Models: {', '.join(models.paths())}")
        sys.stdout.flush()
        if not options.no_browser and _has_screen():
            webbrowser.open(url)
        serve(listener)
        # Nobody needs the last collection of garbage, which takes 0.5 s for what Gradio imports.
        gc.freeze()
        signals.check()
    return 0


def _make_page(models: "ModelChoice") -> "gradio.Blocks":
    """Lay out the page; connect the canvas and the choice of a model to the model's reading."""
    import gradio as gr
    import torch
    from PIL import Image

    from src.inference import canvas
    from src.inference.photo import bring_to_emnist
    from src.inference.picture_files import load_picture
    from src.inference.predictions import read_probabilities
    from src.training.device import PLAIN_CPU

    def read(name: str, drawing: str | None) -> tuple[dict[str, float] | None, str, str]:
        if not drawing:
            return None, "", ""
        try:
            model = models.load(name)
            pixels = bring_to_emnist(canvas.decode(drawing))  # (28, 28)
        except UserError as error:
            return None, "", f"**{error}**"
        (probabilities,) = read_probabilities(
            model.network, torch.from_numpy(pixels)[None], PLAIN_CPU
        )
        saved = model.saved
        return (
            dict(zip(saved.class_names, probabilities.tolist(), strict=True)),
            canvas.encode(Image.fromarray(pixels)),
            f"Trained on {saved.data_spec.dataset}; reads {saved.val_accuracy:.2%} of its "
            "validation images correctly.",
        )

    def open_picture(file: str) -> str:
        try:
            return canvas.encode(load_picture(file))
        except UserError as error:
            raise gr.Error(f"{Path(file).name}: {error}", print_exception=False) from error

    page = gr.Blocks(title="Draw a character", analytics_enabled=False, delete_cache=(_KEPT, _KEPT))
    with page:
        gr.Markdown("# Draw a character")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                drawing = gr.HTML(
                    "",
                    html_template=canvas.HTML,
                    css_template=canvas.CSS,
                    js_on_load=canvas.JS,
                    elem_id="board",
                )
                with gr.Row():
                    clear = gr.Button("Clear", min_width=100)
                    upload = gr.UploadButton(
                        "Open picture", file_types=_OPENED, min_width=100, elem_id="open"
                    )
            with gr.Column(scale=2, min_width=300):
                reading = gr.Label(num_top_classes=_TOP, label="What it reads", elem_id="reading")
                note = gr.Markdown(elem_id="note")
                seen = gr.HTML("", html_template=_SEEN, css_template=_SEEN_CSS, elem_id="seen")
                names = list(models.paths())
                model = gr.Dropdown(
                    names, value=names[0], label="Model", filterable=False, elem_id="model"
                )
        # One at a time for each user, the last drawing last.
        gr.on(
            [drawing.change, model.change],
            read,
            [model, drawing],
            [reading, seen, note],
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=2,
            api_visibility="private",
        )
        page.load(
            lambda: gr.Dropdown(list(models.paths())),
            outputs=model,
            show_progress="hidden",
            api_visibility="private",
        )
        clear.click(None, None, drawing, js="() => ''")
        upload.upload(
            open_picture, upload, drawing, show_progress="hidden", api_visibility="private"
        )
    return page


_SEEN = """
{{#if value}}
<figure><img src="${value}" alt=""><figcaption>What the network sees: 28×28</figcaption></figure>
{{/if}}
"""

_SEEN_CSS = """
figure { display: flex; align-items: center; gap: 12px; margin: 0; }
img {
  width: 112px; height: 112px; image-rendering: pixelated;
  border-radius: 4px; box-shadow: 0 0 0 1px var(--border-color-primary);
}
"""

_CSS = "#board .html-container, #seen .html-container { padding: 0; }"


def _make_server(
    page: "gradio.Blocks", interruption: Interruption
) -> Callable[[socket.socket], None]:
    """Return a function that serves the page until it is interrupted.

    Gradio's own `Blocks.launch` (6.31) would not do: it fails on port 0 and on IPv6, asks itself by
    HTTP whether it runs, and takes 5 s to say of a host that does not exist that its port is taken.
    """
    import fastapi
    import gradio as gr
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield  # `interruption` notes them, those too that come before it serves

        async def on_tick(self, counter: int) -> bool:  # ten times a second
            return interruption.pending() is not None or await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # A page that is open keeps a connection, which never ends by itself.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        "/",
        footer_links=[],
        run_history=False,
        max_file_size=_UPLOAD_AT_MOST,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
        css=_CSS,
    )
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=0))
    return lambda listener: server.run(sockets=[listener])


@contextmanager
def _gradio_folder() -> Iterator[None]:
    """Let Gradio keep its files in a folder that is removed at the end, and ask nobody."""
    with tempfile.TemporaryDirectory(prefix="hcr-demo-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio  # noqa: F401  # tried here, so that its absence is said in one line
        except ImportError as missing:
            raise UserError(
                "the page needs Gradio, which is not installed; "
                "pip install -c constraints.txt -e '.[demo]'"
            ) from missing
        yield


def _listen(host: str, port: int) -> socket.socket:
    """Take the port.

    Raises:
        UserError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it would share a port that is in use
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # who comes too early waits
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"cannot listen on `host` (={host}) and `port` (={port}): {error.strerror}; "
            "choose another port or host"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _has_screen() -> bool:
    """Return whether a browser would be a window, and not take over this terminal."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


COMMAND = cli.Command(
    "src.demo", __doc__, DemoOptions, _run, flags=("no_browser",), positional="models"
)

main = COMMAND.main


if __name__ == "__main__":
    sys.exit(main())
