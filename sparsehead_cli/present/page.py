"""Sections of sentences, figures and sortable tables -> one HTML file that needs nothing else."""

import base64
import hashlib
import re
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import drawn
from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.runs.readable import number

PIXELS_PER_INCH = 96
LARGER = 1.25  # than its size in inches, the most that a figure is shown


@dataclass(frozen=True)
class Drawing:
    """A figure as SVG within the page, and what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what is below it; `name` is its place for the table of contents, a `wide` one is printed across."""

    name: str
    title: str
    note: str = ""
    wide: bool = False
    sentences: list[str] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(title: str, lead: str, facts: list[tuple[str, str]], sections: list[Section]) -> bytes:
    """The page, the same bytes for the same content. All text is escaped, and no script but our own may run."""
    loader = PackageLoader("sparsehead_cli", "present/templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"written": written, "sort_key": sort_key, "paragraph": paragraph, "typeset": typeset}
    style, script = (Markup(loader.get_source(environment, name)[0]) for name in ("report.css", "report.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html")
    return page.render(
        title=title, lead=lead, facts=facts, sections=sections, style=style, script=script, script_hash=script_hash
    ).encode()


def drawing(figure: Figure, name: str, caption: str) -> Drawing:
    """A figure for the page; `name` keeps its elements' ids apart from those of other figures."""
    svg = drawn(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    size = f'aria-hidden="true" style="max-width: {round(LARGER * width)}px; --natural: {width}px"'
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', rf"<svg {size} \1", re.sub(r'^(<svg [^>]*?) height="[^"]*"', r"\1", svg))
    return Drawing(Markup(re.sub(r"\n\s*", "\n", svg.strip())), caption)


def typeset(text: str) -> str:
    """A sentence with minuses as wide as pluses, and no line that begins with the number of a λ."""
    return minus(text.replace("λ ", "λ\u00a0"))


def minus(text: str) -> str:
    """Numbers with minuses as wide as pluses; that of an exponent stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def paragraph(notes: tuple[str, ...]) -> str:
    """The notes of a table as sentences."""
    return minus(" ".join(f"{note[0].upper()}{note[1:]}." for note in notes))


def written(cell: Cell, column: Column) -> str:
    """What a cell shows: texts as they are, numbers with their minuses, and behind them their interval."""
    text, interval = column.written(cell), column.interval(cell)
    return text if column.text else minus(f"{text} ({interval})" if interval else text)


def sort_key(cell: Cell, column: Column) -> str:
    """What a cell is sorted by: its text, or its number as scripts read it; "" for what is not defined comes last."""
    if column.text:
        return column.written(cell)
    return f"{number(cell.value):.7g}" if cell.defined else ""
