"""The console that everything is printed on, and tables on it.

What it is given is text: no markup, no emoji names, no colours of its own.
"""

from types import TracebackType
from typing import Self

import rich.box
import rich.console
import rich.table
from rich.cells import cell_len
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from sparsehead_cli.errors import Stopped, one_line, printable
from sparsehead_cli.machine.streams import SIGPIPE, close_output
from sparsehead_cli.present.table import Cell, Column, Table

LEAST_WORD = 10  # characters of a word in a text that is not broken
LONGEST = 1_000  # characters of a text that are shown


class Console(rich.console.Console):
    r"""Prints names, paths and cells as they are written, "[/red]" and ":smile:", and control characters as escapes, "\x1b"."""

    def __init__(self, *, quiet: bool = False, stderr: bool = False) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, quiet=quiet, stderr=stderr)

    def render_str(self, text: str, **options: object) -> Text:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """rich would end the process without a word."""
        close_output()
        raise Stopped("stopped: nobody reads the output any more. The same command goes on.", 128 + SIGPIPE)


def emphasis(line: str) -> str:
    """The style of a line about somebody else's checkpoint: what is not loaded is red, what is guessed yellow."""
    return "bold red" if line.startswith("NOT ") else "yellow" if line.startswith("guessed") else ""


def progress_bar(console: Console, before: str, after: str) -> Progress:
    """A bar between two texts, such as "{task.percentage:.0f} %", that is seen on a terminal while something lasts."""
    columns: list[ProgressColumn] = [TextColumn(before, markup=False), BarColumn(), TextColumn(after, markup=False), TimeLeft()]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class TimeLeft(TimeRemainingColumn):
    """The time that is left, with the word; nothing where it is not known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.time_remaining is None else f"{super().render(task)} left", style="progress.remaining")


class Display:
    """What a command shows while it works: lines, and on a terminal something that moves until the display is left."""

    def __init__(self, console: Console, moving: Progress | Status | Live | None = None) -> None:
        self.console, self.moving = console, moving

    def __enter__(self) -> Self:
        if self.moving:
            self.moving.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.moving:
            self.moving.stop()

    def say(self, line: str | Text, style: str = "") -> None:
        """Print a line, however long it is."""
        self.console.print(line, style=style, soft_wrap=True)


def print_table(console: rich.console.Console, table: Table) -> None:
    """Print a table as `terminal_table` makes it for the console's width."""
    console.print(terminal_table(table, console.width))


def print_notes(console: rich.console.Console, tables: list[Table]) -> None:
    """Print what a reader of the tables has to know, a line each."""
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        print_sentence(console, f" {note}", "dim")


def print_sentence(console: rich.console.Console, text: str, style: str = "") -> None:
    """Print a sentence. A terminal would break it within a number or word where it is full; in a file it stays one line."""
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def terminal_table(table: Table, width: int) -> rich.table.Table:
    """A table for a console of this width: its numbers are never broken, headings and texts share what room is left."""
    drawn = rich.table.Table(title=one_line(table.title, LONGEST), title_justify="left", title_style="bold")
    roomy = width >= table.wide
    columns = headings(table.columns, roomy)
    drawn.show_header = any(title for _, title in columns)
    lines = [cell_texts(table.columns, line, roomy) for line in table.lines]
    least, natural = [], []
    for i, (column, title) in enumerate(columns):
        cells = "\n".join(line[i] for line in lines)
        word = min(LEAST_WORD, longest([*title.split(), *cells.replace("λ ", "λ_").split()]))  # λ stays beside its number
        least.append(word if column.text else max(word, longest(cells.split("\n"))))
        natural.append(longest([*title.split("\n"), *cells.split("\n")]))
    room = width - 3 * len(columns) - 1
    drawn.pad_edge = sum(least) <= room
    room += 0 if drawn.pad_edge else 2
    if sum(least) > room:  # lines from top to bottom are the first thing that a narrow table can do without
        drawn.box, drawn.show_edge, drawn.padding, room = rich.box.HORIZONTALS, False, (0, 1, 0, 0), width - 2 * len(columns) + 1
    widths = shared(least, natural, room)
    for (column, title), space in zip(columns, widths, strict=True):
        drawn.add_column(title, width=space, justify="left" if column.text else "right", overflow="fold")
    name = ""
    for i, line in enumerate(lines):
        if table.columns[0].text:  # what a block of lines is about is said in its first
            line[0], name = "" if line[0] == name else line[0], line[0]
        drawn.add_row(*line, end_section=table.ruled, style="bold" if i in table.marked else None)
    return drawn


def shared(least: list[int], natural: list[int], room: int) -> list[int]:
    """The widths of columns: at least `least`; what room is left goes to the narrowest that is narrower than it would be."""
    widths = list(least)
    for _ in range(room - sum(least)):
        wanting = [i for i, width in enumerate(widths) if width < natural[i]]
        if wanting:
            widths[min(wanting, key=lambda i: widths[i])] += 1
    return widths


def headings(columns: list[Column], roomy: bool) -> list[tuple[Column, str]]:
    """The columns that a terminal shows, with their headings; one whose cells are below others has its heading there, too."""
    shown: list[tuple[Column, str]] = []
    for column in columns:
        heading = column.name if column.short is None else column.short
        if column.below and heading:
            shown[-1] = (shown[-1][0], f"{shown[-1][1]}\n{heading}")
        elif not column.below and (roomy or not column.minor):
            shown.append((column, heading))
    return shown


def cell_texts(columns: list[Column], line: list[Cell], roomy: bool) -> list[str]:
    """A line of a table, for the columns that `headings` has: intervals and the cells below are lines of their own."""
    texts: list[str] = []
    for column, cell in zip(columns, line, strict=True):
        text, interval = one_line(column.written(cell), LONGEST), column.interval(cell)
        if column.below:
            texts[-1] += "\n" + column.below.format(text) if cell.defined else ""
        elif roomy or not column.minor:
            behind = f" ({interval})" if roomy else f"\n{interval}"
            texts.append(text + (behind if interval else ""))
    return texts


def longest(texts: list[str]) -> int:
    """How many columns of a terminal the longest text takes."""
    return max(map(cell_len, texts), default=0)
