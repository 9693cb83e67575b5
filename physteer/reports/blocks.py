"""What the page consists of: titled sections of paragraphs, tables, figures, videos and links, as plain data."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from PIL import Image

LARGEST_VIDEO = 5 * 2**20
"""Bytes; larger videos are linked."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str = ""
    """What is seen of it until it is unfolded; empty for a table that is always seen."""


@dataclass(frozen=True)
class Source:
    """A text file, folded."""

    kind: ClassVar[str] = "source"
    name: str
    content: str


@dataclass(frozen=True)
class FileLink:
    """A link to a file of the run folder."""

    name: str
    """The path in the run folder."""

    @property
    def href(self) -> str:
        """The path as a browser takes it: other characters than letters and digits percent-encoded."""
        return quote(self.name)


@dataclass(frozen=True)
class Files:
    """Links in one line."""

    kind: ClassVar[str] = "files"
    files: Sequence[FileLink]


@dataclass(frozen=True)
class Figure:
    """An embedded PNG."""

    kind: ClassVar[str] = "figure"
    name: str
    source: str
    width: int
    """In CSS pixels."""
    alt: str
    """What is read to the blind."""


@dataclass(frozen=True)
class Drawing:
    """An SVG inside the page, whose lines tell their names under the pointer."""

    kind: ClassVar[str] = "drawing"
    name: str
    markup: str


@dataclass(frozen=True)
class Video(FileLink):
    """An embedded or linked video."""

    kind: ClassVar[str] = "video"
    source: str
    preload: str


Block = Text | Heading | Table | Source | Files | Figure | Drawing | Video


@dataclass(frozen=True)
class Section:
    """A part of the page; one without blocks is left out."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """What links to the section end in."""
        return self.title.lower().replace(" ", "-")


def figure_of(path: Path) -> Figure:
    """Embed a PNG at the size it was drawn for, with the title and description that it carries."""
    with Image.open(path) as image:
        alt = f"{image.info.get('Title', path.stem)}. {image.info.get('Description', '')}"
        dpi = float(image.info.get("dpi", (96.0,))[0]) or 96.0
        width = round(image.width / dpi * 96)
    return Figure(f"figures/{path.name}", _embedded(path, "image/png"), width, alt)


def drawing_of(path: Path) -> Drawing:
    """Take an SVG that physteer drew into the page, as wide as the page."""
    text = path.read_text(encoding="utf-8")
    svg = text[text.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"[^\w-]", "-", path.stem)  # ids are unique in a page, not only in a file
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    return Drawing(f"figures/{path.name}", svg)


def video_of(path: Path) -> Video:
    """Embed a video, or link one that would make the page heavy."""
    name = f"videos/{path.name}"
    if path.stat().st_size > LARGEST_VIDEO:
        return Video(name, quote(name), "metadata")
    return Video(name, _embedded(path, "video/mp4"), "auto")  # it is there already: show its first frame


def _embedded(path: Path, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
