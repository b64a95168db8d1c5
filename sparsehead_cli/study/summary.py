"""sweep.csv -> what it says: means, paired differences to λ 0, the chosen λ, a verdict. Functions of the table alone."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

from sparsehead_cli.runs.readable import number
from sparsehead_cli.study.stats import bootstrap_interval, differences, paired_columns

Row = dict[str, str]
SETTING = ("experiment", "method", "dataset", "backbone", "penalty", "solver", "batch_norm", "projector_out", "epochs")
SHARED = ("penalty", "solver")  # of which λ 0 is none: its trials belong to all
NUMBERS = (
    *("accuracy", "accuracy_z", "knn_accuracy", "val_accuracy", "effective_rank_r", "effective_rank_z"),
    *("active_groups_share", "active_features_share", "functional_features_share"),
)
CHOOSE_BY = "val_accuracy"  # of held-out images: the test images must not choose
TELL = "accuracy"


def by_setting(rows: list[Row]) -> dict[tuple, dict[float, dict[str, Row]]]:
    """setting -> λ -> seed -> row. The trials with λ 0 stand under every penalty and solver of their kind."""
    found: dict[tuple, dict[float, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if float(row["lam"]) > 0:
            found[tuple(row[c] for c in SETTING)][float(row["lam"])][row["seed"]] = row
    for row in (row for row in rows if float(row["lam"]) == 0):
        alike = [s for s in found if all(a == row[c] for c, a in zip(SETTING, s, strict=True) if c not in SHARED)]
        for setting in alike or [tuple(row[c] for c in SETTING)]:
            found[setting][0.0][row["seed"]] = row
    return found


def without_pruned(trials: list[Row], pruned: list[Row]) -> list[Row]:
    """The rows of sweep.csv that may be averaged: none of a value of λ that pruned.csv has in any seed, which would flatter it."""

    def value(row: Row) -> tuple:
        return (*(str(row[column]) for column in SETTING), float(row["lam"]))

    out = {value(row) for row in pruned}
    return [row for row in trials if value(row) not in out]


def summarise(rows: list[Row]) -> list[dict[str, object]]:
    """Rows of sweep.csv -> one a setting, λ and number of NUMBERS.

    mean, sd, low and high (Student's t) over the seeds; difference to the λ 0 trial of the same seed with its 95 % interval by
    Student's t and by bootstrap; chosen: "best" for the λ of the best mean on held-out images, "sparsest" for the largest λ
    within one standard error of it, "both" where it is one, else "".
    """
    found = []
    for setting, by_lam in by_setting(rows).items():
        best, sparsest = choose(by_lam)
        for lam in sorted(by_lam):
            chosen = "both" if lam == best == sparsest else "best" if lam == best else "sparsest" if lam == sparsest else ""
            common = {**dict(zip(SETTING, setting, strict=True)), "lam": lam, "seeds": len(by_lam[lam]), "chosen": chosen}
            found += [{**common, "metric": name, **compare(by_lam, lam, name)} for name in NUMBERS]
    return found


def choose(by_lam: dict[float, dict[str, Row]]) -> tuple[float, float]:
    """(the λ with the best mean held-out accuracy, of equals the smallest; the largest λ within one standard error of it).

    A λ that lacks seeds which others have is not chosen: a mean without those that failed would flatter it. A single seed
    has no standard error, and no other λ then.
    """
    most = max(map(len, by_lam.values()))
    values = {lam: [float(row[CHOOSE_BY]) for row in seeds.values()] for lam, seeds in by_lam.items() if len(seeds) == most}
    means = {lam: statistics.fmean(of) for lam, of in values.items()}
    best = max(means, key=lambda lam: (means[lam], -lam))
    of_best = values[best]
    if len(of_best) < 2:
        return best, best
    error = statistics.stdev(of_best) / math.sqrt(len(of_best))
    return best, max(lam for lam in means if means[lam] >= means[best] - error)


def compare(by_lam: dict[float, dict[str, Row]], lam: float, name: str) -> dict[str, object]:
    """One number at one λ: over seeds, and against the same seeds at λ 0."""
    here = {seed: number(row[name]) for seed, row in by_lam[lam].items()}
    zero = {seed: number(row[name]) for seed, row in by_lam.get(0.0, {}).items()} if lam else here
    sd = statistics.stdev(here.values()) if len(here) > 1 else math.nan
    paired = differences(here, zero)
    low, high = bootstrap_interval(paired) if paired else ("", "")
    columns = paired_columns(here, zero)
    return {"mean": columns.pop("mean"), "sd": sd, **columns, "bootstrap_low": low, "bootstrap_high": high}


def verdicts(summary: list[dict[str, object]], pruned: Sequence[Row] = ()) -> list[str]:
    """A sentence a setting, which claims no more than its interval allows, and one a row of pruned.csv."""
    found = []
    told = [row for row in summary if row["metric"] == TELL]
    for setting in dict.fromkeys(tuple(row[c] for c in SETTING) for row in told):
        own = [row for row in told if tuple(row[c] for c in SETTING) == setting]
        larger = [float(row["lam"]) for row in pruned if setting == tuple(str(row[c]) for c in SETTING)]
        found.append(f"{name_of(own[0], told)}: {sentence(own, max(larger, default=0.0))}")
    for row in pruned:
        reached, best = (100 * float(row[name]) for name in ("mean_knn_accuracy", "best_knn_accuracy"))
        found.append(
            f"{name_of(row, told)}: λ {float(row['lam']):g} was pruned after epoch {row['epoch']} of seed {row['seed']}, with kNN "
            f"at {reached:.1f} % where the best λ had {best:.1f} %. It is neither averaged nor chosen."
        )
    return found


def sentence(rows: list[dict[str, object]], largest_pruned: float = 0.0) -> str:
    """What the chosen λ does to the test accuracy of one setting."""
    best = next(row for row in rows if row["chosen"] in ("best", "both"))
    sparsest = next(row for row in rows if row["chosen"] in ("sparsest", "both"))
    sparse = "" if sparsest["lam"] == best["lam"] else f" The sparsest within one standard error of it is λ {sparsest['lam']:g}."
    if lacking := [f"{row['lam']:g}" for row in rows if row["seeds"] < best["seeds"]]:
        sparse += f" λ {', '.join(lacking)} lacks seeds, and cannot be chosen."
    if best["lam"] == max(largest_pruned, *(row["lam"] for row in rows)) > 0:
        sparse += " It is the largest λ of the grid: larger ones may be better still."
    if best["lam"] == 0:
        return f"no λ is better than 0 on held-out images.{sparse}"
    if best["difference"] == "":
        return f"λ {best['lam']:g} is best on held-out images; without trials at λ 0 there is nothing to compare it with.{sparse}"
    points, low, high = (100 * best[c] for c in ("difference", "difference_low", "difference_high"))
    if math.isnan(low):
        return f"λ {best['lam']:g} is {points:+z.1f} points from λ 0 in a single seed, which is no evidence.{sparse}"
    interval = f"{points:+z.1f} points ({low:+z.1f} to {high:+z.1f}) from λ 0 on test images"
    shown = "an improvement" if low > 0 else "a loss" if high < 0 else "the interval includes 0, no improvement is shown"
    return f"λ {best['lam']:g}, chosen on held-out images, is {interval}: {shown}.{sparse}"


def name_of(row: dict[str, object], others: list[dict[str, object]]) -> str:
    """A setting by what tells it from the others; the method always."""
    told = [c for c in SETTING if c == "method" or len({str(other[c]) for other in others}) > 1]
    return ", ".join("1 epoch" if (c, str(row[c])) == ("epochs", "1") else NAMES.get(c, "{}").format(row[c]) for c in told)


NAMES = {"projector_out": "E = {}", "batch_norm": "BatchNorm {}", "epochs": "{} epochs"}
