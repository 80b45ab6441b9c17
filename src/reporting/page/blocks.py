"""Blocks of a page (paragraphs, tables, pictures), and their rendering as HTML with Jinja."""

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

_MOST_NARROW = 5
"""Most columns of a table that fits a screen of 400 pixels."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """Key figures at the top of the page."""

    facts: Sequence[tuple[str, str]]
    """Names and values."""
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """A table; a long and narrow one is split into parts side by side."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()
    """Names of the columns of words, aligned left; the others hold figures."""
    beside: int = 1
    """Number of parts side by side."""
    kind: str = "table"

    @property
    def wide(self) -> bool:
        """Whether a narrow screen shows each row as lines of names and values."""
        return len(self.columns) > _MOST_NARROW

    @property
    def parts(self) -> list[Sequence[Sequence[str]]]:
        """The rows, split into parts of about the same length."""
        length = max(1, -(-len(self.rows) // self.beside))
        return [self.rows[i : i + length] for i in range(0, len(self.rows), length)]


@dataclass(frozen=True)
class Picture:
    """A picture with its caption and its alternative text."""

    name: str
    """File name without its ending."""
    content: bytes
    """A PNG."""
    alt: str
    caption: str
    scale: float = 1.0
    """Page pixels for one of its own."""
    kind: str = "picture"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in page pixels."""
        width, height = struct.unpack(">II", self.content[16:24])  # of a PNG's first chunk
        return round(width * self.scale), round(height * self.scale)

    @property
    def uri(self) -> str:
        """The PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.content).decode()


Block = Text | Facts | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    key: str
    """Anchor that links point to."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    lead: Sequence[Block]
    """Blocks before the table of contents."""
    sections: Sequence[Section]

    def pictures(self) -> Iterator[Picture]:
        """Give every picture on the page."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Picture))


def render(page: Page) -> str:
    """Render the page as HTML, with all text escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["units"] = _with_units
    return environment.get_template("page.html").render(page=page)


def _with_units(text: str) -> str:
    """Put a no-break space between a figure and its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
