"""What does a head keep, and what does it throw away? The study on images whose factors are known.

    sparsehead sweep-lambda --experiment factors      # the runs: six λ, five seeds
    python benchmarks/factors.py                      # results/factors: factors.csv, factors.png, factors.svg; a table for the docs

Evaluates every finished run of the sweep by the protocol `factors` where that is not done yet, gathers the rows in factors.csv, and
draws them: what a linear read-out gets of each factor from r, from z, and from the parts of r that the head reads and does not
read, and how far similarity in r and in z is that of the factors that the views keep, and of those that they change. Means over
seeds with 95 % intervals by Student's t, in the table paired differences to λ 0. `--drawn` draws the table that is there.
"""

import argparse
from pathlib import Path
from statistics import fmean

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.present.figures import OKABE_ITO, STYLE, save_figure
from sparsehead_cli.present.figures_sweep import lam_places
from sparsehead_cli.runs.table_files import frame, read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN
from sparsehead_cli.study.results import read_sweep
from sparsehead_cli.study.stats import differences, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "factors"
READ_OUTS = {
    "shape_accuracy": "shape (accuracy)",
    "texture_accuracy": "texture (accuracy)",
    "colour_r2": "colour (R²)",
    "x_r2": "place across (R²)",
    "y_r2": "place upright (R²)",
    "size_r2": "size (R²)",
    "ground_r2": "ground (R²)",
}
SIMILAR = {"kept": "factors that the views keep", "changed": "factors that they change"}
PARTS = {"r": "r", "z": "z", "read": "part of r that the head reads", "unread": "the rest of r"}
TOLD = {  # (features, metric) -> a line of the table for the docs
    ("z", "cka_kept"): "z, similarity of the factors that the views keep (CKA)",
    ("z", "cka_changed"): "z, similarity of those that they change (CKA)",
    ("r", "cka_kept"): "r, similarity of the factors that the views keep (CKA)",
    ("r", "cka_changed"): "r, similarity of those that they change (CKA)",
    ("z", "shape_accuracy"): "z, shape (kept; accuracy)",
    ("z", "texture_accuracy"): "z, texture (kept; accuracy)",
    ("z", "y_r2"): "z, place upright (changed; R²)",
    ("z", "colour_r2"): "z, colour (changed; R²)",
    ("r", "shape_accuracy"): "r, shape (kept; accuracy)",
    ("r", "texture_accuracy"): "r, texture (kept; accuracy)",
    ("r", "y_r2"): "r, place upright (changed; R²)",
    ("r", "colour_r2"): "r, colour (changed; R²)",
}
TITLES = {"cka": "similarity of all pairs: linear CKA", "rank_correlation": "rank correlation over pairs"}


def gathered(folder: Path) -> list[dict[str, object]]:
    """The rows of factors.csv, of every finished run of the sweep."""
    rows = []
    for run in read_sweep(folder):
        measured, _ = evaluate(EvaluateRequest(checkpoint=folder / run, protocols=("factors",)))
        rows += [{column: row[column] for column in (*RUN, "features", "metric", "value", "low", "high")} for row in measured]
        print(f"{run}: {len(measured)} numbers")
    return rows


def over_lam(ax: Axes, rows: pd.DataFrame, places: dict[float, float], shift: float, **look: object) -> None:
    """Means over seeds against λ with their intervals; λ 0 is not joined with the others."""
    intervals = {lam: mean_interval(list(of_lam["value"])) for lam, of_lam in rows.groupby("lam")}
    at, means = [places[lam] + shift for lam in intervals], [mean for mean, _, _ in intervals.values()]
    ends = [[mean - low for mean, low, _ in intervals.values()], [high - mean for mean, _, high in intervals.values()]]
    ax.errorbar(at, means, ends, capsize=2, lw=1.2, ms=4, ls="", **look)
    ax.plot(at[1:], means[1:], lw=1, color=look["color"])


def figure_of(rows: pd.DataFrame) -> Figure:
    """Six panels: read-outs from each part of r, from z, and the two kinds of similarity."""
    places = lam_places(sorted(rows["lam"].unique()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.6), layout="constrained")
        axes = figure.subplots(2, 3)
        for ax, (part, title) in zip([*axes[0, :2], *axes[1, :2]], PARTS.items(), strict=True):
            for number, (metric, name) in enumerate(READ_OUTS.items()):
                chosen = rows[(rows["features"] == part) & (rows["metric"] == metric)]
                if len(chosen):
                    over_lam(ax, chosen, places, 0.03 * (number - 3), fmt="o", color=OKABE_ITO[number], label=name)
            ax.set_title(f"read out of {title}")
            ax.set_ylim(-0.05, 1.05)
        for ax, (kind, title) in zip(axes[:, 2], TITLES.items(), strict=True):
            for number, (what, name) in enumerate(SIMILAR.items()):
                for features, marker in (("r", "o"), ("z", "s")):
                    chosen = rows[(rows["features"] == features) & (rows["metric"] == f"{kind}_{what}")]
                    over_lam(
                        ax,
                        chosen,
                        places,
                        0.05 * (number - 0.5),
                        fmt=marker,
                        color=OKABE_ITO[4 * number],
                        label=f"{features}: {name}",
                    )
            ax.set_title(title)
        for ax in axes.flat:
            ax.set_xticks(list(places.values()), [f"{lam:g}" for lam in places], rotation=45, ha="right", fontsize=7.5)
        for ax in axes[1]:
            ax.set_xlabel("λ (log)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower left", ncols=4)
        similar, names = axes[0, 2].get_legend_handles_labels()
        figure.legend(similar, names, frameon=False, fontsize=8, loc="outside lower right", ncols=1)
    return figure


def told(rows: pd.DataFrame) -> str:
    """A table of Markdown: means at λ 0, and paired differences to it with half of their 95 % interval."""
    lams = sorted(rows["lam"].unique())
    lines = ["| | " + " | ".join(f"λ {lam:g}" for lam in lams) + " |", "|---" * (len(lams) + 1) + "|"]
    for (features, metric), name in TOLD.items():
        of = rows[(rows["features"] == features) & (rows["metric"] == metric)]
        if of.empty:
            continue
        by_lam = {lam: of_lam.set_index("seed")["value"].to_dict() for lam, of_lam in of.groupby("lam")}
        zero = by_lam.pop(0.0)
        cells = [f"{fmean(zero.values()):.2f}"]
        for values in by_lam.values():
            mean, low, _ = mean_interval(differences(values, zero))
            cells.append(f"{mean:+z.2f} ± {mean - low:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="of the sweep")
    parser.add_argument("--drawn", action="store_true", help="draw factors.csv as it is")
    options = parser.parse_args()
    table = options.folder / "factors.csv"
    if not options.drawn:
        replace_csv(table, gathered(options.folder))
    rows = frame(read_csv(table))
    print(told(rows))
    for path in save_figure(figure_of(rows), options.folder / "factors"):
        print(path)


if __name__ == "__main__":
    main()
