"""The four small figures of docs/studies.md, from the committed tables of the studies.

    python benchmarks/answers.py                        # results/answers/*.png, in seconds

The studies themselves: `sparsehead sweep-lambda --experiment lambda-methods` and the others of experiments.yaml.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import GREY, OKABE_ITO, STYLE, color_of, legend_below, mark, save_figure
from sparsehead_cli.present.figures_sweep import lam_places, mark_chosen
from sparsehead_cli.runs.method_names import method_name

RESULTS = Path(__file__).parents[1] / "results"
BLUE, ORANGE = OKABE_ITO[0], OKABE_ITO[4]
NAMES = {method: method_name(method) for method in ("simclr", "byol", "barlow")}


def summary_of(study: str) -> pd.DataFrame:
    """A study's sweep_summary.csv."""
    return pd.read_csv(RESULTS / study / "sweep_summary.csv")


def at_lams(ax: Axes, places: dict[float, float]) -> None:
    """An axis of λ, 0 at its left end."""
    ax.set_xticks(list(places.values()), [f"{lam:g}" for lam in places], rotation=45, ha="right", fontsize=7)
    ax.set_xlabel("λ (log)")


def bars(ax: Axes, at: list[float], rows: pd.DataFrame, scale: float, *, sideways: bool = False, **look: object) -> None:
    """Paired differences to λ 0 with their 95 % intervals."""
    middle = scale * rows["difference"]
    ends = [middle - scale * rows["difference_low"], scale * rows["difference_high"] - middle]
    drawn = {"x": middle, "y": at, "xerr": ends} if sideways else {"x": at, "y": middle, "yerr": ends}
    ax.errorbar(**drawn, capsize=2, lw=1.2, ms=4.5, ls="", **look)


def improves() -> Figure:
    """1: linear probe against λ, as paired differences, a panel a method."""
    summary = summary_of("lambda-methods")
    probe = summary[summary["metric"] == "accuracy"]
    places = lam_places(sorted(probe["lam"].unique()))
    figure = Figure(figsize=(7.2, 2.3), layout="constrained")
    for ax, (method, name) in zip(figure.subplots(1, 3, sharey=True), NAMES.items(), strict=True):
        rows = probe[(probe["method"] == method) & (probe["lam"] > 0)]
        bars(ax, [places[lam] for lam in rows["lam"]], rows, 100, fmt="o", color=BLUE)
        for lam in rows[rows["chosen"].isin(["best", "both"])]["lam"]:
            mark_chosen(ax, places[lam])
        ax.axhline(0, color=GREY, lw=0.8, ls=":")
        at_lams(ax, {lam: place for lam, place in places.items() if lam > 0})
        ax.set_title(name)
    figure.axes[0].set_ylabel("linear probe of r:\npoints from λ 0")
    return figure


def spectra() -> Figure:
    """2: how the effective ranks of r and z change from λ 0, with and without BatchNorm in the head."""
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    heads = {"lambda-methods": "BatchNorm in the head", "lambda-no-batch-norm": "no BatchNorm"}
    for ax, (study, title) in zip(figure.subplots(1, 2, sharey=True), heads.items(), strict=True):
        found = pd.read_csv(RESULTS / study / "spectrum_by_lam.csv")
        found = found[(found["metric"] == "effective_rank") & found["lam"].isin(SHOWN)]
        for features, color, marker, shift in (("r", BLUE, "o", 0.15), ("z", ORANGE, "s", -0.15)):
            rows = found[found["features"] == features]
            at = [shift - ROWS.index(line) for line in zip(rows["method"], rows["lam"], strict=True)]
            bars(ax, at, rows, 1, sideways=True, fmt=marker, color=color)
        ax.axvline(0, color=GREY, lw=0.8, ls=":")
        ax.set(title=title, xlabel="effective rank: change from λ 0")
        ax.set_yticks([-i for i in range(len(ROWS))], [f"{NAMES[method]}, λ {lam:g}" for method, lam in ROWS])
    legend_below(figure, [mark("r", "o", BLUE), mark("z", "s", ORANGE)])
    return figure


SHOWN = (3e-4, 3e-3)
ROWS = [(method, lam) for method in NAMES for lam in SHOWN]


def curve() -> Figure:
    """3: linear probe and effective rank of r against λ, for both solvers and four projection dimensions."""
    summary = summary_of("lambda-curve")
    places, dims = lam_places(sorted(summary["lam"].unique())), sorted(summary["projector_out"].unique())
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", sharex=True)
    metrics = {"accuracy": (100, "linear probe of r, %"), "effective_rank_r": (1, "effective rank of r")}
    for line, (metric, (scale, label)) in zip(axes, metrics.items(), strict=True):
        for ax, solver in zip(line, ("subgradient", "proximal"), strict=True):
            for dim in dims:
                rows = summary[
                    (summary["metric"] == metric) & (summary["solver"] == solver) & (summary["projector_out"] == dim)
                ].sort_values("lam")
                color, at = color_of(float(dim), [float(d) for d in dims]), [places[lam] for lam in rows["lam"]]
                joined = slice(int(rows["lam"].iloc[0] == 0), None)  # not λ 0: its place is none on a logarithmic axis
                halves = scale * (rows["high"] - rows["mean"])
                shifted = [place + 0.05 * (list(dims).index(dim) - (len(dims) - 1) / 2) for place in at]
                ax.errorbar(shifted, scale * rows["mean"], halves, fmt="o", color=color, ms=3.5, lw=0.9, label=f"E = {dim}")
                ax.plot(shifted[joined], scale * rows["mean"].iloc[joined], color=color, lw=1.2)
        line[0].set_ylabel(label)
    for ax, solver in zip(axes[0], ("subgradient", "proximal"), strict=True):
        ax.set_title(solver)
    for ax in axes[1]:
        at_lams(ax, places)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=len(dims))
    return figure


def penalties() -> Figure:
    """4: each penalty at the λ above 0 that is best on held-out images: paired differences to λ 0."""
    summary = summary_of("lambda-penalties")
    above = summary[summary["lam"] > 0]
    held_out = above[above["metric"] == "val_accuracy"]
    best = held_out.loc[held_out.groupby("penalty")["mean"].idxmax(), ["penalty", "lam"]]
    figure = Figure(figsize=(7.2, 2.5), layout="constrained")
    metrics = {
        "accuracy": (100, "linear probe, points", BLUE, "o"),
        "effective_rank_r": (1, "effective rank of r", BLUE, "o"),
        "effective_rank_z": (1, "effective rank of z", ORANGE, "s"),
    }
    for ax, (metric, (scale, label, color, marker)) in zip(figure.subplots(1, 3, sharey=True), metrics.items(), strict=True):
        rows = best.merge(above[above["metric"] == metric], on=["penalty", "lam"])
        bars(ax, [-i for i in range(len(rows))], rows, scale, sideways=True, fmt=marker, color=color)
        ax.axvline(0, color=GREY, lw=0.8, ls=":")
        ax.set_xlabel(f"{label},\nchange from λ 0")
        names = [f"{row.penalty}, λ {row.lam:g}" for row in rows.itertuples()]
        ax.set_yticks([-i for i in range(len(rows))], names)
    return figure


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "answers", help="folder of the figures")
    out = parser.parse_args().out
    for number, answer in enumerate((improves, spectra, curve, penalties), 1):
        with matplotlib.rc_context(STYLE):
            print(*save_figure(answer(), out / f"{number}-{answer.__name__}.png"))


if __name__ == "__main__":
    main()
