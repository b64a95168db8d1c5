"""A plan and the trials of its fresh seeds -> confirmation.csv and what may be said. Functions of the tables alone."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row, frame, read_csv
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL_PROJECTOR
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.equal import AT_EQUAL, RANKS, at_equal
from sparsehead_cli.study.plan import CONTROL, Choice, Plan, read_plan, require_pilot
from sparsehead_cli.study.results import CONFIRM, CURVES_CSV, PRUNED_CSV, read_sweep
from sparsehead_cli.study.stats import deviation, holm, mean_interval, sign_flip_test, t_test
from sparsehead_cli.study.summary import PROJECTOR, REGULARISERS, without_pruned

CONTRASTS = {  # name in confirmation.csv -> (arm, the arm that it is compared with)
    "chosen - zero": ("chosen", "zero"),
    "control - zero": ("control", "zero"),
    "chosen - control": ("chosen", "control"),
    "regularisers - zero": ("regularisers", "zero"),
    "chosen - regularisers": ("chosen", "regularisers"),
}
PRIMARY = next(iter(CONTRASTS))
OTHERS = ("val_accuracy", "accuracy_z", "knn_accuracy", *AT_EQUAL)
WORDS = {  # outcome -> (what it is called, its scale, its unit)
    "accuracy": ("linear probe of r", 100, " points"),
    "effective_rank_r": ("effective rank of r", 1, ""),
    "effective_rank_z": ("effective rank of z", 1, ""),
}


@dataclass(frozen=True)
class Confirmation:
    """A plan and what its fresh seeds gave so far: rows of confirmation.csv, and how many of the planned runs are there."""

    plan: Plan
    rows: list[Row]
    done: int
    planned: int

    @property
    def complete(self) -> bool:
        """Whether every planned run is there; before that nothing is judged, so that nobody can stop where it looks well."""
        return self.done == self.planned


def read_confirmation(folder: Path) -> Confirmation | None:
    """What a pilot's folder says of its confirmation; None without a plan.

    Raises: SparseheadError for a damaged table or plan, and for a pilot or trials that are not the plan's.
    """
    plan = read_plan(folder)
    if plan is None:
        return None
    require_pilot(folder, plan, without_pruned(list(read_sweep(folder).values()), read_csv(folder / PRUNED_CSV)))
    trials = list(read_sweep(folder / CONFIRM).values())
    return confirmation(plan, trials, merged_curves(folder / CONFIRM, trials))


def confirmation(plan: Plan, trials: list[Row], curves: list[Row] | None) -> Confirmation:
    """Rows of confirmation.csv: one a choice, contrast and number; none before every planned run is among the trials.

    Without curves, None, there are no ranks at equal progress. p_holm is of the primary outcomes alone, over all choices.

    Raises: SparseheadError for trials that are not the plan's, and for curves that lack some: what is made of them would be left
    out in silence.
    """
    require_planned(plan, trials)
    runs = {row["run"]: row for row in trials}
    epochs = dict(list(frame(curves).groupby("run"))) if curves else {}
    planned = {run for choice in plan.choices for arm in choice.runs.values() for run in arm}  # choices share base lines
    done = sum(run in runs for run in planned)
    if done < len(planned):
        return Confirmation(plan, [], done, len(planned))
    if curves is not None and (without := sorted(planned - epochs.keys())):
        raise SparseheadError(
            f"{CONFIRM}/{CURVES_CSV} has no epochs of {len(without)} of the plan's {len(planned)} runs ({without[0]} …), and they "
            "have no run folders beside it. Put the table back (git checkout)."
        )
    named = {"plan": plan.hash}
    rows = [row | named for choice in plan.choices for row in compared(plan.outcomes, choice, runs, epochs)]
    primary = [row for row in rows if row["contrast"] == PRIMARY and row["metric"] in plan.outcomes]
    for row, p in zip(primary, holm([row["p_t"] for row in primary]), strict=True):
        row["p_holm"] = p
    return Confirmation(plan, rows, done, len(planned))


def require_planned(plan: Plan, trials: list[Row]) -> None:
    """Raises: SparseheadError for a trial with a planned run's name and another method, λ, penalty or seed."""
    rows = {row["run"]: row for row in trials}
    for choice in plan.choices:
        for arm, names in choice.runs.items():
            wanted = {"method": choice.method, "lam": 0.0 if arm in ("zero", "regularisers") else choice.lam}
            wanted |= {"penalty": choice.setting["penalty"]} if arm == "chosen" and choice.lam else {}
            wanted |= {REGULARISERS: choice.regularisers, PROJECTOR: choice.projector} if arm != "zero" else {}
            for name, seed in zip(names, plan.seeds, strict=True):
                if (row := rows.get(name)) is None:
                    continue
                of_row = row | {"lam": float(row["lam"]), "seed": int(row["seed"])}
                if any(of_row[column] != value for column, value in (wanted | {"seed": seed}).items()):
                    raise SparseheadError(
                        f"{name} is not the run of the plan: it has method {row['method']}, λ {row['lam']}, penalty "
                        f"{row['penalty']}, regularisers {row[REGULARISERS]}, projector {row[PROJECTOR]} and seed {row['seed']}. "
                        "Put the table back (git checkout), or remove that line."
                    )


def compared(outcomes: tuple[str, ...], choice: Choice, runs: dict[str, Row], epochs: dict[str, pd.DataFrame]) -> Iterator[Row]:
    """The rows of one choice."""
    for contrast, (arm, reference) in CONTRASTS.items():
        if not {arm, reference} <= choice.runs.keys():
            continue
        pairs = list(zip(choice.runs[arm], choice.runs[reference], strict=True))
        for metric in (*outcomes, *OTHERS):
            values = [numbers(metric, pair, runs, epochs) for pair in pairs]
            values = [pair for pair in values if not any(map(math.isnan, pair))]
            if values:
                smallest = choice.detectable.get(metric, "") if contrast == PRIMARY else ""
                names = {**choice.setting, "lam": choice.lam, "contrast": contrast, "metric": metric}
                yield {**names, **statistics_of(values), "detectable": smallest}


def numbers(metric: str, pair: tuple[str, str], runs: dict[str, Row], epochs: dict[str, pd.DataFrame]) -> tuple[float, float]:
    """A number of the two runs of a pair: a column of sweep.csv, or ranks where both are equally far. NaN: not defined."""
    if metric in AT_EQUAL:
        none = pd.DataFrame()
        return at_equal(epochs.get(pair[0], none), epochs.get(pair[1], none), *AT_EQUAL[metric])
    values = [number(runs[run][metric]) for run in pair]
    if metric in RANKS:  # of a collapsed embedding: to leave the pair out would hide the collapse
        values = [0.0 if math.isnan(value) else value for value in values]
    return values[0], values[1]


def statistics_of(pairs: list[tuple[float, float]]) -> Row:
    """Means, the paired difference with its 95 % interval, both tests, and Cohen's d of the differences (mean over sd)."""
    paired = [value - reference for value, reference in pairs]
    difference, low, high = mean_interval(paired)
    sd = deviation(paired)
    return {
        "seeds": len(pairs),
        "mean": statistics.fmean(value for value, _ in pairs),
        "reference_mean": statistics.fmean(reference for _, reference in pairs),
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "effect_size": difference / sd if sd > 0 else math.nan,
        "p_t": t_test(paired),
        "p_permutation": sign_flip_test(paired),
    }


def is_shown(row: Row, plan: Plan) -> bool:
    """Whether a primary row's change is shown, its family considered."""
    return row.get("p_holm") not in (None, "") and float(row["p_holm"]) <= plan.level


def sentences(found: Confirmation) -> list[str]:
    """The verdicts, one a choice and primary outcome; or how far the confirmation is, where not every planned run is there."""
    plan = found.plan
    if not found.complete:
        return [
            f"{found.done} of {found.planned} confirming runs are there. Nothing is compared before all are, so that nobody stops "
            f"where it looks well. The plan is {plan.hash}."
        ]
    said = []
    for choice in plan.choices:
        rows = {(row["contrast"], row["metric"]): row for row in found.rows if choice.is_of(row)}
        pilot, fresh = len(plan.pilot_seeds), len(plan.seeds)
        said.append(
            f"{method_name(choice.method)}: {setting_in_words(choice)}, chosen by {pilot} pilot seeds, on {fresh} fresh ones:"
        )
        said += [f"    {verdict(rows[PRIMARY, outcome], choice, plan)}" for outcome in plan.outcomes]
        if ("control - zero", "accuracy") in rows:
            said += [f"    {line}" for line in control(rows, plan.outcomes)]
        if ("regularisers - zero", "accuracy") in rows:
            said += [f"    {line}" for line in beside(choice, rows, plan.outcomes)]
    return said


def setting_in_words(choice: Choice) -> str:
    """What was chosen."""
    head = "with BatchNorm" if choice.setting["batch_norm"] == "True" else "without BatchNorm"
    head = f"{head}, E = {choice.setting['projector_out']}" if choice.projector == USUAL_PROJECTOR else choice.projector
    of_penalty = f" of {choice.setting['penalty']} ({choice.setting['solver']})" if choice.lam else ""
    regularised = f", regularisers {choice.regularisers}" if choice.regularisers != NO_REGULARISER else ""
    return f"λ {choice.lam:g}{of_penalty}{regularised}, head {head}"


def verdict(row: Row, choice: Choice, plan: Plan) -> str:
    """What the fresh seeds say of one primary outcome."""
    _, scale, _ = WORDS[row["metric"]]
    text = f"{change(row, ', of it alone')}, p {float(row['p_holm']):.2g} after Holm: "
    if is_shown(row, plan):
        return text + ("a rise is shown." if float(row["difference"]) > 0 else "a fall is shown.")
    smallest = choice.detectable.get(row["metric"])
    if smallest is None:
        return f"{text}no change is shown."
    power = f"one of {scale * smallest:.2f} would have been found in {100 * plan.power:.0f} % of such studies"
    return f"{text}no change is shown; {power}."


def change(row: Row, of: str = "") -> str:
    """A row's difference with its interval, in the unit of its metric; `of` says what the interval is of."""
    name, scale, unit = WORDS[row["metric"]]
    difference, low, high = (scale * float(row[column]) for column in ("difference", "difference_low", "difference_high"))
    return f"{name} {difference:+z.2f}{unit} ({low:+z.2f} to {high:+z.2f}{of})"


def control(rows: dict[tuple[str, str], Row], outcomes: Iterable[str]) -> list[str]:
    """What shrinking alone changes, and what is left of the chosen penalty beside it."""
    alone, left = changes(rows, outcomes, "control - zero"), changes(rows, outcomes, "chosen - control")
    return [f"the control {CONTROL}, which only shrinks, from λ 0: {alone}.", f"the chosen penalty from the control: {left}."]


def beside(choice: Choice, rows: dict[tuple[str, str], Row], outcomes: Iterable[str]) -> list[str]:
    """What the regularisers alone change, and what the chosen penalty adds to them."""
    alone, added = changes(rows, outcomes, "regularisers - zero"), changes(rows, outcomes, "chosen - regularisers")
    return [f"{choice.regularisers} alone, from λ 0 without: {alone}.", f"λ {choice.lam:g} beside it, from it alone: {added}."]


def changes(rows: dict[tuple[str, str], Row], outcomes: Iterable[str], contrast: str) -> str:
    """The changes of all outcomes in a contrast, with commas between."""
    return ", ".join(change(rows[contrast, outcome]) for outcome in outcomes)
