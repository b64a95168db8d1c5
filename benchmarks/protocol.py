"""Does `--confirm` keep what it promises? Thousands of simulated studies, each with a pilot that chooses and seeds that judge.

    python benchmarks/protocol.py --out results/protocol/protocol.csv     # 2,000 studies a scenario, ten minutes of one core
    python benchmarks/protocol.py --quick                                 # 40 of each

A study has two methods and five values of λ. A run's numbers are a level of its seed, which all λ share, plus noise of its own,
plus the effect of its λ; the noise of the held-out accuracy, which chooses, and that of the test accuracy, which judges, are
correlated by 0.5, as both are of one network. The rows go through the functions of `sparsehead sweep-lambda --confirm`:
`candidates`, `chosen`, `detectable_of` and `confirmation`. Scenarios:

    null          no λ changes anything                   any verdict is false
    some          for both methods λ changes r's rank by as much as is found with 80 % power, and nothing else
                  verdicts on the others are false; found: the share of the rank's that are shown
    all           every outcome of both methods changes by as much as its plan says is found with 80 % power

    family_wise_error   share of studies with at least one false verdict     <= 0.05 is promised
    found               share of the true changes that are shown             >= 0.80 is promised, whichever λ the pilot chose
    one_look            family_wise_error of the usual practice: the λ with the best held-out accuracy is judged by the seeds that
                        chose it, each outcome at 0.05
    without_choice      the same of a λ that was fixed beforehand: what the number of tests does alone
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import facts

from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.runs.tables import TABLES
from sparsehead_cli.study.confirm import PRIMARY, confirmation, is_shown
from sparsehead_cli.study.plan import OUTCOMES, Choice, Plan, candidates, chosen, detectable_of
from sparsehead_cli.study.stats import differences, t_test

METHODS, LAMS, PILOT, FRESH = ("simclr", "byol"), (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 3, 16
NUMBERS = ("val_accuracy", *OUTCOMES)
LEVELS = {"val_accuracy": (0.6, 0.01, 0.008), "accuracy": (0.6, 0.01, 0.006), "effective_rank_r": (30, 1.0, 0.8)}
LEVELS["effective_rank_z"] = (18, 0.8, 0.5)  # mean, spread of the seeds, spread of a run within its seed
TOGETHER = 0.5  # correlation of what is by chance in held-out and test accuracy
SCENARIOS = {"null": (), "some": ("effective_rank_r",), "all": OUTCOMES}


def runs_of(
    method: str, seeds: range, lams: dict[str, float], draw: np.random.Generator, effect: dict[str, float]
) -> Iterator[Row]:
    """Rows of sweep.csv with what the protocol reads; `effect` is added to the numbers of every λ above 0."""
    for seed in seeds:
        levels = {name: draw.normal(mean, of_seeds) for name, (mean, of_seeds, _) in LEVELS.items()}
        for name_of_lam, lam in lams.items():
            shared = draw.standard_normal()
            row = {"run": f"{method}-{name_of_lam}-{seed}", "method": method, "lam": lam, "seed": seed, "penalty": "l21"}
            for name, (_, _, within) in LEVELS.items():
                share = TOGETHER if "accuracy" in name else 0.0
                lot = np.sqrt(share) * shared + np.sqrt(1 - share) * draw.standard_normal()
                row[name] = levels[name] + within * lot + (effect.get(name, 0.0) if lam else 0.0)
            yield BLANK | row


def study(scenario: str, draw: np.random.Generator) -> tuple[bool, int, int, bool, bool]:
    """(a false verdict?, true changes shown, true changes, a false one by one look, and by one at a fixed λ?) of one study."""
    pilot = [row for method in METHODS for row in runs_of(method, range(PILOT), {f"{lam:g}": lam for lam in LAMS}, draw, {})]
    best = chosen(candidates(pilot))
    looked = any(by_one_look(one.trials, one.lam) for one in best)
    choices, trials = [], []
    for one in best:
        smallest = detectable_of(one, FRESH, len(best) * len(OUTCOMES))
        method = one.setting["method"]
        lams = {"zero": 0.0, "chosen": one.lam, "control": one.lam}
        names = {arm: [f"{method}-{arm}-{seed}" for seed in range(FRESH)] for arm in lams}
        choices.append(Choice(one.setting, one.lam, one.held_out, smallest, names))
        effect = {name: smallest[name] for name in SCENARIOS[scenario]}
        trials += runs_of(method, range(FRESH), lams, draw, effect)
    plan = Plan("simulated", "", "", "", list(range(PILOT)), list(range(FRESH)), choices, [])
    rows = [row for row in confirmation(plan, trials, None).rows if row["contrast"] == PRIMARY and row["metric"] in OUTCOMES]
    true = [row for row in rows if row["metric"] in SCENARIOS[scenario]]
    false = any(is_shown(row, plan) for row in rows if row["metric"] not in SCENARIOS[scenario])
    fixed = any(by_one_look(one.trials, LAMS[3]) for one in best)
    return false, sum(is_shown(row, plan) for row in true), len(true), looked, fixed


def by_one_look(trials: object, lam: float) -> bool:
    """Whether the usual practice finds something in a pilot without any effect: the chosen λ against λ 0, each outcome at 0.05."""
    by_lam = {value: of_lam.set_index("seed") for value, of_lam in trials.groupby("lam")}
    return any(t_test(differences(by_lam[lam][name].to_dict(), by_lam[0.0][name].to_dict())) < 0.05 for name in OUTCOMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a CSV")
    parser.add_argument("--quick", action="store_true", help="40 studies of each")
    options = parser.parse_args()
    studies, rows = 40 if options.quick else 2_000, []
    for place, scenario in enumerate(SCENARIOS):
        draw = np.random.default_rng([17, place])
        false, found, true, looked, fixed = (
            sum(column) for column in zip(*(study(scenario, draw) for _ in range(studies)), strict=True)
        )
        values = {"family_wise_error": false / studies, "one_look": looked / studies, "without_choice": fixed / studies}
        if true:
            values["found"] = found / true
        for measurement, value in values.items():
            count = true if measurement == "found" else studies
            error = 1.96 * np.sqrt(value * (1 - value) / count)
            numbers = {"value": value, "low": max(0.0, value - error), "high": min(1.0, value + error)}
            rows.append({"workload": scenario, "measurement": measurement, "studies": studies, **numbers, **facts()})
            print(f"{scenario:6} {measurement:18} {value:.3f} ± {error:.3f} of {studies} studies")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, rows)


BLANK = dict.fromkeys(TABLES["sweep.csv"].columns, "0")


if __name__ == "__main__":
    main()
