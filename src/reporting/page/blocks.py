"""What a page is made of, and how it becomes HTML."""

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

_COLUMNS_ON_A_PHONE = 5
"""Columns up to which a table fits a screen of 400 pixels."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """What a reader looks for first."""

    facts: Sequence[tuple[str, str]]
    """Names and values."""
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """A table; where it is long and narrow, in columns beside each other."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()
    """Columns of words, which are set to the left; the others hold figures."""
    beside: int = 1
    """Parts that stand beside each other."""
    kind: str = "table"

    @property
    def wide(self) -> bool:
        """Whether a narrow screen shows each row as lines of names and values."""
        return len(self.columns) > _COLUMNS_ON_A_PHONE

    @property
    def parts(self) -> list[Sequence[Sequence[str]]]:
        """The rows in parts of about the same length."""
        length = max(1, -(-len(self.rows) // self.beside))
        return [self.rows[i : i + length] for i in range(0, len(self.rows), length)]


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows, for those who see it and those who do not."""

    name: str
    """Of its file, without an ending."""
    content: bytes
    """A PNG."""
    alt: str
    caption: str
    scale: float = 1.0
    """How large a pixel of it is on the page."""
    kind: str = "picture"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page, in its pixels."""
        width, height = struct.unpack(">II", self.content[16:24])  # of a PNG's first chunk
        return round(width * self.scale), round(height * self.scale)

    @property
    def uri(self) -> str:
        """The picture as a part of the page."""
        return "data:image/png;base64," + base64.b64encode(self.content).decode()


Block = Text | Facts | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    key: str
    """What links name it by."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    lead: Sequence[Block]
    """What stands before the table of contents."""
    sections: Sequence[Section]

    def pictures(self) -> Iterator[Picture]:
        """Give every picture on the page."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Picture))


def render(page: Page) -> str:
    """Return the page as HTML; all text in it is escaped."""
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
    """Keep a figure and its unit on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
