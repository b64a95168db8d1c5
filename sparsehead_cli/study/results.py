"""The tables of a study, read so that a damaged line is told with its number and never becomes part of a result."""

import csv
import io
import math
from collections import Counter
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.study.summary import NUMBERS, SETTING

Row = dict[str, str]
SWEEP_CSV, SUMMARY_CSV, CURVES_CSV, PRUNED_CSV, FIGURE = "sweep.csv", "sweep_summary.csv", "curves.csv", "pruned.csv", "sweep"
WHOLE = ("seed", "epochs", "epoch", "images", "index")
SHARES = ("accuracy", "accuracy_z", "knn_accuracy", "val_accuracy", "best_knn_accuracy")


def read_table(
    path: Path,
    texts: tuple[str, ...],
    numbers: tuple[str, ...],
    perhaps: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    remedy: str = "Mend or remove that line.",
) -> list[Row]:
    """The rows of a table as text, exactly as written; [] where there is no file.

    Columns of `texts` and `numbers` are in every row, and numbers are numbers; those of `perhaps` are numbers or empty,
    those of `words` may be empty.

    Raises: SparseheadError with the line where it is otherwise and the `remedy`; for columns that are missing.
    """
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(text_of(path, remedy), newline=""), strict=True)
    rows, read = [], 0
    try:
        if reader.fieldnames is None:
            raise SparseheadError(f"{path} is empty. Put it back, or remove it: its trials are then run again.")
        missing = [column for column in (*texts, *numbers, *perhaps, *words) if column not in (reader.fieldnames or ())]
        if missing:
            raise SparseheadError(f"{path} has no column {', '.join(missing)}: its first line is damaged, or it is another table.")
        for row in reader:
            whole = None not in row and None not in row.values() and all(row[column] for column in texts)
            if not (whole and all(is_number(c, row[c]) for c in (*numbers, *perhaps) if c in numbers or row[c])):
                raise damaged(path, reader.line_num, remedy)
            rows.append(row)
            read = reader.line_num
    except csv.Error:  # a quote that nobody closes swallows the rest: the line is where it began
        raise damaged(path, read + 1, remedy) from None
    return rows


def text_of(path: Path, remedy: str) -> str:
    """What is in a file. Raises: SparseheadError with the line of what is no text; for a file that cannot be read."""
    try:
        data = path.read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        raise damaged(path, data[: error.start].count(b"\n") + 1, remedy) from None
    except OSError as error:
        raise SparseheadError(f"cannot read {path}: {error.strerror}.") from None


def damaged(path: Path, line: int, remedy: str) -> SparseheadError:
    """The one sentence for a damaged line."""
    head = "It names the columns: put the file back, or remove it."
    return SparseheadError(f"{path} is damaged in line {line}. {head if line == 1 else remedy}")


def is_number(column: str, text: str) -> bool:
    """Whether it is a number as we write them: accuracies in [0, 1], λ and counts finite; what else was measured may be nan."""
    if column in WHOLE:
        return text.isdecimal()
    try:
        number = float(text)
    except ValueError:
        return False
    return 0 <= number <= 1 if column in SHARES else math.isfinite(number) or column != "lam"


def read_pruned(folder: Path) -> list[Row]:
    """Rows of pruned.csv. Raises: SparseheadError for a damaged one."""
    texts = ("run", *(column for column in SETTING if column != "epochs"))
    return read_table(folder / PRUNED_CSV, texts, ("lam", "seed", "epochs", "epoch", "knn_accuracy", "best_knn_accuracy"))


def read_sweep(folder: Path) -> dict[str, Row]:
    """run -> its row of sweep.csv, in the order of the file. Raises: SparseheadError for a damaged one."""
    rows = read_trials(folder / SWEEP_CSV, "Mend or remove that line; its trial is then run again, if its folder is gone, too.")
    for run in (run for run, lines in Counter(row["run"] for row in rows).items() if lines > 1):
        raise SparseheadError(f"{folder / SWEEP_CSV} has two lines of {run}. Remove the wrong one.")
    return {row["run"]: row for row in rows}


def read_trials(path: Path, remedy: str) -> list[Row]:
    """Rows of sweep.csv or of one trial's own file. Raises: SparseheadError for a damaged one."""
    texts = ("run", "commit", *(column for column in SETTING if column != "epochs"))
    return read_table(path, texts, ("lam", "seed", "epochs", *NUMBERS), remedy=remedy)
