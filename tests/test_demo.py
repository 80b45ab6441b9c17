"""The page in a real browser, which draws on it as a person does."""

import contextlib
import http.client
import io
import mimetypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from src import demo
from src.data import load_images
from tests.conftest import REPOSITORY, as_letters

with contextlib.suppress(ImportError):
    from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    "sync_playwright" not in globals() or CHROMIUM is None,
    reason="playwright or Chromium is not installed",
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="on Linux all of 127/8 is local")

Strokes = list[list[tuple[float, float]]]

STROKES: dict[str, Strokes] = {
    "0": [[(.5, .15), (.36, .22), (.3, .5), (.36, .78), (.5, .85), (.64, .78), (.7, .5), (.64, .22),
           (.5, .15)]],
    "1": [[(.5, .15), (.5, .85)]],
    "2": [[(.3, .3), (.38, .18), (.55, .15), (.68, .25), (.66, .42), (.3, .85), (.72, .85)]],
    "3": [[(.3, .2), (.5, .14), (.67, .22), (.66, .38), (.48, .48), (.68, .57), (.72, .72),
           (.55, .86), (.3, .82)]],
    "4": [[(.36, .15), (.28, .52), (.72, .52)], [(.66, .3), (.62, .88)]],
    "7": [[(.26, .2), (.74, .18), (.46, .86)]],
}  # fmt: skip
"""Digits as pens draw them: the strokes' corners, in sides of the board."""


class Demo:
    """The command in a process of its own, with two models of the same digits.

    One calls them 0 … 9, the other A … J.
    """

    def __init__(self, results: Path, digit_model: Path, environment: dict[str, str]) -> None:
        self.results = results
        self.digits = results / "digits/best-model.ckpt"
        self.letters = results / "letters/best-model.ckpt"
        for path in (self.digits, self.letters):
            path.parent.mkdir(parents=True)
        self.digits.write_bytes(digit_model.read_bytes())
        as_letters(digit_model, self.letters)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "src.demo",
                "--port=0",
                "--no_browser",
                f"--results_dir={results}",
            ],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        (self.url,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
        assert said.endswith("Models: digits, letters\n")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> tuple[int, str]:
        """End it by Ctrl-C; return its exit code and what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, error = self.process.communicate(timeout=20)
        return self.process.returncode, error

    def ask(
        self, method: str, path: str, body: bytes = b"", length: int | None = None
    ) -> tuple[int, str]:
        """Return status and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            headers = {} if length is None else {"Content-Length": str(length)}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, digit_model: Path) -> Iterator[Demo]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started = Demo(tmp_path_factory.mktemp("results"), digit_model, environment)
    yield started
    # It ends as the other commands do, whoever is connected, and nothing went wrong before.
    with socket.create_connection(("127.0.0.1", started.port)):
        assert started.stop() == (130, "interrupted by Ctrl-C\n")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextlib.contextmanager
def visit(browser: "Browser", demo: Demo, **options: Any) -> Iterator["Page"]:
    """Open the page as a new user. It must complain of nothing, and ask its own server only."""
    context = browser.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(demo.url)
    page.wait_for_selector("#model option", state="attached")
    yield page
    assert complaints == []
    assert all(url.startswith((f"{demo.url}/", "data:")) for url in asked)
    context.close()


@pytest.fixture
def page(browser: "Browser", running: Demo) -> Iterator["Page"]:
    with visit(browser, running) as opened:
        yield opened


def points(page: "Page", stroke: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return where on the page the corners of a stroke are."""
    box = page.locator("#board").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def draw(page: "Page", strokes: Strokes) -> None:
    for stroke in strokes:
        first, *others = points(page, stroke)
        page.mouse.move(*first)
        page.mouse.down()
        for corner in others:
            page.mouse.move(*corner, steps=4)
        page.mouse.up()


def choose(page: "Page", name: str, content: bytes) -> None:
    """Choose a file as the picture to open."""
    page.set_input_files(
        "#picture",
        files={"name": name, "mimeType": mimetypes.guess_type(name)[0] or "", "buffer": content},
    )


def answer(page: "Page") -> str:
    """Return what the page says is drawn, once it has asked all it has to ask."""
    page.wait_for_function("() => document.getElementById('answer').ariaBusy !== 'true'")
    return page.inner_text("#best")


@needs_browser
@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_read(digit: str, page: "Page") -> None:
    draw(page, STROKES[digit])
    assert answer(page) == digit
    assert page.inner_text("#bars li.best b") == digit
    shares = [float(text.rstrip(" %")) for text in page.locator("#bars span").all_inner_texts()]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=0.5)


@needs_browser
def test_probabilities_show_while_the_pen_is_down(page: "Page") -> None:
    assert page.inner_text("#best") == ""
    first, *others = points(page, STROKES["7"][0])
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*others[0], steps=4)
    early = answer(page), page.locator("#bars").inner_text()
    page.mouse.move(*others[1], steps=4)
    assert answer(page) == "7"
    assert page.locator("#bars").inner_text() != early[1]
    page.mouse.up()


@needs_browser
def test_what_the_network_saw_is_the_drawing_in_emnists_form(page: "Page") -> None:
    draw(page, STROKES["1"])
    answer(page)
    seen = page.evaluate(
        """() => {
            const seen = document.getElementById("seen").getContext("2d");
            const { data } = seen.getImageData(0, 0, 28, 28);
            return Array.from({ length: 28 * 28 }, (_, i) => data[4 * i]);
        }"""
    )
    picture = Image.frombytes("L", (28, 28), bytes(seen))
    box = picture.point(lambda level: 255 * (level > 127)).getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert abs(left + right - 28) <= 1
    assert abs(top + bottom - 28) <= 1
    assert 18 <= bottom - top <= 24
    assert 2 <= right - left <= 5


@needs_browser
def test_clear_leaves_an_empty_board_of_which_nothing_is_asked(page: "Page") -> None:
    draw(page, STROKES["1"])
    answer(page)
    page.click("#clear")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.select_option("#model", "letters")
    assert answer(page) == ""
    assert page.locator("#bars li").count() == 0
    assert page.is_hidden("#message")
    assert asked == []
    draw(page, STROKES["7"])
    assert answer(page) == "H"


@needs_browser
def test_another_model_reads_the_same_drawing(page: "Page") -> None:
    draw(page, STROKES["1"])
    assert answer(page) == "1"
    page.select_option("#model", "letters")
    assert answer(page) == "B"
    assert "Trained on emnist_letters; " in page.inner_text("#about")
    page.select_option("#model", "digits")
    assert answer(page) == "1"


@needs_browser
def test_pictures_of_real_digits_are_read(page: "Page") -> None:
    (images,) = load_images("mnist_5k", "test", "nowhere")
    right = 0
    for i in range(5, 1000, 100):  # one of each digit
        digit = Image.fromarray(images.pixels[i].numpy()).resize((300, 300))
        content = io.BytesIO()
        ImageOps.expand(ImageOps.invert(digit), (250, 50), "white").save(content, "JPEG")
        choose(page, "digit.jpg", content.getvalue())
        page.wait_for_function("() => document.getElementById('board').width === 800")
        right += answer(page) == str(images.labels[i].item())
        page.click("#clear")
    assert right >= 8  # a model trained in seconds


@needs_browser
def test_a_file_that_is_no_picture_is_said_to_be_none(page: "Page") -> None:
    draw(page, STROKES["1"])
    answer(page)
    choose(page, "a.png", b"text")
    page.wait_for_selector("#message")
    assert page.inner_text("#message") == "a.png is no picture that this browser can show."
    assert answer(page) == ""
    draw(page, STROKES["1"])
    assert answer(page) == "1"
    assert page.is_hidden("#message")


@needs_browser
def test_a_model_that_is_damaged_or_gone_is_said_on_the_page(page: "Page", running: Demo) -> None:
    whole = running.digits.read_bytes()
    draw(page, STROKES["1"])
    assert answer(page) == "1"
    try:
        running.digits.write_bytes(whole[:-100])
        draw(page, [[(0.5, 0.15), (0.5, 0.8)]])
        assert answer(page) == ""
        assert "best-model.ckpt is refused: it is damaged" in page.inner_text("#message")
        running.digits.unlink()
        draw(page, [[(0.5, 0.15), (0.5, 0.8)]])
        assert answer(page) == ""
        assert page.inner_text("#message").startswith("the model digits is gone; choose another")
    finally:
        running.digits.write_bytes(whole)
    draw(page, [[(0.5, 0.15), (0.5, 0.8)]])
    assert answer(page) == "1"
    assert page.is_hidden("#message")


@needs_browser
def test_several_users_draw_at_once(browser: "Browser", running: Demo) -> None:
    with contextlib.ExitStack() as stack:
        users = {digit: stack.enter_context(visit(browser, running)) for digit in ("1", "4", "7")}
        for digit, page in users.items():
            draw(page, STROKES[digit])
        assert {digit: answer(page) for digit, page in users.items()} == {d: d for d in users}


@needs_browser
def test_a_finger_draws_on_a_phone(browser: "Browser", running: Demo) -> None:
    phone = {"viewport": {"width": 400, "height": 700}, "has_touch": True, "is_mobile": True}
    with visit(browser, running, **phone) as page:
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *at: tuple[float, float]) -> None:
            corners = [{"x": x, "y": y} for x, y in at]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": corners})

        first, *others = points(page, STROKES["7"][0])
        send("touchStart", first)
        for corner in others:
            send("touchMove", corner)
        send("touchEnd")
        assert answer(page) == "7"
        assert page.evaluate("() => scrollY") == 0  # a finger on the board does not scroll
        assert page.evaluate("() => document.documentElement.scrollWidth") == 400
        for target in ("#clear", ".button", "#model"):
            box = page.locator(target).bounding_box()
            assert box is not None
            assert box["height"] >= 44  # wide enough for a finger


@needs_linux
def test_nobody_else_is_let_in_unless_asked_for(running: Demo) -> None:
    socket.create_connection(("127.0.0.1", running.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", running.port))


def test_requests_that_the_page_does_not_make_are_refused(running: Demo) -> None:
    assert running.ask("GET", "/../pyproject.toml")[0] == 404
    assert running.ask("GET", "/page/__init__.py")[0] == 404
    assert running.ask("POST", "/models")[0] == 400
    assert running.ask("POST", "/read", length=999_999_999_999)[0] == 400
    large = io.BytesIO()
    Image.new("1", (5000, 5000)).save(large, "PNG")
    for model, body, message in [
        ("digits", b"", "the drawing is damaged"),
        ("digits", b"\x89PNG\r\n\x1a\n", "the drawing is damaged"),
        ("digits", large.getvalue(), "the drawing is larger than 1024 pixels"),
    ]:
        status, answered = running.ask("POST", f"/read?model={model}", body)
        assert status == 200
        assert message in answered
    small = io.BytesIO()
    Image.new("L", (28, 28)).save(small, "PNG")
    for name in ("", "..", str(running.digits)):
        assert (
            f"the model {name} is gone"
            in running.ask("POST", f"/read?model={name}", small.getvalue())[1]
        )
    assert "nothing is drawn" in running.ask("POST", "/read?model=digits", small.getvalue())[1]


def test_a_port_in_use_is_one_line_and_exit_code_2(
    running: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--results_dir={running.results}", f"--port={running.port}", "--no_browser"]
    assert demo.main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: cannot listen on `host` (=127.0.0.1) and `port` (={running.port}): "
        "Address already in use; choose another port or host\n"
    )


def test_without_a_model_it_says_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([f"--results_dir={tmp_path}", "--no_browser"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "python -m src.tune --config configs/quickstart.yaml" in error


def test_a_model_that_is_named_must_be_one(
    running: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([f"--results_dir={running.results}", f"{tmp_path}/none.ckpt"]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
