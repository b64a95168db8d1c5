"""What all figures have in common: their look, one colour a λ, legends below the panels, and the files.

The colours (Okabe & Ito, plasma, cividis) keep apart for colour-blind eyes, and on white paper.
"""

import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import make_folder, replace_file

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999933")
GREY = "#666666"
BAND = "#e6e6e6"  # of what lies behind the numbers
LAM_COLORS = ListedColormap(colormaps["plasma"](np.linspace(0.1, 0.66, 256)))  # neither black, which is λ 0, nor light
FORMATS = ("png", "svg", "pdf")
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 10.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,  # a number stands whole at its tick, and not beside the axis
    "svg.hashsalt": "sparsehead",  # the same figure has the same bytes
    "pdf.fonttype": 42,  # letters that a publisher's program can read
}
PAPER = {
    **STYLE,
    "font.size": 8,
    **dict.fromkeys(("axes.titlesize", "figure.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 8),
    "axes.linewidth": 0.6,
}
COLUMN = 3.25  # inches: the width of a column in a paper
PAPER_FOLDER = "paper"
PER_INCH = 12  # characters of a heading, about


def look(*, paper: bool) -> dict[str, Any]:
    """The settings of matplotlib for a page or terminal, or for a column of a paper."""
    return PAPER if paper else STYLE


def save_figure(figure: Figure, path: Path, kinds: Sequence[str] = FORMATS[:2]) -> list[Path]:
    """Write a figure in the format of the path's ending, or without one in all `kinds`; the paths written.

    Raises: SparseheadError for another ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    paths = [path] if ending else [path.with_name(f"{path.name}.{kind}") for kind in kinds]
    check_figure(path)
    for target in paths:
        replace_file(target, drawn(figure, target.suffix.removeprefix(".").lower()))
    return paths


def save_for_paper(figures: dict[str, list[Figure]], folder: Path) -> list[Path]:
    """Write figures as `folder`/paper/NAME.svg and .pdf, NAME-1 and so on where they are several; the paths written."""
    paths = []
    for name, of_name in figures.items():
        for number, figure in enumerate(of_name, 1):
            path = folder / PAPER_FOLDER / (name if len(of_name) == 1 else f"{name}-{number}")
            paths += save_figure(figure, path, FORMATS[1:])
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


def color_of(lam: float, lams: Sequence[float]) -> object:
    """Black for λ 0; else by log λ from dark to light among `lams`, which rise. One page has one list, and a λ one colour there."""
    if lam == 0:
        return "black"
    above = [other for other in lams if other > 0]
    span = math.log(above[-1] / above[0])
    return LAM_COLORS(math.log(lam / above[0]) / span if span else 0.5)


def wrapped(text: str, inches: float) -> str:
    """A heading in lines that are no wider than so many inches."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, int(PER_INCH * inches)))


def mark(label: str, marker: str, color: object = GREY, **more: object) -> Line2D:
    """What a legend shows of a marker."""
    return Line2D([], [], ls="", marker=marker, color=color, label=label, **more)


def legend_below(figure: FigureBase, handles: Sequence[Artist]) -> None:
    """A legend under all panels, where it covers nothing; the figure's layout engine, or that of its part, makes the room."""
    width = figure.bbox.width / figure.dpi
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(width / (0.5 + 0.066 * longest))))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)
