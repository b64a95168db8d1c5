"""sweep.csv -> what it says: means, paired differences to λ 0, the chosen λ, a verdict. Functions of the table alone."""

import math
import statistics
from collections.abc import Sequence

import pandas as pd

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.measure.dimensions import COLLAPSED_RANK
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.runs.tables import HEAD, KIND
from sparsehead_cli.study.stats import bootstrap_interval, deviation, differences, paired_columns

SETTING = (*KIND, *HEAD)
SHARED = ("penalty", "solver")  # of which λ 0 is none: its trials belong to all
NUMBERS = (
    *("accuracy", "accuracy_z", "knn_accuracy", "val_accuracy", "effective_rank_r", "effective_rank_z"),
    *("active_groups_share", "active_features_share", "functional_features_share"),
)
CHOOSE_BY = "val_accuracy"  # of held-out images: the test images must not choose
JUDGE_BY = "accuracy"  # of test images
FELL = 0.05  # below the linear probe at λ 0, from which on a higher rank is no gain


def by_setting(rows: list[Row]) -> dict[tuple[str, ...], pd.DataFrame]:
    """setting -> its trials of sweep.csv. The trials with λ 0 are those of every penalty and solver of their kind, too."""
    if not rows:
        return {}
    trials = frame(rows, text=SETTING)
    settings = dict(list(trials[trials["lam"] > 0].groupby(list(SETTING), sort=False)))
    for setting, unpenalised in trials[trials["lam"] == 0].groupby(list(SETTING), sort=False):
        alike = [other for other in settings if unshared(other) == unshared(setting)]
        for other in alike or [setting]:
            settings[other] = pd.concat([settings.get(other), unpenalised])
    return settings


def unshared(setting: tuple[str, ...]) -> list[str]:
    """A setting without its penalty and solver."""
    return [value for column, value in zip(SETTING, setting, strict=True) if column not in SHARED]


def without_pruned(trials: list[Row], pruned: list[Row]) -> list[Row]:
    """The rows of sweep.csv that may be averaged: none of a value of λ that pruned.csv has in any seed, which would flatter it."""

    def value(row: Row) -> tuple:
        return (*(str(row[column]) for column in SETTING), float(row["lam"]))

    out = {value(row) for row in pruned}
    return [row for row in trials if value(row) not in out]


def summarise(rows: list[Row]) -> list[Row]:
    """Rows of sweep.csv -> one a setting, λ and number of NUMBERS.

    mean, sd, low and high (Student's t) over the seeds; difference to the λ 0 trial of the same seed with its 95 % interval by
    Student's t and by bootstrap; chosen: "best" for the λ of the best mean on held-out images, "sparsest" for the largest λ
    within one standard error of it, "both" where it is one, else "". With all groups active in all seeds none is sparse.
    """
    summary = []
    for setting, trials in by_setting(rows).items():
        trials = trials.drop_duplicates(["lam", "seed"], keep="last").set_index("seed")
        by_lam = {float(lam): seeds for lam, seeds in trials.groupby("lam")}
        best, largest = choose({lam: list(seeds[CHOOSE_BY]) for lam, seeds in by_lam.items()})
        sparsest = largest if by_lam[largest]["active_groups_share"].mean() < 1 else None
        for lam, seeds in by_lam.items():
            chosen = "both" if lam == best == sparsest else "best" if lam == best else "sparsest" if lam == sparsest else ""
            common = {**dict(zip(SETTING, setting, strict=True)), "lam": lam, "seeds": len(seeds), "chosen": chosen}
            zero = trials[(trials["lam"] == 0) & (lam > 0)]  # λ 0 is not compared with itself
            for name in NUMBERS:
                summary.append({**common, "metric": name, **compare(seeds[name].to_dict(), zero[name].to_dict())})
    return summary


def choose(by_lam: dict[float, list[float]]) -> tuple[float, float]:
    """λ -> held-out accuracies of its seeds -> (the λ of the best mean, the largest λ within one standard error of it).

    Of equals the smallest is the best. A λ that lacks seeds which others have is not chosen: a mean without those that failed
    would flatter it. A single seed has no standard error, and no other λ then.
    """
    most = max(map(len, by_lam.values()))
    means = {lam: statistics.fmean(values) for lam, values in by_lam.items() if len(values) == most}
    best = max(means, key=lambda lam: (means[lam], -lam))
    if most < 2:
        return best, best
    error = deviation(by_lam[best]) / math.sqrt(most)
    return best, max(lam for lam in means if means[lam] >= means[best] - error)


def compare(values: dict[float, float], zero: dict[float, float]) -> dict[str, object]:
    """seed -> one number at some λ, and at λ 0 -> its columns of sweep_summary.csv; for λ 0 itself give no zero."""
    sd = deviation(values.values())
    paired = differences(values, zero)
    low, high = bootstrap_interval(paired) if paired else ("", "")
    columns = paired_columns(values, zero)
    return {"mean": columns.pop("mean"), "sd": sd, **columns, "bootstrap_low": low, "bootstrap_high": high}


def verdicts(summary: list[Row], pruned: Sequence[Row] = ()) -> list[str]:
    """A sentence a setting, which claims no more than its interval allows, and one a row of pruned.csv."""
    sentences = []
    for setting, of_setting in frame(summary, text=SETTING).groupby(list(SETTING), sort=False) if summary else ():
        stopped = [float(row["lam"]) for row in pruned if setting == tuple(str(row[column]) for column in SETTING)]
        sentences.append(f"{name_of(of_setting.iloc[0], summary)}: {sentence(of_setting, max(stopped, default=0.0))}")
    for row in pruned:
        reached, best = (100 * float(row[name]) for name in ("mean_knn_accuracy", "best_knn_accuracy"))
        sentences.append(
            f"{name_of(row, summary)}: λ {float(row['lam']):g} was pruned after epoch {row['epoch']} of seed {row['seed']}, with "
            f"kNN at {reached:.1f} % where the best λ had {best:.1f} %. It is neither averaged nor chosen."
        )
    return sentences


def sentence(summary: pd.DataFrame, largest_pruned: float = 0.0) -> str:
    """What the chosen λ does to the test accuracy of one setting, from its rows of sweep_summary.csv."""
    rows, noun = summary[summary["metric"] == JUDGE_BY], noun_of(summary["dataset"].iloc[0])
    best = rows[rows["chosen"].isin(["best", "both"])].iloc[0]
    more = more_of(summary, rows, best, largest_pruned)
    if best["lam"] == 0:
        return f"no λ is better than 0 on held-out {noun}.{more}"
    if math.isnan(best["difference"]):
        return f"λ {best['lam']:g} is best on held-out {noun}; without trials at λ 0 there is nothing to compare it with.{more}"
    points, low, high = (100 * best[column] for column in ("difference", "difference_low", "difference_high"))
    if math.isnan(low):
        return f"λ {best['lam']:g} is {points:+z.1f} points from λ 0 in a single seed, which is no evidence.{more}"
    interval = f"{points:+z.1f} points ({low:+z.1f} to {high:+z.1f}) from λ 0 on test {noun}"
    shown = "an improvement" if low > 0 else "a loss" if high < 0 else "the interval includes 0, no improvement is shown"
    return f"λ {best['lam']:g}, chosen on held-out {noun}, is {interval}: {shown}.{more}"


def more_of(summary: pd.DataFrame, rows: pd.DataFrame, best: pd.Series, largest_pruned: float) -> str:
    """What else is to be said of a choice: sentences, each behind a space. `rows` are those of the number that judges."""
    more = ""
    if best["lam"] in collapsed_lams(summary, fell=math.inf):
        more += f" But z has collapsed there (effective rank below {COLLAPSED_RANK:g}): the head passes next to nothing on."
    for lam in rows.loc[rows["chosen"] == "sparsest", "lam"]:
        more += f" The sparsest within one standard error of it is λ {lam:g}."
    lacking = rows.loc[rows["seeds"] < best["seeds"], "lam"]
    if len(lacking):
        more += f" λ {', '.join(f'{lam:g}' for lam in lacking)} lacks seeds, and cannot be chosen."
    if best["lam"] == max(largest_pruned, rows["lam"].max()) > 0:
        more += " It is the largest λ of the grid: larger ones may be better still."
    return more


def collapsed_lams(summary: pd.DataFrame, fell: float = FELL) -> list[float]:
    """The λ of a setting, by its rows of sweep_summary.csv, where a higher rank of r is no gain.

    There z has collapsed (its mean effective rank is below COLLAPSED_RANK, or not defined), or the linear probe of r lies at least
    `fell` below that at λ 0.
    """
    of_rank, of_probe = (summary[summary["metric"] == metric].set_index("lam") for metric in ("effective_rank_z", JUDGE_BY))
    dead = of_rank.index[~(of_rank["mean"] >= COLLAPSED_RANK)]
    fallen = of_probe.index[of_probe["difference"] <= -fell]
    return sorted({*map(float, dead), *map(float, fallen)})


def name_of(row: Row, others: list[Row]) -> str:
    """A setting by what tells it from the others; the method always."""
    differing = [column for column in SETTING if column == "method" or len({str(other[column]) for other in others}) > 1]
    return ", ".join(NAMES[column](row[column]) if column in NAMES else str(row[column]) for column in differing)


NAMES = {  # column of SETTING -> how people write its values
    "method": method_name,
    "batch_norm": lambda value: "with BatchNorm" if str(value) == "True" else "without BatchNorm",
    "projector_out": "E = {}".format,
    "epochs": lambda value: counted(float(value), "epoch"),
}
