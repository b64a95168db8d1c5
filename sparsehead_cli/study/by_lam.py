"""spectrum_metrics.csv of several runs -> what λ does to each number, over paired seeds. A function of the table alone."""

import pandas as pd

from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.runs.tables import KIND
from sparsehead_cli.study.stats import paired_columns

SETTING = (*KIND, "eval_dataset", "split")


def by_lam(rows: list[Row]) -> list[Row]:
    """Rows of spectrum_metrics.csv -> one a setting, λ, features and metric; [] where there is nothing to compare.

    mean, low, high: over the seeds of a setting that is `comparable`, 95 % by Student's t. difference, difference_low,
    difference_high: the same of the paired differences to the λ 0 run of the same seed, where there are such.
    """
    if not rows:
        return []
    table = frame(rows).dropna(subset=["value", "lam", "seed"])  # other people's checkpoints have neither λ nor seed
    compared = []
    for setting, runs in table.groupby(list(SETTING), sort=False):
        if not comparable(runs):
            continue
        by_seed: dict[tuple, dict[float, float]] = {}  # λ, features and metric -> seed -> value
        for key, seeds in runs.sort_values("lam", kind="stable").groupby(["lam", "features", "metric"], sort=False):
            by_seed[key] = seeds.set_index("seed")["value"].to_dict()
        for (lam, features, metric), values in by_seed.items():
            zero = by_seed.get((0.0, features, metric), {}) if lam else {}
            names = {**dict(zip(SETTING, setting, strict=True)), "lam": float(lam), "features": features, "metric": metric}
            compared.append({**names, "seeds": len(values), **paired_columns(values, zero)})
    return compared


def comparable(runs: pd.DataFrame) -> bool:
    """Whether the runs of a setting have at least two λ and two seeds, and differ in nothing else.

    They differ in something that the columns do not show where a λ and seed is there twice, or where embeddings have several
    widths.
    """
    by_run = runs.groupby(["lam", "seed"])
    checkpoints = by_run["checkpoint"].nunique()
    seeds = checkpoints.groupby("lam").size()
    width = runs["value"].where((runs["features"] == "z") & (runs["metric"] == "dim"))
    widths = width.groupby([runs["lam"], runs["seed"]]).last()
    return len(seeds) > 1 and seeds.max() > 1 and checkpoints.max() == 1 and widths.nunique(dropna=False) == 1
