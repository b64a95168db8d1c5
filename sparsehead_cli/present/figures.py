"""Figures, made from the rows of tables alone. The colours (Okabe & Ito, viridis, cividis) keep apart for colour-blind eyes."""

import io
import math
import os
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.measure.spectrum import NUMERICAL, effective_rank
from sparsehead_cli.runs.readable import number
from sparsehead_cli.study.labels import SETTING, groups, is_sequence
from sparsehead_cli.study.stats import mean_interval

Row = dict[str, str]
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
    bands = in_bands(metrics)
    lams = sorted({float(row["lam"]) for row in metrics if row["lam"] != ""})
    shown = [name for name in PANELS if any(row["features"] == name for row in eigenvalues)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(shown) + 3.6, 3.7 if len(bands) == 1 else 1.1 + 2.2 * len(bands)), layout="constrained")
        axes = figure.subplots(len(bands), len(shown) + 1, squeeze=False)
        handles: dict[object, Line2D] = {}
        for line, (band, rows) in zip(axes, bands.items(), strict=True):
            looks = styles(rows, lams if len(bands) > 1 else None)
            tasks = {task for look in looks.values() for task in look.tasks}
            for ax, name in zip(line, shown, strict=False):
                curves(ax, [row for row in eigenvalues if row["features"] == name and row["task"] in tasks], looks)
            ranks(line[-1], [row for row in rows if row["metric"] == "effective_rank"], looks, shown)
            line[0].set_ylabel(f"{band}\neigenvalue / largest" if band else "eigenvalue / largest eigenvalue")
            for label, look in looks.items():
                said = f"λ {look.lam:g}" if band else label
                handles[look.lam if band else label] = Line2D([], [], color=look.color, ls=look.dash, label=said)
        handles = dict(sorted(handles.items())) if len(bands) > 1 else handles
        for ax in axes[1:, -1]:
            ax.get_legend().remove()
        widest = max(ax.get_xlim()[1] for ax in axes[:, -1])
        for ax in axes[:, -1]:
            ax.set_xlim(0, widest)
        for ax, title in zip(axes[0], (*(PANELS[name] for name in shown), "effective rank"), strict=True):
            ax.set_title(title)
        handles[""] = Line2D([], [], color=GREY, ls=":", lw=1, label=f"collapsed dimensions are below {NUMERICAL:g}")
        columns = min(5, len(handles))
        figure.legend(handles=list(handles.values()), frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        seen = dict.fromkeys(f"{int(row['images']):,} images of {row['eval_dataset']} ({row['split']})" for row in metrics)
        figure.suptitle(f"Eigenvalues of the centred covariance on {', '.join(seen)}")
    return figure


def in_bands(metrics: list[Row]) -> dict[str, list[Row]]:
    """What sets runs apart besides λ and seed -> their rows, if some of them have several values of λ; else all under ""."""
    columns = [column for column in SETTING if column != "lam" and len({row[column] for row in metrics}) > 1]
    bands: dict[str, list[Row]] = defaultdict(list)
    for row in metrics:
        bands[", ".join(row[column] for column in columns)].append(row)
    series = any(len({row["lam"] for row in rows}) > 1 for rows in bands.values())
    return bands if series and all(row["lam"] != "" for row in metrics) else {"": metrics}


@dataclass(frozen=True)
class Look:
    """How one group of checkpoints is drawn, and which it has."""

    tasks: list[str]
    lam: float | None
    color: object
    dash: str


def styles(metrics: list[Row], lams: list[float] | None = None) -> dict[str, Look]:
    """label -> look. Groups that differ in λ alone go from dark to light, by place in `lams`; others' colours keep apart."""
    found = groups(metrics)
    lam_of = {row["task"]: row["lam"] for row in metrics}
    ordered = is_sequence(metrics, found)
    looks = {}
    for i, (label, tasks) in enumerate(found.items()):
        lam = float(lam_of[tasks[0]]) if lam_of[tasks[0]] != "" else None
        place, most = (lams.index(lam), len(lams)) if lams else (i, len(found))
        color = colormaps["viridis"](0.85 * place / max(1, most - 1)) if ordered or lams else OKABE_ITO[i % len(OKABE_ITO)]
        looks[label] = Look(tasks, lam, color, DASHES[place % len(DASHES)])
    return looks


def curves(ax: Axes, rows: list[Row], looks: dict[str, Look]) -> None:
    """One line a checkpoint: its eigenvalues over the largest, against their rank."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(float(row["eigenvalue"]))
    for look in looks.values():
        for task in look.tasks:
            values = by_task.get(task, [])
            top = values[0] if values and values[0] > 0 else 1.0
            visible = sum(value > FLOOR * top for value in values)
            kept = [max(value / top, FLOOR) for value in values[: visible + 1]]  # one more: the line goes down to the floor
            ax.plot(range(1, len(kept) + 1), kept, color=look.color, ls=look.dash, lw=1.3, marker="." if len(kept) < 2 else None)
    ax.axhline(NUMERICAL, color=GREY, ls=":", lw=1)
    ax.set(yscale="log", ylim=(FLOOR, 2), xlabel=f"rank of the eigenvalue, of {max(map(len, by_task.values()), default=0)}")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def ranks(ax: Axes, rows: list[Row], looks: dict[str, Look], shown: list[str]) -> None:
    """Effective ranks, a line a group: single checkpoints with their bootstrap interval, of several seeds mean and t-interval."""
    for i, look in enumerate(looks.values()):
        for name, marker, shift in (("r", "o", 0.13), ("z", "s", -0.13)):
            found = [row for row in rows if row["features"] == name and row["task"] in look.tasks]
            if not found:
                continue
            values, y = [number(row["value"]) for row in found], len(looks) - 1 - i + shift
            middle, low, high = mean_interval(values) if len(values) > 1 else (values[0], *bounds(found[0]))
            ax.plot([low, high], [y, y], color=look.color, lw=1.5)
            ax.plot(middle, y, marker, color=look.color, ms=6, mfc=look.color if name == "r" else "white")
            if len(values) > 1:
                ax.plot(values, [y] * len(values), "|", color=look.color, ms=8)
    ax.set_yticks(range(len(looks)), ["\n".join(textwrap.wrap(label, 18)) for label in looks][::-1])
    ax.set(ylim=(-0.6, len(looks) - 0.4), xlabel="effective rank (95 % interval)")
    ax.set_xlim(left=0)
    ax.grid(axis="x", color="#dddddd", lw=0.6)
    marks = {
        "r": ("o", GREY),
        "z": ("s", "white"),
        **({"a seed": ("|", GREY)} if any(len(k.tasks) > 1 for k in looks.values()) else {}),
    }
    handles = [
        Line2D([], [], color=GREY, ls="", marker=m, mfc=fill, label=n) for n, (m, fill) in marks.items() if n in (*shown, "a seed")
    ]
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="best")


def bounds(row: Row) -> tuple[float, float]:
    """A row's interval, or NaN where it has none."""
    return number(row["low"]), number(row["high"])


def over_time_figure(runs: dict[str, list[Row]]) -> Figure:
    """How spectra came about: heat maps of eigenvalue / largest over epoch and rank, for r and z of each run.

    `runs` maps a label to a run's rows of spectrum_epochs.csv. The white line is the effective rank, the dashed one how many
    eigenvalues are above the collapse threshold.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.7 + 2.6 * len(runs)), layout="constrained")
        axes = figure.subplots(len(runs), 2, squeeze=False)
        for line, (label, rows) in zip(axes, runs.items(), strict=True):
            for ax, name in zip(line, PANELS, strict=True):
                image = heat_map(ax, [row for row in rows if row["features"] == name])
            line[0].set_ylabel(f"{label}\nrank of the eigenvalue (log)")
        for ax, name in zip(axes[0], PANELS, strict=True):
            ax.set_title(PANELS[name])
        for ax in axes[-1]:
            ax.set_xlabel("epoch, of those that were kept")
        figure.colorbar(image, ax=axes, label="log10(eigenvalue / largest)", shrink=0.9)
        figure.suptitle("Spectra over training, on the held-out images")
    return figure


def heat_map(ax: Axes, rows: list[Row]) -> QuadMesh:
    """One panel: log10(eigenvalue / largest), a column an epoch, a line a rank."""
    by_epoch: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_epoch[row["epoch"]].append(float(row["eigenvalue"]))
    spectra = np.array(list(by_epoch.values()))
    shares = np.clip(spectra / np.maximum(spectra[:, :1], 1e-300), FLOOR, None)
    epochs, dim = spectra.shape
    edges = np.arange(epochs + 1) - 0.5, np.arange(dim + 1) + 0.5
    image = ax.pcolormesh(*edges, np.log10(shares).T, cmap="cividis", vmin=math.log10(FLOOR), vmax=0, rasterized=True)
    ax.set(yscale="log", ylim=(0.5, dim + 0.5))
    ax.yaxis.set_major_formatter("{x:g}")
    effective = [effective_rank(torch.from_numpy(values)) for values in spectra]
    line = {"color": "white", "lw": 1.5, "path_effects": [withStroke(linewidth=3, foreground="black")]}
    ax.plot(range(epochs), effective, marker="o", ms=3, label="effective rank", **line)
    ax.plot(range(epochs), (shares > NUMERICAL).sum(axis=1), ls="--", label=f"eigenvalues above {NUMERICAL:g}", **line)
    ax.set_xticks(range(epochs), by_epoch)
    ax.legend(fontsize=7, loc="upper left", facecolor="#333333", labelcolor="white", framealpha=0.7)
    return image
