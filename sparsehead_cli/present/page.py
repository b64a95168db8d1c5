"""A study's page: sections of sentences, figures and sortable tables -> one HTML file that needs nothing else."""

import base64
import hashlib
import math
import re
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import drawn
from sparsehead_cli.runs.readable import UNDEFINED, number

PIXELS_PER_INCH = 96
LARGER = 1.25  # than its size in inches, the most that a figure is shown


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by: a number as text, a text, or "" for a cell that is sorted last."""

    text: str
    key: str


@dataclass(frozen=True)
class Column:
    """A heading (lines are kept), and whether its cells are sorted as numbers."""

    name: str
    number: bool = True


@dataclass(frozen=True)
class Line:
    """A row of a table; a marked one stands out."""

    cells: list[Cell]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A sortable table; a folded one is opened with a click, and on paper."""

    title: str
    columns: list[Column]
    rows: list[Line]
    note: str = ""
    folded: bool = False


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


def text_cell(text: str) -> Cell:
    """A cell that is sorted as the text it shows."""
    return Cell(text, text)


def number_cell(text: str, value: float | str) -> Cell:
    """A cell that shows `text` and is sorted by `value`; "–" and last for what is not defined."""
    found = number(value)
    return Cell(UNDEFINED, "") if math.isnan(found) else Cell(text, key_of(found))


def key_of(number: float) -> str:
    """A number as scripts read it, with the digits that an order needs."""
    return ("-" if number < 0 else "") + "Infinity" if math.isinf(number) else f"{number:.7g}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign, a minus as wide as the plus; 0 has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def plain(value: float, digits: int) -> str:
    """A number with a minus as wide as a plus."""
    return f"{value:.{digits}f}".replace("-", "−")


def raw_table(title: str, rows: list[dict[str, object]], first: str) -> Table:
    """Rows as they are in a CSV, rounded to four digits; the column `first` leads, and constant ones go into the note."""
    rows = [{column: str(value) for column, value in row.items()} for row in rows]
    numbers = {column for column in rows[0] if column not in NAMES and all(is_numeric(row[column]) for row in rows)}
    constant = [column for column in rows[0] if column != first and len(rows) > 1 and len({row[column] for row in rows}) == 1]
    shown = [first, *(column for column in rows[0] if column not in (first, *constant))]
    lines = [Line([number_cell(rounded(row[c]), row[c]) if c in numbers else text_cell(row[c]) for c in shown]) for row in rows]
    told = {column: rounded(rows[0][column]) if column in numbers else rows[0][column] for column in constant}
    same = ", ".join(f"{column} {value}" for column, value in told.items() if value != "")
    columns = [Column(column.replace("_", " "), column in numbers) for column in shown]
    return Table(title, columns, lines, f"The same in all rows: {same}." if same else "", folded=True)


NAMES = ("run", "commit", "checkpoint", "task")  # whose letters may look like a number


def is_numeric(text: str) -> bool:
    """Whether a cell fits into a column of numbers: one, or empty."""
    try:
        return text == "" or isinstance(float(text), float)
    except ValueError:
        return False


def rounded(text: str) -> str:
    """A number with at most four digits, a whole one with all of its own; "" stays."""
    value = number(text)
    if not math.isfinite(value):
        return text
    size = f"{abs(value):.0f}" if value.is_integer() and abs(value) < 1e15 else f"{abs(value):.4g}"
    return f"−{size}" if value < 0 else size
