"""Ranks where two runs are equally far: at the same kNN accuracy or the same loss, not after the same number of epochs.

A run that a penalty slows down may have another rank after so many epochs only because it is not as far. So both are looked at
where they first are as good as the worse of the two ever gets. Accuracies of single epochs scatter, and where the curve is flat
"first" is chance: read these numbers as a check, not as a result. A loss is no progress where a collapsed embedding has a low one.
"""

import math

import pandas as pd

RANKS = ("effective_rank_r", "effective_rank_z")
PROGRESS = {"knn": ("knn_accuracy", 1), "loss": ("loss", -1)}  # by what, and whether more or less of it is further
AT_EQUAL = {f"{rank}_at_equal_{by}": (rank, by) for by in PROGRESS for rank in RANKS}  # metric -> what it is made of


def at_equal(epochs: pd.DataFrame, other: pd.DataFrame, rank: str, by: str) -> tuple[float, float]:
    """(rank of a run, rank of the other) where each first is as far as both get; rows of curves.csv, one an epoch.

    Between two epochs along a line. NaN where a run has no epochs, or its rank is not defined there.
    """
    column, sign = PROGRESS[by]
    if epochs.empty or other.empty:
        return math.nan, math.nan
    both = min((sign * runs[column]).max() for runs in (epochs, other))
    return at(epochs, rank, sign * epochs[column], both), at(other, rank, sign * other[column], both)


def at(epochs: pd.DataFrame, rank: str, progress: pd.Series, reached: float) -> float:
    """The rank where `progress` first is at `reached`, between two epochs along a line."""
    values, ranks = list(progress), list(epochs[rank])
    after = next((i for i, value in enumerate(values) if value >= reached), len(values) - 1)
    if after == 0 or values[after] == values[after - 1]:
        return float(ranks[after])
    share = min(1.0, max(0.0, (reached - values[after - 1]) / (values[after] - values[after - 1])))
    return float(ranks[after - 1] + share * (ranks[after] - ranks[after - 1]))
