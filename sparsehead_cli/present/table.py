"""One model of a table that people read. The terminal (console.py) and the page (page.py) show the same one, each in its way."""

import math
from dataclasses import dataclass, field, replace

from sparsehead_cli.runs.readable import UNDEFINED, number, readable
from sparsehead_cli.runs.table_files import Row, frame


@dataclass(frozen=True)
class Cell:
    """A value of a table: a text, or a number, which is not defined where it is "", None or NaN.

    A number may have `half` of its interval, or an interval from `low` to `high`, or be a part `of` a whole. Where there is a
    `text`, that is written instead, and the number is only what the column is sorted by.
    """

    value: object
    half: object = ""
    low: object = ""
    high: object = ""
    of: object = ""
    text: str = ""

    @property
    def defined(self) -> bool:
        """Whether a number is there to be shown; of nothing there is no part."""
        return not math.isnan(number(self.value)) and (self.of == "" or number(self.of) > 0)


@dataclass(frozen=True)
class Column:
    """A heading, whose lines are kept, and how the values below it are written: numbers flush right, texts flush left.

    Numbers are multiplied by `scale` and have so many digits (None: four that matter), a suffix, and with `sign` "+" a sign.
    The heading is `short` on a terminal, where it has one. A `minor` column is left out on terminals that are narrower than
    the table is wide. A terminal writes the cells of a column with `below`, in that format, under those of the column before.
    """

    name: str
    digits: int | None = 0
    scale: float = 1
    suffix: str = ""
    sign: str = ""
    text: bool = False
    minor: bool = False
    below: str = ""
    short: str | None = None

    def written(self, cell: Cell) -> str:
        """A cell as people read it, without its interval from low to high."""
        if self.text or not cell.defined:
            return str(cell.value) if self.text else UNDEFINED
        if cell.text:
            return cell.text
        text = self.rounded(cell.value, self.sign) + self.suffix
        if cell.of != "":
            text += f" of {cell.of}"
        return text if math.isnan(number(cell.half)) else f"{text} ± {self.rounded(cell.half)}"

    def interval(self, cell: Cell) -> str:
        """The interval of a cell from low to high; "" where it has none."""
        return "" if math.isnan(number(cell.low)) else f"{self.rounded(cell.low)}–{self.rounded(cell.high)}"

    def rounded(self, value: object, sign: str = "") -> str:
        """A number with the digits of this column; 0 has no sign."""
        if self.digits is None:
            whole = number(value).is_integer() and abs(number(value)) < 1e15
            return f"{number(value):z.0f}" if whole else f"{number(value):z.4g}"
        text = readable(value, self.digits, self.scale, sign=sign)
        return text.removeprefix("+") if text.strip("+0.") == "" else text

    def from_zero(self, name: str = "from λ 0") -> "Column":
        """The column of the differences to λ 0, which comes behind this one of means."""
        return replace(self, name=name, sign="+", below="{}", short="")


@dataclass(frozen=True)
class Table:
    """What people read: rows of a CSV, or what follows from them; the lines whose numbers are in `marked` stand out.

    `notes` are sentences that a reader has to know, without a capital and a full stop. `wide` is the least number of columns
    that a terminal must have to show the minor columns, and intervals behind their numbers. On a terminal a `ruled` table has
    a line between its rows; on the page a `folded` one is opened with a click.
    """

    title: str
    columns: list[Column]
    lines: list[list[Cell]] = field(default_factory=list)
    marked: set[int] = field(default_factory=set)
    notes: tuple[str, ...] = ()
    wide: float = 0
    ruled: bool = False
    folded: bool = False

    def add(self, *cells: Cell, marked: bool = False) -> None:
        """One more line."""
        if marked:
            self.marked.add(len(self.lines))
        self.lines.append(list(cells))


def mean(row: Row) -> Cell:
    """The mean of a row over seeds ± half of its interval."""
    return Cell(row["mean"], half=number(row["high"]) - number(row["mean"]))


def difference(row: Row) -> Cell:
    """The paired difference of a row to λ 0 ± half of its interval."""
    return Cell(row["difference"], half=number(row["difference_high"]) - number(row["difference"]))


def lam_cell(lam: float) -> Cell:
    """λ as people write it."""
    return Cell(lam, text=f"{lam:g}")


def csv_table(title: str, rows: list[Row], first: str) -> Table:
    """Rows of a CSV as they are, but rounded; the column `first` leads, and constant ones go into the note."""
    values = frame(rows)
    numbers = set(values.select_dtypes("number"))
    columns = {name: Column(name.replace("_", " "), digits=None, text=name not in numbers) for name in values}
    constant = [name for name in values if name != first and len(values) > 1 and values[name].nunique(dropna=False) == 1]
    shown = [first, *(name for name in values if name not in (first, *constant))]
    texts = {name: columns[name].written(Cell(values[name][0])) for name in constant}
    same = ", ".join(f"{name} {text}" for name, text in texts.items() if text not in ("", UNDEFINED))
    notes = (f"the same in all rows: {same}",) if same else ()
    table = Table(title, [columns[name] for name in shown], notes=notes, folded=True)
    for line in values[shown].itertuples(index=False):
        table.add(*map(Cell, line))
    return table


UNDEFINED_CELL = Cell("")
