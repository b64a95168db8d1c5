"""The CSVs of `tables` on the disk: written atomically, and checked cell by cell before anything in them is believed."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsehead_cli.errors import SparseheadError, printable
from sparsehead_cli.machine.files import changed_line, read_regular, replace_witnessed, witness
from sparsehead_cli.runs.columns import KINDS, Table
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.tables import COLUMNS, PUT_BACK, TABLES, penalty_name

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, object]  # column -> value: text as `read_csv` gives it, or what it was before it was written


def replace_csv(path: Path, rows: list[Row], name: str = "") -> None:
    """Write rows as the table that the file is called after (or as the one called `name`), atomically.

    Columns are in their declared order; of those in `added`, the ones that no row has are left out, and of those in `usual` the
    ones in which all rows have that value. What is not defined (None, NaN, infinite) is empty.

    Raises: SparseheadError for a row that `read_csv` would refuse, and when the file cannot be written; the old one stays.
    """
    table = TABLES[name or path.name]
    used = dict.fromkeys(column for row in rows for column in row)
    others = [column for column in used if column not in table.columns]
    if others and not table.extra:
        raise SparseheadError(f"cannot write {path}: {', '.join(others)} is not declared for this table.")
    columns = [column for column in table.columns if column in used or column not in table.added]
    columns = [column for column in columns if column not in table.usual or any(is_unusual(table, column, row) for row in rows)]
    if others:
        behind = columns.index(table.extra) + 1
        columns[behind:behind] = others
    cells = [[cell(row.get(column, table.usual.get(column, ""))) for column in columns] for row in rows]
    require_rows(path, table, columns, cells, "It is our mistake; please report it.")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    replace_witnessed(path, text.getvalue().encode())


def is_unusual(table: Table, column: str, row: Row) -> bool:
    """Whether a row has another value than the usual one of this column."""
    return row.get(column, table.usual[column]) != table.usual[column]


def cell(value: object) -> str:
    """A value as it is written: "" for what is not defined; what a name has of control characters, as escapes."""
    undefined = value is None or (isinstance(value, float) and not math.isfinite(value))
    return "" if undefined else printable(str(value)).replace("\n", "\\n")


def read_csv(path: Path, name: str = "") -> list[Row]:
    """The rows of the table that the file is called after (or of the one called `name`) as text; [] where there is no file.

    Names of older versions are replaced by today's.

    Raises: SparseheadError with the line, what is wrong in it and what to do, for whatever is not as TABLES declares it.
    """
    table = TABLES[name or path.name]
    text = text_of(path, table)
    if text is None:
        return []
    columns, *cells = parsed(path, table, text)
    columns, cells = of_today(table, columns, cells)
    require_columns(path, table, columns)
    if not cells:
        raise SparseheadError(f"{path} has no rows. {remedy_of_all(table)}")
    require_rows(path, table, columns, cells, table.remedy)
    require_as_written(path, table, text)
    absent = {column: value for column, value in table.usual.items() if column not in columns}
    return [dict(zip(columns, row, strict=True)) | absent for row in cells]


def frame(rows: list[Row] | Path, text: Sequence[str] = ()) -> "pd.DataFrame":
    """Rows of any table, or the table at a path as `read_csv` reads it, for computing: numbers are float64, text is text.

    A number that is not defined is NaN, a text "". The numbers are those that Python's `float` makes of the cells, to the last
    digit. Columns that no table declares are numbers, as in `read_csv`; those in `text` stay as they are written.

    Raises: SparseheadError as `read_csv` for a path.
    """
    import numpy as np
    import pandas as pd  # takes 0.3 s, and whoever trains or asks for help needs none of it

    columns: Sequence[str] = ()
    if isinstance(rows, Path):
        columns, rows = TABLES[rows.name].columns, read_csv(rows)
    values = {}
    for column in dict.fromkeys(column for row in rows for column in row) or columns:
        cells = [row.get(column, "") for row in rows]
        if column in text or (column in COLUMNS and COLUMNS[column].kind in ("text", "truth")):
            values[column] = ["" if value is None else str(value) for value in cells]
        else:
            values[column] = np.array([number(value) for value in cells], dtype=float)
    return pd.DataFrame(values)


def require_as_written(path: Path, table: Table, text: str) -> None:
    """Raises: SparseheadError with the first line that is not the one that was written, where that is known."""
    line = changed_line(path, text.encode())
    if line is not None:
        remedy = f"{table.remedy} If it is right as it is, remove {witness(path)}."
        raise damaged(path, table, line, "it is not what was written", remedy)


def text_of(path: Path, table: Table) -> str | None:
    """What is in a file, None where there is none. Raises: SparseheadError for no text, and for a file that cannot be read."""
    try:
        data = read_regular(path)
        text = data.decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise damaged(path, table, data[: error.start].count(b"\n"), "it is not UTF-8 text") from None
    except OSError as error:
        raise SparseheadError(f"cannot read {path}: {error.strerror}. Move it away, or mend it.") from None
    if not text:
        raise SparseheadError(f"{path} is empty. {remedy_of_all(table)}")
    if not text.endswith("\n"):
        raise damaged(path, table, text.count("\n"), "it is cut off")
    return text


def parsed(path: Path, table: Table, text: str) -> list[list[str]]:
    """The cells of each line, all lines as long as the first. Raises: SparseheadError where it is otherwise."""
    reader, lines = csv.reader(io.StringIO(text, newline=""), strict=True), []
    try:
        for cells in reader:
            if reader.line_num != len(lines) + 1 or (lines and len(cells) != len(lines[0])):
                raise damaged(path, table, len(lines), f"it has {len(cells)} cells, where the first line has {len(lines[0])}")
            lines.append(cells)
    except csv.Error as error:
        raise damaged(path, table, len(lines), str(error)) from None
    return lines


def of_today(table: Table, columns: list[str], cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table of an older version with today's names: renamed columns, "" for nan, and groups as part of the penalty's name."""
    if "groups" in columns and "groups" not in table.renamed and "penalty" in columns:  # once a column of its own
        kind, penalty = columns.index("groups"), columns.index("penalty")
        for row in cells:
            row[penalty] = penalty_name(row[penalty], row[kind])
            del row[kind]
        columns = columns[:kind] + columns[kind + 1 :]
    columns = [table.renamed.get(column, column) for column in columns]
    for place in [i for i, column in enumerate(columns) if column in table.empty]:
        for row in cells:
            row[place] = "" if row[place] == "nan" else row[place]
    return columns, cells


def require_columns(path: Path, table: Table, columns: list[str]) -> None:
    """Raises: SparseheadError for columns that are missing, twice there, or not of this table."""
    missing = [column for column in table.columns if column not in (*columns, *table.added, *table.usual)]
    if missing:
        few = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise SparseheadError(
            f"{path} has no column {few}: its first line is damaged, or it is another table. {remedy_of_all(table)}"
        )
    behind = ""  # the last declared column
    for i, column in enumerate(columns):
        known = column in table.columns
        if column in columns[:i] or not (known or (column.isidentifier() and behind == table.extra != "")):
            raise damaged(path, table, 0, f"{column[:40]!a} is twice a column, or none of this table")
        behind = column if known else behind


def require_rows(path: Path, table: Table, columns: list[str], cells: list[list[str]], remedy: str) -> None:
    """Raises: SparseheadError for the first cell that is not of its column's kind, and for rows that do not go together."""
    wrong: dict[int, str] = {}
    for column, values in zip(columns, zip(*cells, strict=True), strict=False):
        kind = COLUMNS[column].kind if column in table.columns else "number"
        empty = column in table.empty or column not in table.columns
        fits = {value: empty if value == "" else KINDS[kind](value) for value in set(values)}
        if not all(fits.values()):
            line, value = next((i, value) for i, value in enumerate(values) if not fits[value])
            wrong.setdefault(line, f"{column} is {value[:40]!a}, which is no {kind}" if value else f"{column} is missing")
    if wrong:
        raise damaged(path, table, 1 + min(wrong), wrong[min(wrong)], remedy)
    if not table.key:
        return
    places = [columns.index(column) for column in table.key if column in columns]  # all rows may have the usual value
    keys = [tuple(row[place] for place in places) for row in cells]
    require_sequence(path, table, keys, remedy)
    if table.falls:
        before = math.inf
        for i, row in enumerate(cells):
            value = float(row[columns.index(table.falls)])
            if value > before and counted(table, keys[i])[1] != "1":
                raise damaged(path, table, 1 + i, f"{table.falls} is larger than in the line before", remedy)
            before = value


def counted(table: Table, key: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """A row's key without the column that counts, and that column's value."""
    place = table.key.index(table.counts)
    return key[:place] + key[place + 1 :], key[place]


def require_sequence(path: Path, table: Table, keys: list[tuple[str, ...]], remedy: str) -> None:
    """Raises: SparseheadError for a key that comes twice, a count that leaves one out, and blocks that differ."""
    seen: set[tuple[str, ...]] = set()
    last: dict[tuple[str, ...], int] = {}
    for i, key in enumerate(keys):
        if key in seen:
            raise damaged(path, table, 1 + i, f"it is a second line of {', '.join(filter(None, key))}", remedy)
        seen.add(key)
        if table.counts:
            rest, count = counted(table, key)
            if count != str(last.get(rest, 0) + 1):
                raise damaged(path, table, 1 + i, f"{table.counts} is {count} where {last.get(rest, 0) + 1} belongs", remedy)
            last[rest] = int(count)
    if table.repeats:
        place = table.key.index(table.repeats)
        blocks: dict[str, list[tuple[str, ...]]] = {}
        for i, key in enumerate(keys):
            block = blocks.setdefault(key[place], [])
            if key[place] != next(reversed(blocks)):
                raise damaged(path, table, 1 + i, f"{table.repeats} is {key[place]}, which was over before", remedy)
            block.append(key[:place] + key[place + 1 :])
        first, end = next(iter(blocks.values()), []), 0
        for value, block in blocks.items():
            end += len(block)
            if block != first:
                raise damaged(path, table, end, f"{table.repeats} {value} ends here with other lines than the first", remedy)


def damaged(path: Path, table: Table, line: int, why: str, remedy: str = "") -> SparseheadError:
    """The one sentence for a damaged line, counted from 0."""
    remedy = remedy or (table.remedy if line else f"It names the columns. {remedy_of_all(table)}")
    return SparseheadError(f"{path} is damaged in line {line + 1}: {why}. {remedy}")


def remedy_of_all(table: Table) -> str:
    """What to do about a table that is of no use as a whole. A run's cannot be removed: its checkpoint needs them."""
    return PUT_BACK if table.remedy == PUT_BACK else "Put the file back, or remove it."
