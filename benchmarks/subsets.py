"""Does a mini-batch need only a few of r's features, and how many as it grows? The paper's claim, as a curve over the batch size.

    python benchmarks/subsets.py results/confirm-cifar10/confirm/* --out results/subsets     # subsets.csv, .png and .svg
    python benchmarks/subsets.py --drawn --out results/subsets                               # the figure, of the table there

Of each checkpoint and batch size, for BATCHES batches of two views of test images: the fewest features of r, the others at their
mean over the batch, with which NT-Xent of the batch rises by at most 1 % (`fewest_features`: an upper bound, by bisection over an
order by first-order influence), and how far two batches agree in theirs, beside what two random subsets of that size would. Runs
differ in λ alone; lines are means over runs, dots the runs.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.spectrum import SpectrumRequest, SpectrumTask
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.measure.head import fewest_features, overlap_of
from sparsehead_cli.present.figures import STYLE, color_of, legend_below, mark, save_figure
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.table_files import frame, read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN

SIZES, BATCHES = (16, 32, 64, 128, 256, 512, 1024), 8


def rows_of(checkpoint: Path) -> list[dict[str, object]]:
    """A row a batch size: medians over the batches."""
    subject = load_subject(checkpoint, LoadOptions(), None)
    task = SpectrumTask(subject, SpectrumRequest(checkpoints=(str(checkpoint),)), checkpoint)
    columns, rows = {column: subject.columns[column] for column in RUN}, []
    for size in SIZES:
        pairs = [pair for pair in task.views(BATCHES * size, 2, size, "batches") if len(pair["r"]) == size]
        batches = [
            fewest_features(subject.network.projector, torch.cat([*pair["r"].unbind(1)]), subject.temperature) for pair in pairs
        ]
        needed = sorted(count for batch in batches if (count := batch.needed()))
        overlap, by_chance = overlap_of([batch.kept for batch in batches])
        middle = needed[len(needed) // 2] if needed else None
        counts = {"eval_batch_size": size, "batches": len(batches), "features_kept": middle, "n_features": len(batches[0].kept)}
        rows.append({**columns, **counts, "batch_overlap": overlap, "batch_overlap_by_chance": by_chance})
    return rows


def figure_of(rows: pd.DataFrame) -> Figure:
    """Features needed, and how far batches agree beyond chance, against the batch size; a column a method, a colour a λ."""
    lams, methods = sorted(rows["lam"].unique()), list(rows["method"].unique())
    numbers = {
        "features of r needed, share": rows["features_kept"] / rows["n_features"],
        "agreement beyond chance": rows["batch_overlap"] - rows["batch_overlap_by_chance"],
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.1 * len(methods), 5.4), layout="constrained")
        axes = figure.subplots(2, len(methods), sharex=True, sharey="row", squeeze=False)
        for line, (label, values) in zip(axes, numbers.items(), strict=True):
            for ax, method in zip(line, methods, strict=True):
                for lam in lams:
                    chosen = (rows["method"] == method) & (rows["lam"] == lam)
                    by_size = values[chosen].groupby(rows["eval_batch_size"][chosen])
                    mean = by_size.mean()
                    color = color_of(lam, lams)
                    ax.plot(mean.index, mean, "o-", color=color, ms=3.5, lw=1.2)
                    ax.plot(rows["eval_batch_size"][chosen], values[chosen], ".", color=color, ms=3, alpha=0.5)
                ax.set_xscale("log", base=2)
            line[0].set_ylabel(label)
        for ax, method in zip(axes[0], methods, strict=True):
            ax.set_title(method_name(method))
        for ax in axes[1]:
            ax.set_xlabel("images of a batch (log)")
        named = [Line2D([], [], color=color_of(lam, lams), marker="o", ms=3.5, lw=1.2, label=f"λ {lam:g}") for lam in lams]
        legend_below(figure, [*named, mark("a run", ".")])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--drawn", action="store_true", help="draw subsets.csv as it is")
    options = parser.parse_args()
    table = options.out / "subsets.csv"
    if not options.drawn:
        options.out.mkdir(parents=True, exist_ok=True)
        replace_csv(
            table, [row for folder in options.checkpoints if (folder / "checkpoint.pt").exists() for row in rows_of(folder)]
        )
    for path in save_figure(figure_of(frame(read_csv(table))), options.out / "subsets"):
        print(path)


if __name__ == "__main__":
    main()
