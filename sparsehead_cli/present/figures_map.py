"""A sweep of several settings at one glance: what λ changes in each, as a heat map in which noise is grey."""

import math
from collections.abc import Hashable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import STYLE
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.summary import COLLAPSED, SETTING, base_in_words, excludes_zero, name_of

PANELS = {  # metric -> (title, whether in percent of the base line, since the methods' ranks are far apart)
    "accuracy": ("linear probe of r, points", False),
    "effective_rank_r": ("effective rank of r, %", True),
    "effective_rank_z": ("effective rank of z, %", True),
}
COLORS, NOISE, TEXT = colormaps["PuOr"], "#ececec", "#8a8a8a"
LINE, HEADING, CELL = 0.27, 1.5, 0.52  # inches of a line, of what is above and below, and of a column


def has_map(summary: list[Row]) -> bool:
    """Whether rows of sweep_summary.csv have what a map compares: settings with mostly the same λ, and intervals of differences.

    Of `--lams auto` each setting may have values of its own, so that most squares would be empty; of one seed all would be grey.
    """
    compared = [row for row in summary if row["metric"] == "accuracy" and not math.isnan(number(row["difference_low"]))]
    settings = {tuple(str(row[column]) for column in SETTING) for row in compared}
    lams = {float(row["lam"]) for row in compared}
    return len(settings) > 1 and 2 * len(compared) > len(settings) * len(lams)


def map_figure(summary: list[Row]) -> Figure:
    """Paired differences to λ 0 without regularisers, a line a setting and a column a λ; a panel each for the probe and the ranks.

    Rows of sweep_summary.csv. Grey: the 95 % interval includes 0, or there is none. λ 0 has a column where regularisers without any
    λ are compared. Colours end where the largest difference of a panel does.
    """
    rows = frame(summary, text=SETTING)
    settings = list(dict.fromkeys(rows[list(SETTING)].itertuples(index=False, name=None)))
    lams = sorted(rows.loc[rows["difference"].notna(), "lam"].unique())
    names = [name_of(dict(zip(SETTING, setting, strict=True)), summary) for setting in settings]
    widest = 0.075 * max(map(len, names))
    with matplotlib.rc_context(STYLE):
        size = (widest + 0.6 + 3 * (CELL * len(lams) + 0.35), HEADING + LINE * len(settings))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for ax, (metric, (title, relative)) in zip(axes, PANELS.items(), strict=True):
            cells = rows[rows["metric"] == metric].set_index([*SETTING, "lam"]).to_dict("index")
            draw_map(ax, [[cells.get((*setting, lam)) for lam in lams] for setting in settings], relative=relative)
            ax.set_title(title)
            ax.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams], rotation=45, ha="right", fontsize=7.5)
            ax.set_xlabel("λ")
        axes[0].set_yticks(range(len(settings)), names)
        figure.suptitle(heading_of(rows))
    return figure


def heading_of(rows: pd.DataFrame) -> str:
    """What is compared, and what colours mean: nothing in one of twenty."""
    cells = rows.loc[rows["metric"].isin(PANELS), "difference_low"].notna().sum()
    counts = sorted({int(count) for count in rows["seeds"]})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return (
        f"Paired differences to {base_in_words(rows.to_dict('records'))}, means over {seeds}\n"
        f"grey: the 95 % interval includes 0; of {cells} squares without any effect\n"
        f"about {max(1, round(cells / 20))} would have a colour. ×: r or z has collapsed"
    )


def draw_map(ax: Axes, lines: list[list[dict[Hashable, object] | None]], *, relative: bool) -> None:
    """One panel: a square for each row of the summary, None where there is none."""
    values = np.array([[difference_of(row, relative=relative) for row in line] for line in lines])
    shown = np.array([[is_shown(row) for row in line] for line in lines])
    most = np.abs(values[np.isfinite(values)]).max(initial=0) or 1.0
    norm = Normalize(-most, most)
    for y, line in enumerate(lines):
        for x, row in enumerate(line):
            value = values[y, x]
            if row is None or (math.isnan(value) and row["chosen"] != COLLAPSED):
                continue
            color = COLORS(1 - norm(value)) if shown[y, x] else NOISE
            ax.add_patch(matplotlib.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, fc=color, ec="white"))
            text = ("" if math.isnan(value) else written(value)) + ("×" if row["chosen"] == COLLAPSED else "")
            on = TEXT if not shown[y, x] else "white" if abs(value) > 0.5 * most else "black"
            ax.text(x, y, text, ha="center", va="center", fontsize=6.5, color=on)
    ax.set(xlim=(-0.5, len(lines[0]) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def difference_of(row: dict[Hashable, object] | None, *, relative: bool) -> float:
    """A row's difference in percent of the base line's mean, or in points; NaN where it is not defined."""
    if row is None:
        return math.nan
    base = float(row["mean"]) - float(row["difference"])
    return 100 * float(row["difference"]) / (base if relative and base else 1)


def is_shown(row: dict[Hashable, object] | None) -> bool:
    """Whether the interval of a row's difference leaves 0 out."""
    return row is not None and excludes_zero(row)


def written(value: float) -> str:
    """A difference in few characters."""
    return f"{value:+z.0f}" if abs(value) >= 9.95 else f"{value:+z.1f}"
