"""What a table is made of: columns of a kind, and what rows have to fulfil together. The tables are in `tables.py`."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """What a name means in every table: its kind (a key of KINDS), its unit ("" for none) and its meaning."""

    kind: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """The columns of one CSV, in the order in which they are written, and what its rows have to fulfil together.

    `empty` names columns whose cells may be empty, `added` those that files of older versions lack. Columns of numbers that
    are not declared (a method's loss terms) may follow directly behind `extra`. No two rows agree in all columns of `key`.
    `counts`, one of `key`, goes 1, 2, 3, … among rows that agree in the rest of it, so that a lost line is noticed; `falls`
    never rises meanwhile. All values of `repeats`, one of `key`, have the same rows otherwise. `usual` has values of columns that
    stand in a file only where a row has another one. `renamed` has names of older versions; `remedy` says what to do about a
    damaged line.
    """

    columns: tuple[str, ...]
    empty: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    extra: str = ""
    key: tuple[str, ...] = ()
    counts: str = ""
    falls: str = ""
    repeats: str = ""
    usual: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    remedy: str = "Mend or remove that line."


NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
LONGEST = 4096  # characters of a cell; more is damage


def is_number(text: str, low: float = -float("inf"), high: float = float("inf")) -> bool:
    """Whether a cell is a finite number as Python writes it, from `low` to `high`."""
    return bool(NUMBER.fullmatch(text)) and abs(value := float(text)) != float("inf") and low <= value <= high


KINDS: dict[str, Callable[[str], bool]] = {
    "text": lambda text: len(text) <= LONGEST and text.isprintable(),
    "truth": lambda text: text in ("True", "False"),
    "whole": lambda text: len(text) <= 18 and text.isascii() and text.isdigit(),
    "share": lambda text: is_number(text, 0, 1),
    "amount": lambda text: is_number(text, 0),
    "number": is_number,
}
