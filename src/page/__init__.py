"""A page on which one draws a character, and the server that reads it.

The page asks its own server only, so it works without a network. Nothing drawn is kept.
"""

import io
import json
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from PIL import Image

from src.checkpoint import SavedModel, load_model
from src.device import PLAIN_CPU
from src.errors import UserError
from src.inference import read_probabilities
from src.model import TwoConvNet
from src.photo import bring_to_emnist

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    # The browser itself sees to it that the page asks nobody else.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_BYTES_AT_MOST = 8 * 2**20
_SIDE_AT_MOST = 1024
"""Pixels; the page sends nothing larger."""
_SILENCE = 60.0
"""Seconds after which a connection that says nothing is closed."""
_POLL = 0.2
"""Seconds between two looks at whether to end."""


@dataclass(frozen=True)
class _Loaded:
    version: object
    """Differs when the file has changed."""
    saved: SavedModel
    network: TwoConvNet


class Models:
    """The models to choose from, each loaded when it is first used, and again when it changes.

    Args:
        results_dir: whose <dataset>/best-model.ckpt are offered, as they come and go.
        given: checkpoints to offer before them.
    """

    def __init__(self, results_dir: str | Path, given: Sequence[str]) -> None:
        self._results_dir = Path(results_dir)
        self._given = {path: Path(path) for path in given}
        self._loaded: dict[str, _Loaded] = {}
        self._loading = threading.Lock()

    def paths(self) -> dict[str, Path]:
        """Return the checkpoints that there are now, by name."""
        given = {path.resolve() for path in self._given.values()}
        found = sorted(self._results_dir.glob("*/best-model.ckpt"))
        return self._given | {
            path.parent.name: path for path in found if path.resolve() not in given
        }

    def read(self, name: str, picture: Image.Image) -> dict[str, Any]:
        """Return what the model of this name reads in a picture, and what it saw, as JSON has it.

        Raises:
            UserError: the model is gone or damaged, or nothing is on the picture.
        """
        loaded = self._load(name)
        pixels = bring_to_emnist(picture)  # (28, 28)
        (probabilities,) = read_probabilities(
            loaded.network, torch.from_numpy(pixels)[None], PLAIN_CPU
        )
        saved = loaded.saved
        return {
            "seen": pixels.ravel().tolist(),
            "classes": saved.class_names,
            "probabilities": probabilities.tolist(),
            "about": f"Trained on {saved.data_spec.dataset}; reads "
            f"{100 * saved.val_accuracy:.2f} % of its validation images correctly.",
        }

    def _load(self, name: str) -> _Loaded:
        path = self.paths().get(name)
        if path is None:
            raise UserError(f"the model {name} is gone; choose another, or reload the page")
        with self._loading:
            version = _version(path)
            loaded = self._loaded.get(name)
            if loaded is None or loaded.version != version:
                saved = load_model(path)
                loaded = self._loaded[name] = _Loaded(version, saved, saved.task().model)
        return loaded


def _version(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:  # what is wrong shows when it is loaded
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Server(ThreadingMixIn, TCPServer):
    """Serves the page, to several people at once.

    Args:
        host: name or address to listen on.
        port: 0: any that is free.
        models: what reads.
        check: called again and again while it serves; what it raises ends it.

    Raises:
        UserError: it cannot listen there.
    """

    allow_reuse_address = sys.platform != "win32"  # where it would share a port that is in use
    daemon_threads = True
    request_queue_size = 64  # a browser opens up to six connections

    def __init__(self, host: str, port: int, models: Models, check: Callable[[], None]) -> None:
        self.models = models
        self.service_actions = check  # type: ignore[method-assign]  # what serve_forever calls
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on `host` (={host}) and `port` (={port}): {error.strerror}; "
                "choose another port or host"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def serve(self) -> None:
        """Serve until `check` raises something."""
        self.serve_forever(_POLL)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, but not that somebody closed the page."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _SILENCE

    def do_GET(self) -> None:  # http.server's name
        path = urlsplit(self.path).path
        if path == "/models":
            self._answer_json(list(self.server.models.paths()))
        elif path in _FILES:
            name, kind = _FILES[path]
            content = resources.files(__name__).joinpath(name).read_bytes()
            self._answer(content, f"{kind}; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        if url.path != "/read" or not length.isdecimal() or int(length) > _BYTES_AT_MOST:
            self.close_connection = True  # what was sent is not read
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        png = self.rfile.read(int(length))
        name = parse_qs(url.query).get("model", [""])[0]
        try:
            answer = self.server.models.read(name, _open_drawing(png))
        except UserError as error:
            answer = {"message": str(error)}
        except Exception:
            traceback.print_exc()
            answer = {"message": "this could not be read; the demo's terminal says why"}
        self._answer_json(answer)

    def _answer_json(self, content: object) -> None:
        self._answer(json.dumps(content).encode(), "application/json")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _open_drawing(png: bytes) -> Image.Image:
    """Decode what the page sent.

    Raises:
        UserError: the page sends nothing like that.
    """
    try:
        drawing = Image.open(io.BytesIO(png), formats=["PNG"])
        if max(drawing.size) > _SIDE_AT_MOST:
            raise UserError(f"the drawing is larger than {_SIDE_AT_MOST} pixels")
        drawing.load()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes its decoder raise
        raise UserError("the drawing is damaged") from error
    return drawing
