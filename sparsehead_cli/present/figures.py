"""Figures, made from the rows of tables alone. The colours (Okabe & Ito, viridis, cividis) keep apart for colour-blind eyes."""

import io
import math
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.measure.dimensions import NUMERICAL, effective_rank
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.labels import SETTING, groups, is_sequence, measured_on
from sparsehead_cli.study.stats import mean_interval

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999933")
DASHES = ("-", "--", "-.")
GREY = "#666666"
FORMATS = ("png", "svg", "pdf")
FLOOR = 1e-7  # of the largest eigenvalue: below is rounding, and out of the picture
PANELS = {"r": "representation r", "z": "embedding z"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "sparsehead",  # the same figure has the same bytes
}


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in the format of the path's ending, or without one as .png and .svg; the paths written.

    Raises: SparseheadError for another ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    paths = [path] if ending else [path.with_name(f"{path.name}.{kind}") for kind in FORMATS[:2]]
    check_figure(path)
    for target in paths:
        replace_file(target, drawn(figure, target.suffix.removeprefix(".").lower()))
    return paths


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as a file of one of FORMATS; the same bytes each time."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else None
    with matplotlib.rc_context(STYLE):
        if engine := figure.get_layout_engine():  # laid out once, instead of anew for every format
            engine.execute(figure)
            figure.set_layout_engine(None)  # "none" would leave a placeholder, for which each format is drawn twice
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def check_figure(path: Path) -> None:
    """Make its folder. Raises: SparseheadError for an ending that is none of FORMATS, or a folder that cannot be written."""
    ending = path.suffix.removeprefix(".").lower()
    if ending and ending not in FORMATS:
        raise SparseheadError(
            f'--figure {path}: a figure is .png, .svg or .pdf, or without an ending both .png and .svg; given "{path.suffix}".'
        )
    make_folder(path.parent, "Draw elsewhere: --figure.")
    if not os.access(path.parent, os.W_OK):
        raise SparseheadError(f"cannot write --figure {path}: its folder is read-only. Draw elsewhere.")


def spectra_figure(eigenvalues: list[Row], metrics: list[Row]) -> Figure:
    """Eigenvalues of r and of z against their rank, one colour a checkpoint, and the effective ranks beside them.

    Runs that differ only in their seed share a colour; methods or settings with several values of λ have a row of panels each.
    Rows of spectrum.csv and spectrum_metrics.csv.
    """
    bands, spectra = in_bands(metrics), frame(eigenvalues)
    lams = sorted({float(row["lam"]) for row in metrics if row["lam"] != ""})
    features = [name for name in PANELS if (spectra["features"] == name).any()]
    handles: dict[object, Line2D] = {}  # of the legend, by λ where there are several bands, else by label
    with matplotlib.rc_context(STYLE):
        height = 3.7 if len(bands) == 1 else 1.1 + 2.2 * len(bands)
        figure = Figure(figsize=(3.1 * len(features) + 3.6, height), layout="constrained")
        axes = figure.subplots(len(bands), len(features) + 1, squeeze=False)
        for panels, (band, rows) in zip(axes, bands.items(), strict=True):
            lines = styles(rows, lams if len(bands) > 1 else None)
            for ax, name in zip(panels, features, strict=False):
                draw_spectra(ax, spectra[spectra["features"] == name], lines)
            draw_ranks(panels[-1], rows, lines, features)
            panels[0].set_ylabel(f"{band}\neigenvalue / largest" if band else "eigenvalue / largest eigenvalue")
            for label, line in lines.items():
                name = f"λ {line.lam:g}" if band else label
                handles[line.lam if band else label] = Line2D([], [], color=line.color, ls=line.dash, label=name)
        for ax in axes[1:, -1]:
            ax.get_legend().remove()
        widest = max(ax.get_xlim()[1] for ax in axes[:, -1])
        for ax in axes[:, -1]:
            ax.set_xlim(0, widest)
        for ax, title in zip(axes[0], (*(PANELS[name] for name in features), "effective rank"), strict=True):
            ax.set_title(title)
        named = [handles[key] for key in (sorted(handles) if len(bands) > 1 else handles)]
        named.append(Line2D([], [], color=GREY, ls=":", lw=1, label=f"collapsed dimensions are below {NUMERICAL:g}"))
        figure.legend(handles=named, frameon=False, fontsize=8, loc="outside lower center", ncols=min(5, len(named)))
        figure.suptitle(f"Eigenvalues of the centred covariance on {measured_on(metrics)}")
    return figure


def in_bands(metrics: list[Row]) -> dict[str, list[Row]]:
    """What sets runs apart besides λ and seed -> their rows, if some of them have several values of λ; else all under ""."""
    columns = [column for column in SETTING if column != "lam" and len({row[column] for row in metrics}) > 1]
    bands: dict[str, list[Row]] = {}
    for row in metrics:
        bands.setdefault(", ".join(row[column] for column in columns), []).append(row)
    series = any(len({row["lam"] for row in rows}) > 1 for rows in bands.values())
    return bands if series and all(row["lam"] != "" for row in metrics) else {"": metrics}


@dataclass(frozen=True)
class LineStyle:
    """How one group of checkpoints is drawn, and which it has."""

    tasks: list[str]
    lam: float | None
    color: object
    dash: str


def styles(metrics: list[Row], lams: list[float] | None = None) -> dict[str, LineStyle]:
    """label -> style. Groups that differ in λ alone go from dark to light, by place in `lams`; others' colours keep apart."""
    grouped = groups(metrics)
    ordered = is_sequence(metrics, grouped)
    lam_of = {row["task"]: row["lam"] for row in metrics}
    lines = {}
    for i, (label, tasks) in enumerate(grouped.items()):
        lam = float(lam_of[tasks[0]]) if lam_of[tasks[0]] != "" else None
        place, most = (lams.index(lam), len(lams)) if lams else (i, len(grouped))
        color = colormaps["viridis"](0.85 * place / max(1, most - 1)) if ordered or lams else OKABE_ITO[i % len(OKABE_ITO)]
        lines[label] = LineStyle(tasks, lam, color, DASHES[place % len(DASHES)])
    return lines


def draw_spectra(ax: Axes, spectra: pd.DataFrame, lines: dict[str, LineStyle]) -> None:
    """One line a checkpoint: its eigenvalues over the largest, against their rank."""
    by_task = {task: values.to_numpy() for task, values in spectra.groupby("task")["eigenvalue"]}
    longest = 0
    for line in lines.values():
        for task in line.tasks:
            values = by_task.get(task, np.empty(0))
            longest = max(longest, len(values))
            top = values[0] if len(values) and values[0] > 0 else 1.0
            visible = np.count_nonzero(values > FLOOR * top)
            shares = np.maximum(values[: visible + 1] / top, FLOOR)  # one more: the line goes down to the floor
            marker = "." if len(shares) < 2 else None
            ax.plot(range(1, len(shares) + 1), shares, color=line.color, ls=line.dash, lw=1.3, marker=marker)
    ax.axhline(NUMERICAL, color=GREY, ls=":", lw=1)
    ax.set(yscale="log", ylim=(FLOOR, 2), xlabel=f"rank of the eigenvalue, of {longest}")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def draw_ranks(ax: Axes, metrics: list[Row], lines: dict[str, LineStyle], features: list[str]) -> None:
    """Effective ranks, a line a group: single checkpoints with their bootstrap interval, of several seeds mean and t-interval."""
    numbers = frame(metrics)
    ranks = numbers[numbers["metric"] == "effective_rank"]
    for i, line in enumerate(lines.values()):
        for name, marker, shift in (("r", "o", 0.13), ("z", "s", -0.13)):
            rows = ranks[(ranks["features"] == name) & ranks["task"].isin(line.tasks)]
            if rows.empty:
                continue
            values, y = list(rows["value"]), len(lines) - 1 - i + shift
            middle, low, high = values[0], rows["low"].iloc[0], rows["high"].iloc[0]
            if len(values) > 1:
                middle, low, high = mean_interval(values)
            ax.plot([low, high], [y, y], color=line.color, lw=1.5)
            ax.plot(middle, y, marker, color=line.color, ms=6, mfc=line.color if name == "r" else "white")
            if len(values) > 1:
                ax.plot(values, [y] * len(values), "|", color=line.color, ms=8)
    ax.set_yticks(range(len(lines)), ["\n".join(textwrap.wrap(label, 18)) for label in lines][::-1])
    ax.set(ylim=(-0.6, len(lines) - 0.4), xlabel="effective rank (95 % interval)")
    ax.set_xlim(left=0)
    ax.grid(axis="x", color="#dddddd", lw=0.6)
    marks = {name: mark for name, mark in {"r": ("o", GREY), "z": ("s", "white")}.items() if name in features}
    if any(len(line.tasks) > 1 for line in lines.values()):
        marks["a seed"] = ("|", GREY)
    handles = [Line2D([], [], color=GREY, ls="", marker=mark, mfc=fill, label=name) for name, (mark, fill) in marks.items()]
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="best")


def over_time_figure(runs: dict[str, list[Row]]) -> Figure:
    """How spectra came about: heat maps of eigenvalue / largest over epoch and rank, for r and z of each run.

    `runs` maps a label to a run's rows of spectrum_epochs.csv. The white line is the effective rank, the dashed one how many
    eigenvalues are above the collapse threshold.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.7 + 2.6 * len(runs)), layout="constrained")
        axes = figure.subplots(len(runs), 2, squeeze=False)
        for panels, (label, rows) in zip(axes, runs.items(), strict=True):
            spectra = frame(rows)
            for ax, name in zip(panels, PANELS, strict=True):
                image = heat_map(ax, spectra[spectra["features"] == name])
            panels[0].set_ylabel(f"{label}\nrank of the eigenvalue (log)")
        for ax, name in zip(axes[0], PANELS, strict=True):
            ax.set_title(PANELS[name])
        for ax in axes[-1]:
            ax.set_xlabel("epoch, of those that were kept")
        figure.colorbar(image, ax=axes, label="log10(eigenvalue / largest)", shrink=0.9)
        figure.suptitle("Spectra over training, on the held-out images")
    return figure


def heat_map(ax: Axes, rows: pd.DataFrame) -> QuadMesh:
    """One panel: log10(eigenvalue / largest), a column an epoch, a line a rank."""
    by_epoch = dict(list(rows.groupby("epoch", sort=False)["eigenvalue"]))
    spectra = np.array(list(by_epoch.values()))
    shares = np.clip(spectra / np.maximum(spectra[:, :1], 1e-300), FLOOR, None)
    epochs, dim = spectra.shape
    edges = np.arange(epochs + 1) - 0.5, np.arange(dim + 1) + 0.5
    image = ax.pcolormesh(*edges, np.log10(shares).T, cmap="cividis", vmin=math.log10(FLOOR), vmax=0, rasterized=True)
    ax.set(yscale="log", ylim=(0.5, dim + 0.5))
    ax.yaxis.set_major_formatter("{x:g}")
    effective = [effective_rank(values) for values in spectra]
    line = {"color": "white", "lw": 1.5, "path_effects": [withStroke(linewidth=3, foreground="black")]}
    ax.plot(range(epochs), effective, marker="o", ms=3, label="effective rank", **line)
    ax.plot(range(epochs), (shares > NUMERICAL).sum(axis=1), ls="--", label=f"eigenvalues above {NUMERICAL:g}", **line)
    ax.set_xticks(range(epochs), [f"{epoch:g}" for epoch in by_epoch])
    ax.legend(fontsize=7, loc="upper left", facecolor="#333333", labelcolor="white", framealpha=0.7)
    return image
