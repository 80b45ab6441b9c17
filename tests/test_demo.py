"""The page in a real browser, which draws on it as a person does."""

import base64
import contextlib
import io
import json
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

from src import demo, predict
from src.core.errors import UserError
from src.data.files import load_images
from src.inference import canvas
from tests.conftest import ENOUGH, REPOSITORY, as_letters, wait_until

STOPPED = 60
"""Seconds in which a signal ends the command, on a busy machine too: it takes one on an idle one,
and does not wait for browsers to leave."""

with contextlib.suppress(ImportError):
    from playwright.sync_api import Browser, Page, expect, sync_playwright

    expect.set_options(timeout=ENOUGH * 1000)

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

    def __init__(self, folder: Path, digit_model: Path) -> None:
        self.results = results = folder / "results"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
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
            env={**os.environ, "TMPDIR": str(self.temporary)},
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

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, list[str]]:
        """End it by a signal; return its exit code, its errors and the files that it left."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=STOPPED)
        left = [path.name for path in self.temporary.iterdir()]
        return self.process.returncode, errors, left


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, digit_model: Path) -> Iterator[Demo]:
    started = Demo(tmp_path_factory.mktemp("demo"), digit_model)
    yield started
    # It ends as the other commands do, and nothing went wrong before.
    assert started.stop() == (130, "interrupted by Ctrl-C\n", [])


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def go_to(page: "Page", demo: Demo) -> None:
    """Open the page and wait until it is complete: nothing covers the canvas any more."""
    page.set_default_timeout(ENOUGH * 1000)
    page.goto(demo.url)
    page.locator("#board canvas").hover()


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
    go_to(page, demo)
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
    box = page.locator("#board canvas").bounding_box()
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


def choose(page: "Page", name: str, kind: str, content: bytes) -> None:
    """Choose a file as the picture to open."""
    page.set_input_files(
        "input[type=file]",
        files={"name": name, "mimeType": kind, "buffer": content},
    )


def expect_answer(page: "Page", answer: str) -> None:
    """Wait until the page says that this is drawn."""
    expect(page.get_by_test_id("label-output-value")).to_have_text(answer)


def expect_nothing(page: "Page") -> None:
    """Wait until the page says that nothing is drawn."""
    expect(page.get_by_test_id("label-output-value")).to_have_count(0)
    expect(page.locator("#seen img")).to_have_count(0)


def predicted(model: Path, file: Path) -> str:
    """Return what `predict` reads."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert predict.main(["--json", f"--model={model}", str(file)]) == 0
    prediction: str = json.loads(said.getvalue())["prediction"]
    return prediction


def choose_model(page: "Page", name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name).click()


def clear(page: "Page") -> None:
    page.get_by_role("button", name="Clear", exact=True).click()


@needs_browser
@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_read(digit: str, page: "Page") -> None:
    draw(page, STROKES[digit])
    expect_answer(page, digit)
    assert page.locator("#reading dd").count() == 5


@needs_browser
def test_probabilities_show_while_the_pen_is_down(page: "Page") -> None:
    expect_nothing(page)
    first, *others = points(page, STROKES["7"][0])
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*others[0], steps=4)
    expect(page.get_by_test_id("label-output-value")).to_have_text(re.compile(r"\d"))
    page.mouse.move(*others[1], steps=4)
    expect_answer(page, "7")
    page.mouse.up()


@needs_browser
def test_what_the_network_saw_is_the_drawing_in_emnists_form(page: "Page") -> None:
    def is_in_form() -> bool:
        seen = page.locator("#seen img").get_attribute("src")
        assert seen is not None
        picture = canvas.decode(seen)
        assert picture.size == (28, 28)
        box = picture.convert("L").point(lambda level: 255 * (level > 127)).getbbox()
        assert box is not None
        left, top, right, bottom = box
        assert abs(left + right - 28) <= 1
        assert abs(top + bottom - 28) <= 1
        assert 18 <= bottom - top <= 24
        return 2 <= right - left <= 5

    draw(page, STROKES["1"])
    expect_answer(page, "1")
    wait_until(is_in_form)  # half a stroke, which is read before, is a thick one


@needs_browser
def test_clear_leaves_an_empty_board_that_is_drawn_on_again(page: "Page") -> None:
    draw(page, STROKES["1"])
    expect_answer(page, "1")
    clear(page)
    expect_nothing(page)
    choose_model(page, "letters")
    expect(page.locator("#note")).to_have_text("")
    expect_nothing(page)
    draw(page, STROKES["7"])
    expect_answer(page, "H")


@needs_browser
def test_another_model_reads_the_same_drawing(page: "Page") -> None:
    draw(page, STROKES["1"])
    expect_answer(page, "1")
    choose_model(page, "letters")
    expect_answer(page, "B")
    expect(page.locator("#note")).to_contain_text("Trained on emnist_letters; ")
    choose_model(page, "digits")
    expect_answer(page, "1")


@needs_browser
@pytest.mark.parametrize("kind", ["jpeg", "heic"])
def test_a_picture_is_read_as_predict_reads_it(kind: str, page: "Page", running: Demo) -> None:
    if kind == "heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (an extra)")
        import pillow_heif

        pillow_heif.register_heif_opener()
    (images,) = load_images("mnist_5k", "test", "nowhere")
    for i in (205, 705):
        digit = Image.fromarray(images.pixels[i].numpy()).resize((300, 300))
        file = running.temporary.parent / f"digit.{kind}"
        ImageOps.expand(ImageOps.invert(digit), (250, 50), "white").save(file)
        choose(page, file.name, f"image/{kind}", file.read_bytes())
        expect_answer(page, predicted(running.digits, file))
        assert page.locator("#board canvas").get_attribute("width") == "800"
        clear(page)
        expect_nothing(page)


@needs_browser
def test_a_file_that_is_no_picture_is_said_to_be_none(page: "Page") -> None:
    draw(page, STROKES["1"])
    expect_answer(page, "1")
    choose(page, "a.png", "image/png", b"text")
    expect(page.get_by_test_id("toast-body")).to_contain_text("a.png: no picture, or of a kind")
    draw(page, STROKES["1"])
    expect_answer(page, "1")


@needs_browser
def test_a_model_that_is_damaged_or_gone_is_said_on_the_page(page: "Page", running: Demo) -> None:
    whole = running.digits.read_bytes()
    note = page.locator("#note")
    draw(page, STROKES["1"])
    expect_answer(page, "1")
    try:
        running.digits.write_bytes(whole[:-100])
        draw(page, [[(0.5, 0.15), (0.5, 0.8)]])
        expect(note).to_contain_text("best-model.ckpt is refused: it is damaged")
        expect_nothing(page)
        running.digits.unlink()
        draw(page, [[(0.5, 0.15), (0.49, 0.8)]])
        expect(note).to_contain_text("the model digits is gone; choose another")
        expect_nothing(page)
    finally:
        running.digits.write_bytes(whole)
    draw(page, [[(0.5, 0.15), (0.5, 0.83)]])
    expect_answer(page, "1")
    expect(note).to_contain_text("Trained on mnist_5k")


@needs_browser
def test_several_users_draw_at_once(browser: "Browser", running: Demo) -> None:
    with contextlib.ExitStack() as stack:
        users = {digit: stack.enter_context(visit(browser, running)) for digit in ("1", "4", "7")}
        for digit, page in users.items():
            draw(page, STROKES[digit])
        for digit, page in users.items():
            expect_answer(page, digit)


@needs_browser
def test_a_finger_draws_on_a_phone_in_the_dark(browser: "Browser", running: Demo) -> None:
    phone = {
        "viewport": {"width": 400, "height": 700},
        "has_touch": True,
        "is_mobile": True,
        "color_scheme": "dark",
    }
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
        expect_answer(page, "7")
        assert page.evaluate("() => scrollY") == 0  # a finger on the board does not scroll
        assert page.evaluate("() => document.documentElement.scrollWidth") == 400
        paper = page.evaluate(
            """() => {
                const ink = document.querySelector("#board canvas").getContext("2d");
                return [...ink.getImageData(2, 2, 1, 1).data];
            }"""
        )
        assert paper == [255, 255, 255, 255]
        for name in ("Clear", "Open picture"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            assert box["height"] >= 40  # wide enough for a finger


@needs_browser
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_signal_ends_it_at_once_while_browsers_are_connected(
    number: signal.Signals, browser: "Browser", digit_model: Path, tmp_path: Path
) -> None:
    demo = Demo(tmp_path, digit_model)
    context = browser.new_context()
    page = context.new_page()
    go_to(page, demo)
    draw(page, STROKES["1"])
    expect_answer(page, "1")
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert demo.stop(number) == (128 + number, f"interrupted by {name}\n", [])
    context.close()


@needs_linux
def test_nobody_else_is_let_in_unless_asked_for(running: Demo) -> None:
    socket.create_connection(("127.0.0.1", running.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", running.port))


def test_what_no_board_sends_is_refused() -> None:
    assert canvas.decode(canvas.encode(Image.new("L", (3000, 1500)))).size == (1024, 512)
    large = io.BytesIO()
    Image.new("1", (5000, 5000)).save(large, "PNG")
    url = "data:image/png;base64,"
    for value, message in [
        ("nonsense", "is damaged"),
        (f"{url}iVBORw0KGgo=", "is damaged"),
        (url + base64.b64encode(large.getvalue()).decode(), "is larger than 1024 pixels"),
        (url + "A" * 9_000_000, "is too large"),
    ]:
        with pytest.raises(UserError, match=f"the drawing {message}"):
            canvas.decode(value)


def test_a_port_in_use_is_one_line_and_exit_code_2(
    running: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--results_dir={running.results}", f"--port={running.port}", "--no_browser"]
    assert demo.main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: cannot listen on `host` (=127.0.0.1) and `port` (={running.port}): "
        "Address already in use; choose another port or host\n"
    )


def test_models_that_came_with_the_project_are_offered_in_any_folder(
    digit_model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    own = tmp_path / "results/mnist_5k/best-model.ckpt"
    own.parent.mkdir(parents=True)
    own.write_bytes(digit_model.read_bytes())
    command = [sys.executable, "-m", "src.demo", "--port=0", "--no_browser"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)  # which is heard even before it answers anybody
        assert process.wait(ENOUGH) == 130
    shipped = {path.parent.name for path in REPOSITORY.glob("results/*/best-model.ckpt")}
    assert shipped
    assert set(said.rpartition("Models: ")[2].strip().split(", ")) == {*shipped, "mnist_5k"}


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


def test_without_gradio_it_says_how_to_get_it(
    running: Demo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # what import then takes for missing
    assert demo.main([f"--results_dir={running.results}", "--port=0", "--no_browser"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install -c constraints.txt -e '.[demo]'" in error
