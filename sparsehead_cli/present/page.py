"""Sections of sentences, figures and sortable tables -> one HTML file that needs nothing else."""

import base64
import hashlib
import re
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.runs.readable import number

PIXELS_PER_POINT = 96 / 72
LARGER = 1.25  # how many times its size in inches a figure is shown at most


@dataclass(frozen=True)
class Drawing:
    """A figure as an <svg> element, and what it shows in words."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what is below it. The table of contents links to `name`; on paper, a `wide` one has landscape pages.

    Figures are below each other, or where there is room `beside` each other. `commands` are pairs of what is done, and its line.
    """

    name: str
    title: str
    note: str = ""
    wide: bool = False
    beside: bool = False
    commands: list[tuple[str, str]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(title: str, lead: str, facts: list[tuple[str, str]], sections: list[Section]) -> bytes:
    """The page: `title`, a paragraph `lead`, names and values of `facts`, and the sections.

    The same content gives the same bytes. All text is escaped; a browser runs our script alone, which it knows by its hash.
    """
    loader = PackageLoader("sparsehead_cli", "present/templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    # the functions below, for the cells, notes and sentences of report.html
    environment.filters |= {"written": written, "sort_key": sort_key, "paragraph": paragraph, "typeset": typeset}
    style, script = (Markup(loader.get_source(environment, name)[0]) for name in ("report.css", "report.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html")
    return page.render(
        title=title, lead=lead, facts=facts, sections=sections, style=style, script=script, script_hash=script_hash
    ).encode()


def drawing(file: bytes, name: str, caption: str) -> Drawing:
    """An SVG of ours for the page; `name` goes in front of its elements' ids, which have to differ from those of other figures."""
    svg = file.decode()
    svg = svg[svg.index("<svg") :]  # without the XML declaration
    # a <style> within it would hold for the whole page; report.css has what it says
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    width = round(float(re.search(r'width="([\d.]+)pt"', svg)[1]) * PIXELS_PER_POINT)
    # screen readers have the caption instead; on small screens report.css reads --natural
    attributes = f'aria-hidden="true" style="max-width: {round(LARGER * width)}px; --natural: {width}px"'
    svg = re.sub(r'^(<svg [^>]*?) height="[^"]*"', r"\1", svg)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', rf"<svg {attributes} \1", svg)
    return Drawing(Markup(re.sub(r"\n\s*", "\n", svg.strip())), caption)


def typeset(text: str) -> str:
    """A sentence with minuses as wide as pluses, and no line break between λ and its number."""
    return minus(text.replace("λ ", "λ\u00a0"))


def minus(text: str) -> str:
    """A text whose numbers have minuses as wide as pluses; the hyphen of an exponent, as in 1e-4, stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def paragraph(notes: tuple[str, ...]) -> str:
    """The notes of a table, which have neither capital nor full stop, as sentences."""
    return minus(" ".join(f"{note[0].upper()}{note[1:]}." for note in notes))


def written(cell: Cell, column: Column) -> str:
    """What a cell shows: a text as it is; a number with a wide minus, and behind it, in brackets, its interval."""
    text, interval = column.written(cell), column.interval(cell)
    return text if column.text else minus(f"{text} ({interval})" if interval else text)


def sort_key(cell: Cell, column: Column) -> str:
    """What a cell is sorted by: its text, or its number as a script reads it. An undefined one gives "", which comes last."""
    if column.text:
        return column.written(cell)
    return f"{number(cell.value):.7g}" if cell.defined else ""
