"""Panels on sheets: a column a setting, a row a number. All places are in inches.

A layout engine would look at every label several times, which takes longer than drawing them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import COLUMN, wrapped

COLUMNS = 3  # settings beside each other: as many as can be read on a printed page
SHARES = "active groups, %"  # label of panels whose axis goes from 0 to 100
SHARE_LIMITS = (-2, 104)  # of shares in %, with room for the markers at 0 and 100
ANYWHERE = (0, 0, 1, 1)  # panels have their places once it is known what is written around them
MARGIN, GAP = 0.07, 0.13  # inches around a figure and its headings, and between the rows of panels
HEADING_LINE, TITLE_LINE = 0.176, 0.165  # inches that a line of these needs
LABEL, NUMBERS = 0.2, 0.47  # inches for the labels at the left, and mostly for the numbers beside the first panels
BETWEEN = 0.2  # inches between panels beside each other: the numbers are those of the first
HIGH = {False: 1.48, True: 0.98}  # inches: the height of a panel, and that in a paper
LEGEND_LINE = 0.17  # inches
BEYOND = "_beyond"  # label, in no legend, of arrows where an interval is cut off


Band = dict[str, list[Axes]]  # settings beside each other: label of a row -> its panels, a column each


class Sheet(NamedTuple):
    """A figure, its bands from top to bottom, and how high a panel is."""

    figure: Figure
    bands: list[Band]
    high: float

    @property
    def rows(self) -> list[list[Axes]]:
        """All rows of panels, from top to bottom."""
        return [row for band in self.bands for row in band.values()]


def panel_sheets(
    settings: Sequence[Any], labels_of: Callable[[list[Any]], Sequence[str]], *, whole: bool, paper: bool = False
) -> list[Sheet]:
    """Figures with a column of panels a setting, COLUMNS of them beside each other (of a paper, one), and a row a label.

    `labels_of` gives the rows of panels that settings beside each other have. Where settings are more, the `whole` figure goes on
    below; else there is a figure for each COLUMNS of them.
    """
    beside = 1 if paper else COLUMNS
    parts = [list(settings[first : first + beside]) for first in range(0, len(settings), beside)]
    sheets = []
    for of_figure in [parts] if whole else [[part] for part in parts]:
        figure = Figure(figsize=(COLUMN if paper else 1.2 + 2.55 * len(of_figure[0]), 1))
        bands = [{label: [figure.add_axes(ANYWHERE) for _ in part] for label in labels_of(part)} for part in of_figure]
        for band in bands:
            for label, row in band.items():
                row[0].set_ylabel(label)
                for ax in row[1:]:
                    ax.tick_params(labelleft=False)
        sheets.append(Sheet(figure, bands, HIGH[paper]))
    return sheets


def tells(numbers: pd.Series) -> bool:
    """Whether numbers say something: they differ, or there is one alone. Where all are the same a panel would show nothing."""
    return numbers.nunique() > 1 or (len(numbers) == 1 and bool(numbers.notna().all()))


def columns_of(sheets: list[Sheet]) -> list[dict[str, Axes]]:
    """The panels of each setting by their labels, from top to bottom."""
    bands = [band for sheet in sheets for band in sheet.bands]
    return [dict(zip(band, column, strict=True)) for band in bands for column in zip(*band.values(), strict=True)]


def arrange(sheet: Sheet, heading: str, names: float, below: float = 0.0) -> None:
    """Put a sheet's panels in their places, once they have their contents and titles, under the heading, and set its height.

    `names` is the room in inches for what is written under the axis of a band's last row, `below` that for what is under all.
    """
    width, _ = sheet.figure.get_size_inches()
    lines = wrapped(heading, width)
    top = MARGIN + (HEADING_LINE * (1 + lines.count("\n")) + MARGIN if lines else 0.0)
    first = [next(iter(band.values())) for band in sheet.bands]  # row of each
    titles = [TITLE_LINE * max(1 + ax.get_title().count("\n") for ax in row) + MARGIN for row in first]
    height = top + below
    for band, title in zip(sheet.bands, titles, strict=True):
        height += title + len(band) * (sheet.high + GAP) - GAP + names
    sheet.figure.set_size_inches(width, height)
    if lines:
        sheet.figure.suptitle(lines, y=1 - MARGIN / height, va="top")
    place(sheet, height - top, titles, names, NUMBERS)  # how high a panel is decides which numbers it has
    place(sheet, height - top, titles, names, max(room_of_numbers(row[0]) for row in sheet.rows))


def place(sheet: Sheet, top: float, titles: list[float], names: float, numbers: float) -> None:
    """Put panels below `top`, with room for `titles` and `names` and, at the left of the first ones, `numbers`; all in inches."""
    (width, height), bands = sheet.figure.get_size_inches(), sheet.bands
    columns = max(map(len, sheet.rows))
    left = LABEL + numbers
    wide = (width - left - MARGIN - BETWEEN * (columns - 1)) / columns
    for band, title in zip(bands, titles, strict=True):
        bottom = top - title - sheet.high
        for row in band.values():
            for k, ax in enumerate(row):
                ax.set_position(((left + k * (wide + BETWEEN)) / width, bottom / height, wide / width, sheet.high / height))
            row[0].yaxis.set_label_coords((LABEL - left) / wide, 0.5)
            bottom -= sheet.high + GAP
        top = bottom + sheet.high + GAP - names


def room_of_numbers(ax: Axes) -> float:
    """How many inches the numbers at the left of an axis need, with the ticks and a gap."""
    low, high = sorted(ax.get_ylim())
    at = [y for y in ax.get_yticks() if low <= y <= high]
    return 0.17 + 0.075 * max(map(len, ax.yaxis.get_major_formatter().format_ticks(at)), default=0)


def equal_axes(columns: list[dict[str, Axes]], points: str = "") -> None:
    """Give the same number the same axis everywhere, with room for markers at both ends.

    Intervals of few seeds would leave the means a flat line: half as far as the means and seeds go, which are the lines with the
    label `points`, they are cut off, with an arrow at the end.
    """
    for label in dict.fromkeys(label for panels in columns for label in panels):
        alike = [panels[label] for panels in columns if label in panels]
        ends, seeds = [], []
        for ax in alike:
            ends += [end for end in ax.dataLim.intervaly if math.isfinite(end)]
            for line in ax.lines:
                seeds += [y for y in line.get_ydata() if line.get_label() == points and math.isfinite(y)]
        if seeds:
            beyond = (max(seeds) - min(seeds)) / 2
            ends = [min(max(end, min(seeds) - beyond), max(seeds) + beyond) for end in ends]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        for ax in alike:  # of shares all: 0 and 100 mean something
            ax.set_ylim(SHARE_LIMITS if label == SHARES else (low - room, high + room))
            if label != SHARES:
                point_beyond(ax)


def point_beyond(ax: Axes) -> None:
    """An arrow at the edge of a panel for each interval that goes on beyond it."""
    low, high = ax.get_ylim()
    for drawn in ax.containers:
        bars = drawn.lines[2][0]
        for (x, lower), (_, upper) in filter(len, bars.get_segments()):  # empty where an interval is not defined
            for is_beyond, edge, arrow in ((lower < low, low, "v"), (upper > high, high, "^")):
                if is_beyond:
                    ax.plot(x, edge, arrow, color=bars.get_color()[0], ms=5, clip_on=False, label=BEYOND)


def rows_of_legend(figure: Figure, handles: Sequence[Artist]) -> float:
    """Draw a legend at the lower end of a sheet: the inches that it needs."""
    if not handles:
        return MARGIN
    width, _ = figure.get_size_inches()
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(width / (0.5 + 0.066 * longest))))
    middle = {"loc": "lower center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 0.3}
    figure.legend(handles=list(handles), ncols=columns, **middle)
    return MARGIN + LEGEND_LINE * math.ceil(len(handles) / columns) + MARGIN
