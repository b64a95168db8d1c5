"""The figure of sequences of tasks."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsehead_cli.present.figures import COLUMN, GREY, color_of, legend_below, look
from sparsehead_cli.study.continual import Matrix

BESIDE = {False: 3, True: 2}  # heat maps in a row, and those of a paper
DASHES, MARKERS = ("-", "--", "-.", ":"), "os^D"  # of settings


def tasks_figure(matrices: dict[tuple[str, float], Matrix], lams: list[float], *, paper: bool = False) -> Figure:
    """R of each setting and λ (a mean over its seeds) as a heat map; below, the mean accuracy on the tasks seen so far.

    A colour a λ among `lams`, those of the page; a dash and a marker a setting.
    """
    beside = min(BESIDE[paper], len(matrices))
    rows, settings = math.ceil(len(matrices) / beside), list(dict.fromkeys(setting for setting, _ in matrices))
    with matplotlib.rc_context(look(paper=paper)):
        map_height, line_height = (1.9, 2.2) if paper else (2.35, 2.5)
        size = (COLUMN if paper else max(6.0, 2.6 * beside), rows * map_height + line_height)
        figure = Figure(figsize=size, layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(rows * map_height, line_height))
        panels = above.subplots(rows, beside, squeeze=False)
        low = min(value for matrix in matrices.values() for row in matrix for value in row)
        for axes, matrix, name in zip(panels.flat, matrices.values(), names_of(matrices), strict=False):
            image = heat_map(axes, matrix, low)
            axes.set_title(name.replace(", ", "\n") if paper else name)
        for axes in panels.flat[len(matrices) :]:
            axes.set_visible(False)
        for first, *others in panels:
            first.set_ylabel("after task")
            for axes in others:
                axes.set_yticklabels([])
        above.colorbar(image, ax=panels, label="linear accuracy", shrink=0.8, **({"location": "top"} if paper else {}))
        axes, looks = (
            below.subplots(),
            {setting: {"ls": DASHES[i % 4], "marker": MARKERS[i % 4]} for i, setting in enumerate(settings)},
        )
        for (setting, lam), matrix in matrices.items():
            seen = [100 * sum(matrix[t][:t]) / t for t in range(1, len(matrix))]
            axes.plot(range(1, len(matrix)), seen, ms=4, lw=1.2, color=color_of(lam, lams), **looks[setting])
        handles = [
            Line2D([], [], color=color_of(lam, lams), label=f"λ {lam:g}") for lam in dict.fromkeys(lam for _, lam in matrices)
        ]
        if len(settings) > 1:
            handles += [Line2D([], [], color=GREY, ms=4, label=setting, **looks[setting]) for setting in settings]
        axes.set(xlabel="tasks seen", ylabel="mean accuracy, %", xticks=range(1, len(matrix)))
        axes.grid(axis="y", color=GREY, alpha=0.2)
        legend_below(below, handles)
    return figure


def names_of(matrices: dict[tuple[str, float], Matrix]) -> list[str]:
    """What tells the matrices apart: λ, and the setting where there are several."""
    several = len({setting for setting, _ in matrices}) > 1
    return [f"{setting}, λ {lam:g}" if several else f"λ {lam:g}" for setting, lam in matrices]


def heat_map(axes: Axes, matrix: Matrix, low: float) -> object:
    """R with its numbers, in %."""
    image = axes.imshow(matrix, cmap="cividis", vmin=low, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(np.array(matrix)):
        color = "white" if value < (1 + low) / 2 else "black"
        axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=color)
    tasks = range(1, len(matrix))
    axes.set(xlabel="accuracy on task", xticks=range(len(tasks)), xticklabels=tasks)
    axes.set(yticks=range(len(matrix)), yticklabels=["untrained", *tasks])
    axes.spines[:].set_visible(False)
    return image
