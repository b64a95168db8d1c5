"""What the paper claims beside what a fair test measured: the confirming runs of a plan, measured in every way that it speaks of.

    sparsehead sweep-lambda --experiment confirm-cifar10 --dataset data/cifar10-jpeg --confirm 16
    python benchmarks/claims.py results/confirm-cifar10      # claims.csv, and its table for docs/results.md
    python benchmarks/claims.py results/cures                # likewise for docs/heads.md, a line a cure

The linear probe and the ranks are in the sweep's own tables. Beside them every run of λ 0 and of the chosen λ was evaluated by
`sparsehead evaluate --protocol knn,semi` and on fashion10k (`--dataset fashion10k --protocol linear,knn`); of cures, cures.py
measured what a step takes. The rows that are compared are gathered in confirm/evaluations.csv, of the runs' folders where these
are still there. Differences are paired by seed, with the 95 % interval and the p of Student's paired t. None is corrected here;
confirmation.csv corrects the plan's outcomes.
"""

import argparse
import sys
from pathlib import Path

from answers import NAMES
from cures import STEPS

from sparsehead_cli.present.confirmation import called, is_of_cures
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv
from sparsehead_cli.study.confirm import statistics_of
from sparsehead_cli.study.plan import Plan, read_plan
from sparsehead_cli.study.results import CONFIRM, read_sweep

EVALUATIONS, CLAIMS = "evaluations.csv", "claims.csv"
COMPARED = (("", "", ""), ("20", "cosine", "weighted"))  # k, distance and vote: of all but kNN, and the kNN that is compared
STATISTICS = ("seeds", "mean", "reference_mean", "difference", "difference_low", "difference_high", "p_t")
OF_SWEEP = {"accuracy": "linear probe", "effective_rank_r": "effective rank of r", "effective_rank_z": "effective rank of z"}
OF_CURES = OF_SWEEP | {"knn_accuracy": "kNN of held-out images"}
WORDS = {"linear": "linear probe", "knn": "kNN (k = 20)", "semi-linear": "linear probe", "semi-finetune": "fine-tuning"}
PAPER = {("simclr", "linear probe"): 2.12, ("byol", "linear probe"): 1.05}  # points on ImageNet; the paper's key results


def gathered(folder: Path) -> list[Row]:
    """The rows of evaluations.csv that are compared: of r, and one of each run's kNN.

    Those that were gathered before stay, where a run's folder is gone or has not the same evaluation.
    """
    found = [row for path in (folder / EVALUATIONS, *sorted(folder.glob(f"*/{EVALUATIONS}"))) for row in read_csv(path)]
    compared = [row for row in found if row["features"] == "r" and (row["k"], row["distance"], row["vote"]) in COMPARED]
    newest = {(row["run"], row["task"]): row for row in compared}
    return list(newest.values())


def measurement_of(row: Row) -> str:
    """What a row of evaluations.csv measured, in words."""
    of_labels = f" on {100 * number(row['label_share']):g} % of the labels" if row["label_share"] else ""
    elsewhere = "" if row["eval_dataset"] == row["dataset"] else f" on {row['eval_dataset']}"
    return WORDS[row["protocol"]] + of_labels + elsewhere


def measured(folder: Path, of_sweep: dict[str, str]) -> dict[str, dict[str, float]]:
    """measurement -> run -> value, of every confirming run; `of_sweep` are columns of sweep.csv and what they measure."""
    values: dict[str, dict[str, float]] = {}
    for row in read_csv(folder / EVALUATIONS):
        if (row["protocol"], row["eval_dataset"]) != ("linear", row["dataset"]):  # which the sweep's table has
            values.setdefault(measurement_of(row), {})[row["run"]] = float(row["value"])
    for run, row in read_sweep(folder).items():
        for column, name in of_sweep.items():
            values.setdefault(name, {})[run] = number(row[column])
    return values


def claims(plan: Plan, folder: Path) -> list[Row]:
    """A row a choice and measurement that all runs of both arms have: what was chosen against λ 0 of the same seeds."""
    rows, every = [], sorted(measured(folder, OF_CURES if is_of_cures(plan) else OF_SWEEP).items())
    for choice in plan.choices:
        for measurement, values in every:
            arms = [[values.get(run) for run in choice.runs[arm]] for arm in ("chosen", "zero")]
            if None in arms[0] + arms[1]:
                there = [sum(value is not None for value in arm) for arm in arms]
                left_out = f"{choice.method}, {measurement}: {there[0]} runs of the chosen λ have it and {there[1]} of λ 0"
                print(f"left out: {left_out}", file=sys.stderr)
                continue
            numbers = statistics_of(list(zip(*arms, strict=True)))
            common = {
                "experiment": plan.experiment,
                "method": choice.method,
                "penalty": choice.setting["penalty"],
                "regularisers": choice.regularisers,
                "projector": choice.projector,
                "lam": choice.lam,
            }
            rows.append({**common, "measurement": measurement, **{name: numbers[name] for name in STATISTICS}, "plan": plan.hash})
    return rows


def table(rows: list[Row]) -> str:
    """claims.csv as a table of Markdown: accuracies in %, differences in points."""
    lines = ["| | at λ 0 | at the chosen λ | difference (95 %) | the paper's gain on ImageNet is |", "|---|---|---|---|---|"]
    for row in rows:
        rank = "rank" in row["measurement"]
        scale, unit = (1, "") if rank else (100, " %")
        before, after, difference, low, high = (
            scale * number(row[name]) for name in ("reference_mean", "mean", "difference", "difference_low", "difference_high")
        )
        gain = PAPER.get((row["method"], row["measurement"]))
        verdict = "" if gain is None else f"+{gain} points: {'excluded' if high < gain else 'possible'}"
        name = f"{NAMES[row['method']]}, {row['measurement']}"
        lines.append(
            f"| {name} | {before:.1f}{unit} | {after:.1f}{unit} | {difference:+z.2f} ({low:+z.2f} to {high:+z.2f}) | {verdict} |"
        )
    return "\n".join(lines)


def table_of_cures(plan: Plan, rows: list[Row], steps: list[Row]) -> str:
    """claims.csv as a table of Markdown with a line a cure: differences from λ 0 in points and of ranks, and in % what a step of
    `steps`, the rows of cures.py, takes longer.
    """
    names = [*dict.fromkeys(row["measurement"] for row in rows), *["time of a step"] * bool(steps)]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for choice in plan.choices:
        cells = []
        for row in filter(choice.is_of, rows):
            scale = 1 if "rank" in row["measurement"] else 100
            difference, high = (scale * number(row[name]) for name in ("difference", "difference_high"))
            cells.append(f"{difference:+z.2f} ± {high - difference:.2f}")
        cells += [f"{100 / number(row['ratio']) - 100:+z.0f} %" for row in steps if choice.is_of(row)]
        lines.append(f"| {called(choice, plan)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="that of a sweep with a plan whose runs are all there")
    folder = parser.parse_args().folder
    plan = read_plan(folder)
    if plan is None:
        raise SystemExit(f"{folder} has no plan: sparsehead sweep-lambda --confirm N writes it")
    if found := gathered(folder / CONFIRM):
        replace_csv(folder / CONFIRM / EVALUATIONS, found)
    rows = claims(plan, folder / CONFIRM)
    replace_csv(folder / CLAIMS, rows)
    print(table_of_cures(plan, rows, read_csv(folder / STEPS)) if is_of_cures(plan) else table(rows))


if __name__ == "__main__":
    main()
