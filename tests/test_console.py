"""Tables in terminals of any width."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from src.core.console import print_figures
from tests.conftest import REPOSITORY

COLUMNS = ["val accuracy", "conv1", "dense units", "learning rate", "batch size", "95 % interval"]
ROWS = [
    ["0.995833", "256", "128", "0.000804", "208", "0.99480 to 0.99541"],
    ["0.9912", "32", "2048", "1e-05", "16", "0.98001 to 0.99999"],
]


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_figures(console, COLUMNS, ROWS, title="The best")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", range(34, 130))
def test_no_figure_is_cut_and_no_line_is_too_long(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in ROWS:
        for cell in row:
            assert re.search(rf"(?<![\w.]){re.escape(cell)}(?![\w.])", text), cell


def test_rows_stay_rows_as_long_as_they_fit() -> None:
    wide, middle, narrow = printed(120), printed(64), printed(40)
    for text, lines in ((wide, 7), (middle, 5)):
        assert len(text.splitlines()) == lines
        assert re.search(r"0\.9912\W+32\W+2048\W+1e-05\W+16\W+0\.98001 to 0\.99999", text)
    assert "┃" in wide
    assert "┃" not in middle
    assert "val accuracy 0.9912, conv1 32,\n" in narrow


def test_a_table_without_rows_is_not_printed() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_figures(console, COLUMNS, [], title="The best")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_text_fits_a_terminal_of_any_kind(kind: str) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 40))
    sized = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run(
        [sys.executable, "-m", "src.tune", "--dataset=mnist", "--plan"],
        cwd=REPOSITORY,
        env={**sized, "TERM": kind},
        stdout=theirs,
    )
    assert done.returncode == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", os.read(ours, 2**16).decode())
    os.close(ours)
    os.close(theirs)
    assert "for each batch size" in " ".join(text.split())
    assert 30 < max(map(len, text.splitlines())) <= 40
