"""Figures of spectra: eigenvalues and effective ranks of checkpoints, and how they came over training."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.measure.dimensions import COLLAPSED_RANK, NUMERICAL, effective_rank
from sparsehead_cli.present.figures import COLUMN, GREY, OKABE_ITO, color_of, legend_below, look, mark, wrapped
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.labels import SETTING, groups, is_sequence, measured_on, say
from sparsehead_cli.study.stats import mean_interval

DASHES = ("-", "--", "-.")
FLOOR = 1e-7  # of the largest eigenvalue: below is rounding, and out of the picture
PANELS = {"r": "representation r", "z": "embedding z"}
MARKERS = {"r": "o", "z": "s"}
COLLAPSED = "X"  # the marker of an effective rank below COLLAPSED_RANK
MOST_EPOCHS = 8  # that are written at an axis


def spectra_figure(
    eigenvalues: list[Row], metrics: list[Row], lams: Sequence[float] = (), *, name: str = "", paper: bool = False
) -> Figure:
    """Eigenvalues of r and of z against their rank, one colour a checkpoint, and the effective ranks beside them.

    Runs that differ only in their seed share a colour; methods or settings with several values of λ have a row of panels each.
    Rows of spectrum.csv and spectrum_metrics.csv. `lams` are those of the whole page, by which λ have their colours; without them
    the figure's own. For a `paper`, in a column: panels are below each other, and there is one setting, which may have a `name`.
    """
    bands, spectra = in_bands(metrics), frame(eigenvalues)
    lams = lams or sorted({float(row["lam"]) for row in metrics if row["lam"] != ""})
    features = [name for name in PANELS if (spectra["features"] == name).any()]
    handles: dict[object, Line2D] = {}  # of the legend, by λ where there are several bands, else by label
    with matplotlib.rc_context(look(paper=paper)):
        figure, axes = spectra_panels(len(bands), len(features) + 1, paper=paper)
        for panels, (band, rows) in zip(axes, bands.items(), strict=True):
            lines = styles(rows, lams, named=len(bands) > 1)
            counts = {row["task"]: int(row["images"]) for row in rows}
            for ax, of in zip(panels, features, strict=False):
                draw_spectra(ax, spectra[spectra["features"] == of], lines, counts)
            draw_ranks(panels[-1], rows, lines)
            for ax in panels[: len(features) if paper else 1]:
                ax.set_ylabel("eigenvalue /\nlargest (log)" if paper else f"{band}\neigenvalue / largest (log)".strip())
            by_lam = bool(band) or is_sequence(rows, groups(rows))
            for label, line in lines.items():
                said = f"λ {line.lam:g}" if by_lam else label
                handles[line.lam if band else label] = Line2D([], [], color=line.color, ls=line.dash, label=said)
        widest = max(ax.get_xlim()[1] for ax in axes[:, -1])
        for ax in axes[:, -1]:
            ax.set_xlim(0, 1.05 * widest)
        for ax, title in zip(axes[0], (*(PANELS[of] for of in features), "effective rank"), strict=True):
            ax.set_title(f"{name}: {title}" if name and ax is axes[0, 0] else title)
        named = [handles[key] for key in (sorted(handles) if len(bands) > 1 else handles)]
        crossed = any(line.get_marker() == COLLAPSED for ax in axes[:, -1] for line in ax.lines)
        legend_below(figure, [*named, *rank_marks(metrics, features, crossed=crossed)])
        if not paper:
            heading = f"Eigenvalues of the centred covariance on {measured_on(metrics)}"
            figure.suptitle(wrapped(heading, figure.get_size_inches()[0]))
    return figure


def spectra_panels(bands: int, beside: int, *, paper: bool) -> tuple[Figure, np.ndarray]:
    """A figure and its panels, [bands, beside]; those of a `paper`, which has one band, are below each other."""
    if paper:
        figure = Figure(figsize=(COLUMN, 1.6 * beside + 0.7), layout="constrained")
        return figure, figure.subplots(beside, bands, squeeze=False).T
    figure = Figure(figsize=(3.1 * beside + 0.5, 3.7 if bands == 1 else 1.1 + 2.2 * bands), layout="constrained")
    return figure, figure.subplots(bands, beside, squeeze=False)


def rank_marks(metrics: list[Row], features: Sequence[str], *, crossed: bool) -> list[Line2D]:
    """What a legend says of the effective ranks, of which some may be crosses, and of the dotted line."""
    marks = [mark(name, MARKERS[name], mfc=GREY if name == "r" else "white") for name in features]
    if any(len(tasks) > 1 for tasks in groups(metrics).values()):
        marks.append(mark("a seed", "|"))
    if crossed:
        marks.append(mark("collapsed", COLLAPSED))
    return [*marks, Line2D([], [], color=GREY, ls=":", lw=1, label="below: collapsed")]


def spectra_caption(metrics: list[Row]) -> str:
    """What a reader of `spectra_figure` has to know."""
    parts = [
        "Eigenvalues of the centred covariance of r and z over the largest, as many as there can be (the width, or the images less "
        f"one), and effective ranks. Below {NUMERICAL:g} of the largest (dotted) a dimension counts as collapsed, and below an "
        f"effective rank of {COLLAPSED_RANK:g} (crosses) all of r or z."
    ]
    grouped = groups(metrics)
    if any(len(tasks) > 1 for tasks in grouped.values()):
        parts.append("Effective ranks of several seeds: the mean and its 95 % interval (Student's t); bars are single seeds.")
    if any(len(tasks) == 1 for tasks in grouped.values()):
        parts.append("Effective ranks of a single checkpoint have a 95 % interval by bootstrap over what was measured on.")
    if len({frozenset(row["lam"] for row in rows) for rows in in_bands(metrics).values()}) > 1:
        parts.append("Not every row has the same λ: it has those whose checkpoints were measured, which its right panel names.")
    return " ".join(parts)


def in_bands(metrics: list[Row]) -> dict[str, list[Row]]:
    """What sets runs apart besides λ and seed -> their rows, if some of them have several values of λ; else all under ""."""
    columns = [column for column in SETTING if column != "lam" and len({row[column] for row in metrics}) > 1]
    bands: dict[str, list[Row]] = {}
    for row in metrics:
        bands.setdefault(", ".join(say(column, row[column]) for column in columns), []).append(row)
    series = any(len({row["lam"] for row in rows}) > 1 for rows in bands.values())
    return bands if series and all(row["lam"] != "" for row in metrics) else {"": metrics}


@dataclass(frozen=True)
class LineStyle:
    """How one group of checkpoints is drawn, and which it has."""

    tasks: list[str]
    lam: float | None
    color: object
    dash: str


def styles(metrics: list[Row], lams: Sequence[float] = (), *, named: bool = False) -> dict[str, LineStyle]:
    """label -> style. Groups that differ in λ alone, or are `named` by it, have the colours of λ in `lams`; others keep apart."""
    grouped = groups(metrics)
    by_lam = named or is_sequence(metrics, grouped)
    lam_of = {row["task"]: row["lam"] for row in metrics}
    lams = lams or sorted({float(lam) for lam in lam_of.values() if lam != ""})
    lines = {}
    for i, (label, tasks) in enumerate(grouped.items()):
        lam = float(lam_of[tasks[0]]) if lam_of[tasks[0]] != "" else None
        place = lams.index(lam) if by_lam else i
        color = color_of(lam, lams) if by_lam else OKABE_ITO[i % len(OKABE_ITO)]
        lines[label] = LineStyle(tasks, lam, color, DASHES[place % len(DASHES)])
    return lines


def draw_spectra(ax: Axes, spectra: pd.DataFrame, lines: dict[str, LineStyle], images: dict[str, int]) -> None:
    """One line a checkpoint: its eigenvalues over the largest, against their rank.

    Of N `images` there are at most N - 1 that are more than rounding.
    """
    by_task = {task: values.to_numpy() for task, values in spectra.groupby("task")["eigenvalue"]}
    longest = 0
    for line in lines.values():
        for task in line.tasks:
            values = by_task.get(task, np.empty(0))[: images[task] - 1]
            longest = max(longest, len(values))
            top = values[0] if len(values) and values[0] > 0 else 1.0
            visible = np.count_nonzero(values > FLOOR * top)
            shares = np.maximum(values[: visible + 1] / top, FLOOR)  # one more: the line goes down to the floor
            marker = "." if len(shares) < 2 else None
            ax.plot(range(1, len(shares) + 1), shares, color=line.color, ls=line.dash, lw=1.3, marker=marker)
    ax.axhline(NUMERICAL, color=GREY, ls=":", lw=1)
    ax.set(yscale="log", ylim=(FLOOR, 2), xlabel=f"rank of the eigenvalue, of {longest}")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def draw_ranks(ax: Axes, metrics: list[Row], lines: dict[str, LineStyle]) -> None:
    """Effective ranks, a line a group: single checkpoints with their bootstrap interval, of several seeds mean and t-interval."""
    numbers = frame(metrics)
    ranks = numbers[numbers["metric"] == "effective_rank"]
    for i, line in enumerate(lines.values()):
        for name, shift in (("r", 0.13), ("z", -0.13)):
            rows = ranks[(ranks["features"] == name) & ranks["task"].isin(line.tasks)]
            if rows.empty:
                continue
            values, y = list(rows["value"].fillna(0)), len(lines) - 1 - i + shift  # without variance there are no dimensions
            middle, low, high = values[0], rows["low"].iloc[0], rows["high"].iloc[0]
            if len(values) > 1:
                middle, low, high = mean_interval(values)
            marker = MARKERS[name] if middle >= COLLAPSED_RANK else COLLAPSED
            ax.plot([low, high], [y, y], color=line.color, lw=1.5)
            ax.plot(middle, y, marker, color=line.color, ms=6, mfc=line.color if name == "r" else "white")
            if len(values) > 1:
                ax.plot(values, [y] * len(values), "|", color=line.color, ms=8)
    ax.set_yticks(range(len(lines)), ["\n".join(textwrap.wrap(label, 18)) for label in lines][::-1])
    ax.set(ylim=(-0.6, len(lines) - 0.4), xlabel="effective rank (95 % interval)")
    ax.set_xlim(left=0)
    ax.grid(axis="x", color="#dddddd", lw=0.6)
    ax.set_axisbelow(True)


def over_time_figure(runs: dict[str, list[Row]], *, paper: bool = False) -> Figure:
    """How spectra came about: heat maps of eigenvalue / largest over epoch and rank, for r and z of each run.

    `runs` maps a label to a run's rows of spectrum_epochs.csv. The white line is the effective rank, the dashed one how many
    eigenvalues are above the collapse threshold.
    """
    with matplotlib.rc_context(look(paper=paper)):
        size = (COLUMN, 1.1 + 1.6 * len(runs)) if paper else (8, 0.9 + 2.5 * len(runs))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(runs), 2, squeeze=False, sharex="row")
        for panels, (label, rows) in zip(axes, runs.items(), strict=True):
            spectra = frame(rows)
            for ax, name in zip(panels, PANELS, strict=True):
                image = heat_map(ax, spectra[spectra["features"] == name])
            panels[0].set_ylabel(f"{label}\nrank{'' if paper else ' of the eigenvalue'} (log)")
        for ax, name in zip(axes[0], PANELS, strict=True):
            ax.set_title(PANELS[name])
        for ax in axes[-1]:
            ax.set_xlabel("epoch")
        label = "log10(eigenvalue / largest)"
        place = {"location": "top", "pad": 0.02, "aspect": 40} if paper else {"shrink": 0.9}
        figure.colorbar(image, ax=axes, label=label, **place)
        grey = {"color": "white", "path_effects": STROKE}
        handles = [
            Line2D([], [], marker="o", ms=3, label="effective rank", **grey),
            Line2D([], [], ls="--", label=f"eigenvalues above {NUMERICAL:g}", **grey),
        ]
        legend_below(figure, handles)
        if not paper:
            nouns = dict.fromkeys(noun_of(rows[0]["dataset"]) for rows in runs.values())
            figure.suptitle(f"Spectra over training, on the held-out {' and '.join(nouns)}")
    return figure


def heat_map(ax: Axes, rows: pd.DataFrame) -> QuadMesh:
    """One panel: log10(eigenvalue / largest), a line a rank, a column a tracked epoch, which reaches half way to the next ones."""
    by_epoch = dict(list(rows.groupby("epoch", sort=False)["eigenvalue"]))
    spectra, epochs = np.array(list(by_epoch.values())), np.array(list(by_epoch), dtype=float)
    shares = np.clip(spectra / np.maximum(spectra[:, :1], 1e-300), FLOOR, None)
    dim = spectra.shape[1]
    edges = edges_of(epochs), np.arange(dim + 1) + 0.5
    image = ax.pcolormesh(*edges, np.log10(shares).T, cmap="cividis", vmin=math.log10(FLOOR), vmax=0, rasterized=True)
    ax.set(yscale="log", ylim=(0.5, dim + 0.5), xlim=(edges[0][0], edges[0][-1]))
    ax.yaxis.set_major_formatter("{x:g}")
    line = {"color": "white", "lw": 1.5, "path_effects": STROKE}
    ax.plot(epochs, [effective_rank(values) for values in spectra], marker="o", ms=3, **line)
    ax.plot(epochs, (shares > NUMERICAL).sum(axis=1), ls="--", **line)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=MOST_EPOCHS, integer=True))
    return image


def edges_of(epochs: np.ndarray) -> np.ndarray:
    """Where columns begin and end whose middles are, but for the outer ones, half way between epochs."""
    if len(epochs) == 1:
        return np.array([epochs[0] - 0.5, epochs[0] + 0.5])
    middles = (epochs[1:] + epochs[:-1]) / 2
    return np.concatenate([[epochs[0] - (middles[0] - epochs[0])], middles, [epochs[-1] + (epochs[-1] - middles[-1])]])


STROKE = [withStroke(linewidth=3, foreground="black")]
