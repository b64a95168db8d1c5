"""spectrum_metrics.csv of several runs -> what λ does to each number, over paired seeds. A function of the table alone."""

import math
from collections import defaultdict

from sparsehead_cli.runs.readable import number
from sparsehead_cli.study.stats import paired_columns

Row = dict[str, object]
SETTING = ("experiment", "method", "dataset", "backbone", "penalty", "solver", "eval_dataset", "split")
Runs = dict[float, dict[str, dict[tuple[str, str], float]]]  # λ -> seed -> (features, metric) -> value


def by_lam(rows: list[Row]) -> list[Row]:
    """Rows of spectrum_metrics.csv -> one a setting, λ, features and metric; [] where there is nothing to compare.

    A setting is compared where it has at least two λ and two seeds, and neither a λ and seed twice nor embeddings of several
    widths (then its runs differ in what the columns do not show). mean, low, high: over its seeds, 95 % by Student's t.
    difference, difference_low, difference_high: the same of the paired differences to the λ 0 run of the same seed, where
    there are such.
    """
    found = []
    for setting, runs in settings(rows).items():
        for lam in sorted(runs):
            for features, metric in dict.fromkeys(key for seed in runs[lam].values() for key in seed):
                found.append(
                    {**dict(zip(SETTING, setting, strict=True)), "lam": lam, "features": features, "metric": metric}
                    | compare(runs, lam, (features, metric))
                )
    return found


def settings(rows: list[Row]) -> dict[tuple, Runs]:
    """The settings that can be compared."""
    found: dict[tuple, Runs] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    runs: dict[tuple, set[str]] = defaultdict(set)
    for row in rows:
        if row["lam"] == "" or row["seed"] == "":
            continue  # somebody else's
        if math.isnan(number(row["value"])):
            continue  # such as α of features with too few dimensions
        setting = tuple(row[column] for column in SETTING)
        found[setting][float(row["lam"])][row["seed"]][row["features"], row["metric"]] = float(row["value"])
        runs[*setting, float(row["lam"]), row["seed"]].add(row["checkpoint"])
    mixed = {key[: len(SETTING)] for key, checkpoints in runs.items() if len(checkpoints) > 1}
    for setting, by in found.items():
        widths = {seed.get(("z", "dim")) for seeds in by.values() for seed in seeds.values()}
        mixed |= {setting} if len(widths) > 1 else set()
    return {
        setting: by
        for setting, by in found.items()
        if setting not in mixed and len(by) > 1 and max(len(seeds) for seeds in by.values()) > 1
    }


def compare(runs: Runs, lam: float, key: tuple[str, str]) -> Row:
    """One number at one λ, and how it differs from λ 0 of the same seeds."""
    here, zero = ({seed: found[key] for seed, found in runs.get(at, {}).items() if key in found} for at in (lam, 0.0))
    return {"seeds": len(here), **paired_columns(here, zero if lam else here)}
