"""One model of a table that people read. The terminal (console.py) and the page (page.py) show the same one, each in its way."""

import math
from dataclasses import dataclass, field, replace

from sparsehead_cli.runs.readable import UNDEFINED, number, readable
from sparsehead_cli.runs.table_files import Row, frame


@dataclass(frozen=True)
class Cell:
    """What a table says in one place.

    `value` is the number that it is sorted by: None for a text, NaN for what is not defined. `detail` says more, such as an
    interval. It stands behind the text in brackets, or below the text where there is no room for that.
    """

    text: str
    value: float | None = None
    detail: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is anything to show but "–"."""
        return self.value is None or not math.isnan(self.value)


@dataclass(frozen=True)
class Column:
    """A heading, whose lines are kept, and how the cells below it are shown: numbers flush right, texts flush left.

    Numbers have so many `digits`, after they were multiplied by `scale`. The heading is `short` on a terminal, where it has
    one. A `minor` column is left out on terminals that are narrower than the table is wide. The cells of a column with `below`
    are written, in that format, under those of the column before on a terminal, and beside them on the page.
    """

    name: str
    digits: int = 0
    scale: float = 1
    text: bool = False
    minor: bool = False
    below: str = ""
    short: str | None = None

    def number(self, value: object, low: object = "", high: object = "", of: object = "") -> Cell:
        """`number_cell` with the digits and the scale of this column."""
        return number_cell(value, self.digits, self.scale, low=low, high=high, of=of)

    def mean(self, row: Row) -> Cell:
        """The mean of a row over seeds ± half of its interval, where it has one."""
        text = readable(row["mean"], self.digits, self.scale)
        return Cell(self.with_interval(text, row["mean"], row["high"]), number(row["mean"]))

    def difference(self, row: Row) -> Cell:
        """The paired difference of a row to λ 0 with its sign ± half of its interval, where it has one."""
        text = signed(row["difference"], self.digits, self.scale)
        return Cell(self.with_interval(text, row["difference"], row["difference_high"]), number(row["difference"]))

    def from_zero(self, name: str = "from λ 0") -> "Column":
        """The column of the differences to λ 0, behind this one of means."""
        return replace(self, name=name, below="{}", short="")

    def with_interval(self, text: str, middle: object, high: object) -> str:
        """A number that is written as `text` ± half of its interval, of which `high` is the upper end, where it has one."""
        half = number(high) - number(middle)
        return text if math.isnan(half) else f"{text} ± {readable(half, self.digits, self.scale)}"


@dataclass(frozen=True)
class Line:
    """A row of a table; a marked one stands out."""

    cells: list[Cell]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """What people read: rows of a CSV, or what follows from them.

    `notes` are sentences that a reader has to know, without a capital and a full stop. `wide` is the least number of columns
    that a terminal must have to show the minor columns, and details behind their numbers. On a terminal a `ruled` table has a
    line between its rows; on the page a `folded` one is opened with a click.
    """

    title: str
    columns: list[Column]
    lines: list[Line] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    wide: float = 0
    ruled: bool = False
    folded: bool = False

    def add(self, *cells: Cell, marked: bool = False) -> None:
        """One more row."""
        self.lines.append(Line(list(cells), marked))


def number_cell(
    value: object,
    digits: int = 0,
    scale: float = 1,
    suffix: str = "",
    *,
    low: object = "",
    high: object = "",
    of: object = "",
) -> Cell:
    """A number with its interval from low to high, where it has one, or with the whole that it is a part `of`."""
    if math.isnan(number(value)):
        return UNDEFINED_CELL
    interval = "" if math.isnan(number(low)) else f"{readable(low, digits, scale)}–{readable(high, digits, scale)}"
    whole = "" if of == "" else f" of {of}"
    return Cell(f"{readable(value, digits, scale, suffix)}{whole}", number(value), interval)


def lam_cell(lam: float) -> Cell:
    """λ as people write it."""
    return Cell(f"{lam:g}", lam)


def signed(value: object, digits: int, scale: float = 1) -> str:
    """A difference with its sign; one that is rounded to 0 has none."""
    text = readable(value, digits, scale, sign="+")
    return text.removeprefix("+") if text.strip("+0.") == "" else text


def rounded(value: float) -> str:
    """A number with four digits, a whole one with all that it has."""
    return f"{value:z.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:z.4g}"


def csv_table(title: str, rows: list[Row], first: str) -> Table:
    """Rows of a CSV as they are, but rounded; the column `first` leads, and constant ones go into the note."""
    values = frame(rows)
    numbers = set(values.select_dtypes("number"))
    constant = [name for name in values if name != first and len(values) > 1 and values[name].nunique(dropna=False) == 1]
    shown = [first, *(name for name in values if name not in (first, *constant))]
    table = Table(title, [Column(name.replace("_", " "), text=name not in numbers) for name in shown], folded=True)
    cells = {name: [csv_cell(value) for value in values[name]] for name in values}
    for line in zip(*(cells[name] for name in shown), strict=True):
        table.add(*line)
    same = [f"{name} {cells[name][0].text}" for name in constant if cells[name][0].defined and cells[name][0].text]
    return replace(table, notes=(f"the same in all rows: {', '.join(same)}",)) if same else table


def csv_cell(value: str | float) -> Cell:
    """A value of a CSV."""
    if isinstance(value, str):
        return Cell(value)
    return UNDEFINED_CELL if math.isnan(value) else Cell(rounded(value), value)


UNDEFINED_CELL = Cell(UNDEFINED, math.nan)
