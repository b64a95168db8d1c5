"""sweep.csv -> what it says: means, paired differences to λ 0, the chosen λ, a verdict. Functions of the table alone."""

import math
import statistics
from collections.abc import Callable, Collection, Sequence

import pandas as pd

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.measure.dimensions import COLLAPSED_RANK
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import counted, number
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.runs.tables import KIND, NO_REGULARISER, USUAL, VARIED, WITHOUT_PROJECTOR
from sparsehead_cli.study.stats import bootstrap_interval, deviation, differences, paired_columns

SETTING = (*KIND, *VARIED)
SHARED = ("penalty", "solver")  # of which λ 0 is none: its trials belong to all
CURES = REGULARISERS, PROJECTOR = "regularisers", "projector"  # what may be set against collapse beside λ
NUMBERS = (
    *("accuracy", "accuracy_z", "knn_accuracy", "val_accuracy", "effective_rank_r", "effective_rank_z"),
    *("active_groups_share", "active_features_share", "functional_features_share"),
)
CHOOSE_BY = "val_accuracy"  # of held-out images: the test images must not choose
JUDGE_BY = "accuracy"  # of test images
BEST, SPARSEST, COLLAPSED = ("best", "both"), ("sparsest", "both"), "collapsed"  # what is written under `chosen`
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


def base_lines(rows: list[Row]) -> Callable[[tuple[str, ...]], pd.DataFrame]:
    """Rows of sweep.csv -> what gives the trials that a setting is compared with: those of its kind with nothing against collapse.

    That is λ 0 without regularisers and with an mlp, so that a regulariser alone, or another head, is compared with it as well.
    Where all trials have regularisers, as by `--set regularisers=…`, or none has an mlp, it is λ 0 with the setting's own.
    """
    unpenalised = frame([row for row in rows if not float(row["lam"])], text=SETTING)

    def of(setting: tuple[str, ...]) -> pd.DataFrame:
        named = dict(zip(SETTING, setting, strict=True))
        has_mlp = named[PROJECTOR] == USUAL[PROJECTOR]
        other = {*SHARED, *CURES} if has_mlp else {*SHARED, *CURES, "projector_out"}  # what stands in its place has its own
        alike = with_values(unpenalised, {column: value for column, value in named.items() if column not in other})
        for column in CURES if len(alike) else ():
            bare = with_values(alike, {column: USUAL[column]})
            alike = bare if len(bare) else with_values(alike, {column: named[column]})
        return alike.drop_duplicates("seed", keep="last") if len(alike) else alike

    return of


def base_in_words(rows: Collection[Row]) -> str:
    """What `base_lines` compares rows with."""
    values = {column: {row[column] for row in rows} for column in CURES}
    varied = [column for column in CURES if USUAL[column] in values[column] and len(values[column]) > 1]
    return LAM_0 + " without regularisers" * (REGULARISERS in varied) + " with an mlp" * (PROJECTOR in varied)


def with_values(trials: pd.DataFrame, values: dict[str, str]) -> pd.DataFrame:
    """The trials that have these values in these columns; of none, none."""
    for column, value in values.items():
        trials = trials[trials[column] == value] if len(trials) else trials
    return trials


def is_bare(named: Row, base: pd.DataFrame) -> bool:
    """Whether a setting has the cures of its own base line: of its λ, 0 is then that line itself."""
    return len(with_values(base, {column: named[column] for column in CURES})) > 0


def has_collapsed(trials: pd.DataFrame | Sequence[Row]) -> bool:
    """Whether r or z of any of these rows of sweep.csv has fully collapsed: next to no second dimension, or no variance."""
    rows = trials.to_dict("records") if isinstance(trials, pd.DataFrame) else trials
    return any(not number(row[f"effective_rank_{of}"]) >= COLLAPSED_RANK for row in rows for of in ("r", "z"))


def without_pruned(trials: list[Row], pruned: list[Row]) -> list[Row]:
    """The rows of sweep.csv that may be averaged: none of a value of λ that pruned.csv has in any seed, which would flatter it."""

    def value(row: Row) -> tuple:
        return (*(str(row[column]) for column in SETTING), float(row["lam"]))

    out = {value(row) for row in pruned}
    return [row for row in trials if value(row) not in out]


def summarise(rows: list[Row]) -> list[Row]:
    """Rows of sweep.csv -> one a setting, λ and number of NUMBERS.

    mean, sd, low and high (Student's t) over the seeds; difference to the trial of the same seed in the base line (`base_lines`),
    with its 95 % interval by Student's t and by bootstrap; chosen: "best" for the λ of the best mean on held-out images,
    "sparsest" for the largest λ within one standard error of it, "both" where it is one, "collapsed" for one that cannot be
    chosen because r or z has collapsed in a seed, else "". With all groups active in all seeds none is sparse.
    """
    summary, base_line = [], base_lines(rows)
    for setting, trials in by_setting(rows).items():
        trials = trials.drop_duplicates(["lam", "seed"], keep="last").set_index("seed")
        base = base_line(setting)
        by_lam = {float(lam): seeds for lam, seeds in trials.groupby("lam")}
        held_out = {lam: [] if has_collapsed(seeds) else list(seeds[CHOOSE_BY]) for lam, seeds in by_lam.items()}
        most = max(map(len, by_lam.values()))
        best, largest = choose(held_out, most)
        is_sparse = largest in by_lam and by_lam[largest]["active_groups_share"].mean() < 1
        sparsest = largest if is_sparse else None
        for lam, seeds in by_lam.items():
            chosen = "both" if lam == best == sparsest else "best" if lam == best else "sparsest" if lam == sparsest else ""
            chosen = chosen if held_out[lam] else COLLAPSED
            common = {**dict(zip(SETTING, setting, strict=True)), "lam": lam, "seeds": len(seeds), "chosen": chosen}
            is_base = lam == 0 and is_bare(common, base)  # which is not compared with itself
            zero = {} if is_base or base.empty else base.set_index("seed")[list(NUMBERS)].to_dict()
            for name in NUMBERS:
                summary.append({**common, "metric": name, **compare(seeds[name].to_dict(), zero.get(name, {}))})
    return summary


def choose(by_lam: dict[float, list[float]], most: int | None = None) -> tuple[float | None, float | None]:
    """λ -> held-out accuracies of its seeds -> (the λ of the best mean, the largest λ within one standard error of it).

    Of equals the smallest is the best. A λ that lacks seeds which others have, of which there are at `most` so many, is not chosen:
    a mean without those that failed would flatter it. A single seed has no standard error, and no other λ then. (None, None) where
    none can be chosen.
    """
    most = most or max(map(len, by_lam.values()))
    means = {lam: statistics.fmean(values) for lam, values in by_lam.items() if len(values) == most}
    if not means:
        return None, None
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
    if not rows["chosen"].isin(BEST).any():
        return f"no λ can be chosen.{said_collapsed(rows)}"
    best = rows[rows["chosen"].isin(BEST)].iloc[0]
    alone = rows[(rows["lam"] == 0) & rows["difference"].notna()]  # a regulariser or another head, with nothing beside it
    if len(alone) and (rows["lam"] == 0).all():
        return f"{changed(alone.iloc[0], ZERO_OF[rows[PROJECTOR].iloc[0] == USUAL[PROJECTOR]], noun)}."
    more = said_alone(alone, noun) + more_of(rows, best, largest_pruned)
    zero = "λ 0 without regularisers" if len(alone) else "λ 0"
    if best["lam"] == 0:
        return f"{next_to_zero(summary, best, zero, noun)}.{more}"
    if math.isnan(best["difference"]):
        return f"λ {best['lam']:g} is best on held-out {noun}; without trials at λ 0 there is nothing to compare it with.{more}"
    change = changed(best, zero, noun)
    if math.isnan(best["difference_low"]):
        return f"λ {best['lam']:g} is {change}.{more}"
    return f"λ {best['lam']:g}, chosen on held-out {noun}, is {change}.{more}"


def next_to_zero(summary: pd.DataFrame, best: pd.Series, zero: str, noun: str) -> str:
    """What is said where λ 0 has the best mean on held-out images: which λ comes next, and its difference from `zero`."""
    if not (summary["lam"] > 0).any():
        return "λ 0 alone was trained, and there is no other to compare it with"
    others = summary[(summary["lam"] > 0) & (summary["chosen"] != COLLAPSED) & (summary["seeds"] == best["seeds"])]
    if others.empty:
        return f"no λ above 0 can be chosen on held-out {noun}"
    held_out = others[others["metric"] == CHOOSE_BY]
    lam = held_out.loc[held_out["mean"].idxmax(), "lam"]
    nearest = others[(others["metric"] == JUDGE_BY) & (others["lam"] == lam)].iloc[0]
    return f"no λ has a better mean than 0 on held-out {noun}; the next best, λ {lam:g}, is {changed(nearest, zero, noun)}"


def more_of(rows: pd.DataFrame, best: pd.Series, largest_pruned: float) -> str:
    """What else is to be said of a choice: sentences, each behind a space. `rows` are those of the number that judges."""
    more = "".join(
        f" The sparsest within one standard error of it is λ {lam:g}." for lam in rows.loc[rows["chosen"] == "sparsest", "lam"]
    )
    lacking = rows.loc[(rows["seeds"] < best["seeds"]) & (rows["chosen"] != COLLAPSED), "lam"]
    if len(lacking):
        more += f" λ {', '.join(f'{lam:g}' for lam in lacking)} lacks seeds, and cannot be chosen."
    if best["lam"] == max(largest_pruned, rows["lam"].max()) > 0:
        more += " It is the largest λ of the grid: larger ones may be better still."
    return more + said_collapsed(rows)


def said_collapsed(rows: pd.DataFrame) -> str:
    """Which λ cannot be chosen since a head is dead or r has collapsed, where there are such."""
    dead = rows.loc[rows["chosen"] == COLLAPSED, "lam"]
    return f" At λ {', '.join(f'{lam:g}' for lam in dead)} r or z has collapsed, which is not chosen." if len(dead) else ""


def said_alone(rows: pd.DataFrame, noun: str) -> str:
    """What a regulariser does without any λ, where there is such a row."""
    return f" The regulariser alone is {changed(rows.iloc[0], 'λ 0 without it', noun)}." if len(rows) else ""


def changed(row: pd.Series, zero: str, noun: str) -> str:
    """A row's difference in points from what it is compared with, called `zero`, and what that shows."""
    points, low, high = (100 * row[column] for column in ("difference", "difference_low", "difference_high"))
    if math.isnan(low):
        return f"{points:+z.1f} points from {zero} in a single seed, which is no evidence"
    shown = "an improvement" if low > 0 else "a loss" if high < 0 else "the interval includes 0, no change is shown"
    return f"{points:+z.1f} points ({low:+z.1f} to {high:+z.1f}) from {zero} on test {noun}: {shown}"


def excludes_zero(row: Row) -> bool:
    """Whether the interval of a row's difference lies on one side of 0."""
    return number(row["difference_low"]) > 0 or number(row["difference_high"]) < 0


def collapsed_lams(summary: pd.DataFrame) -> list[float]:
    """The λ of a setting, by its rows of sweep_summary.csv, where a higher rank of r is no gain.

    There r or z has collapsed in a seed, or the linear probe of r lies at least FELL below that at λ 0.
    """
    of_probe = summary[summary["metric"] == JUDGE_BY]
    return sorted(of_probe.loc[(of_probe["chosen"] == COLLAPSED) | (of_probe["difference"] <= -FELL), "lam"])


def name_of(row: Row, others: list[Row]) -> str:
    """A setting by what tells it from the others, the method always; what a method's recipe brings, from that method's others."""
    own = [other for other in others if str(other["method"]) == str(row["method"])]
    of_column = {column: others if column in (*SHARED, *CURES) else own for column in SETTING}
    differing = [name for name, rows in of_column.items() if name == "method" or len({str(other[name]) for other in rows}) > 1]
    if row[PROJECTOR] != USUAL[PROJECTOR]:
        differing = [column for column in differing if column != "projector_out"]  # its name has its width
    return ", ".join(NAMES[column](row[column]) if column in NAMES else str(row[column]) for column in differing)


LAM_0 = "λ 0"  # what others are compared with, where nothing else is varied against collapse
ZERO_OF = {True: "λ 0 without it", False: "λ 0 with an mlp"}  # whether the head is an mlp -> what a cure alone is compared with
NAMES = {  # column of SETTING -> how people write its values
    "method": method_name,
    "batch_norm": lambda value: "with BatchNorm" if str(value) == "True" else "without BatchNorm",
    "projector_out": "E = {}".format,
    REGULARISERS: lambda value: "without regularisers" if value == NO_REGULARISER else f"with {value}",
    PROJECTOR: lambda value: f"head {value}" if value != WITHOUT_PROJECTOR else "without a projector",
    "epochs": lambda value: counted(float(value), "epoch"),
}
