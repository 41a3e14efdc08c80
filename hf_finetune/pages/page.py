"""A page: a title, sections of blocks, and the images that they show, as one HTML file.

The file holds its style, its script and its images, and forbids its reader's browser everything else: no address is
asked for anything. Whatever is text here may hold HTML; it is shown, and never is a part of the page.

    page = Page("my_images", "12,000 images of 37 classes")
    page.images["3"] = Thumbnail(thumbnail_sources([image], budget=400_000)[0], ["cats/3.jpg", "truth: cat"])
    page.sections += [
        Section("At a glance", [Facts([Fact("accuracy", "97.80 %", "95 % interval: 95.7-98.9")])]),
        Section(
            "Classes",
            [
                Paragraph("A number opens its images."),
                Table([Column("class"), Column("images", number=True)], [[Cell("cat"), Cell("12", 12, images=["3"])]]),
                Gallery(["3"]),
            ],
        ),
    ]
    page.write(Path("page.html"))
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import jinja2

from hf_finetune.pages.charts import LineChart
from hf_finetune.pages.scatter import Scatter
from hf_finetune.shown_text import printable
from hf_finetune.whole_files import written_whole

MOST_BYTES = 5_000_000  # of a page
_LONGEST_TEXT = 120  # characters of a name in a table or below an image


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that stands out; a `warning` stands out more."""

    kind: ClassVar[str] = "note"
    text: str
    tone: Literal["note", "warning"] = "note"


@dataclass(frozen=True)
class Fact:
    """A figure, what it is called, and a line below it."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """Figures in boxes side by side."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Column:
    """A column of a table; that of a `number` is aligned to the right and first sorted from the largest."""

    name: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table or a matrix.

    Attributes:
        text: What it shows.
        order: What the column is sorted by; None is the text. NaN is last in both directions.
        share: A part of 1: the length of a bar below the text, in a matrix the depth of the colour. None has none.
        images: Keys of `Page.images`, which a click on the cell shows.
        title: What these images have in common, above them.
    """

    text: str
    order: float | str | None = None
    share: float | None = None
    images: Sequence[str] = ()
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table, sorted by the column whose heading is clicked. Rows are as long as `columns`."""

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Matrix:
    """A square table of classes by classes.

    Attributes:
        names: Of the classes.
        cells: A row for each class, with a cell for each class.
        rows_are: What rows stand for, such as "truth".
        columns_are: What columns stand for.
        orders: By name, ways to order the classes: a permutation of their places. The first is shown at first.
    """

    kind: ClassVar[str] = "matrix"
    names: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    rows_are: str
    columns_are: str
    orders: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Images side by side, with their texts: keys of `Page.images`.

    Attributes:
        images: Their keys.
        large: Whether they are below each other.
        pairs: Whether each is twice as wide, of two images.
    """

    kind: ClassVar[str] = "gallery"
    images: Sequence[str]
    large: bool = False
    pairs: bool = False


@dataclass(frozen=True)
class ImageRows:
    """Images in rows, below named columns: what becomes of each image from step to step.

    Attributes:
        columns: The name of each column, and a line below it.
        rows: Keys of `Page.images`, as many as columns. The first column stays in sight.
    """

    kind: ClassVar[str] = "image_rows"
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Code:
    """A text of fixed width, such as a command or a file."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Charts:
    """Charts of lines side by side."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[LineChart]


@dataclass(frozen=True)
class Details:
    """Blocks that are hidden until their summary is clicked, and are printed open."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


Block = Paragraph | Note | Facts | Table | Matrix | Gallery | ImageRows | Code | Charts | Scatter | Details


@dataclass(frozen=True)
class Section:
    """Blocks below a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """What addresses within the page call the section."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class Thumbnail:
    """A small image and the lines below it.

    Attributes:
        source: A data URI (`thumbnail_sources`); "" where the image cannot be had, so that the lines stand alone.
        lines: Texts.
    """

    source: str
    lines: Sequence[str] = ()


@dataclass
class Page:
    """A page that grows by assignment: see the module.

    Attributes:
        title: Its title.
        subtitle: A line below the title.
        sections: In the order of the page.
        images: The images that cells and galleries show, by any key without a space. Images that would make the
            file larger than `MOST_BYTES` are left out, the last ones first.
    """

    title: str
    subtitle: str = ""
    sections: list[Section] = field(default_factory=list)
    images: dict[str, Thumbnail] = field(default_factory=dict)

    def html(self) -> str:
        """Return the file's text."""
        without = len(self._render({key: Thumbnail("", image.lines) for key, image in self.images.items()}).encode())
        left, shown = MOST_BYTES - without, {}
        for key, image in self.images.items():
            left -= len(image.source)
            shown[key] = image if left >= 0 else Thumbnail("", image.lines)
        return self._render(shown)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, which appears when it is complete."""
        with written_whole(Path(path)) as unfinished:
            unfinished.write_text(self.html(), encoding="utf-8", errors="backslashreplace")

    def _render(self, images: Mapping[str, Thumbnail]) -> str:
        style, script = _part("page.css"), _part("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return _template().render(
            page=self,
            images=images,
            data={key: [image.source, *map(printable, image.lines)] for key, image in images.items()},
            style=style,
            script=script,
            script_hash=f"sha256-{digest}",
        )


def shortened(text: str) -> str:
    """Return a text of at most 120 characters without control characters, its middle left out where it is longer."""
    text = printable(text)
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[: half - 1]}…{text[-half:]}"


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return environment.get_template("page.html")
