"""How long `sparsehead report` takes for a sweep of many finished trials: reading, averaging, drawing and the page.

    python benchmarks/page.py --out results/page/durations.csv        # about a minute on two cores

The folder is made here, in a temporary place, of numbers that mean nothing: four methods, λ 0 and nine others, the seeds that
make up the number of trials, and five epochs each, as `sweep-lambda` leaves them. What is timed is the real command in a new
process, from its start to its end; the median of three.
"""

import argparse
import random
import tempfile
from pathlib import Path

from durations import keep, seconds_of

from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.runs.tables import COLUMNS, METRICS, TABLES
from sparsehead_cli.study.results import SWEEP_CSV

METHODS = ("simclr", "byol", "barlow", "moco")
LAMS = (0.0, *(10 ** (-6 + i / 2) for i in range(9)))
EPOCHS = 5


def numbers(table: str, draw: random.Random) -> Row:
    """A row of a table that fits its declaration: shares and counts for numbers, nothing for texts."""
    filled = {}
    for name in TABLES[table].columns:
        kind = COLUMNS[name].kind
        filled[name] = "x" if kind == "text" else "True" if kind == "truth" else 4 if kind == "whole" else round(draw.random(), 4)
    return filled


def finished_sweep(folder: Path, trials: int) -> None:
    """A folder as a sweep of so many trials leaves it."""
    draw, rows = random.Random(0), []
    for seed in range(max(1, trials // (len(METHODS) * len(LAMS)))):
        for method in METHODS:
            for lam in LAMS:
                run = f"{method}-{lam:g}-seed{seed}"
                same = {"run": run, "method": method, "lam": lam, "seed": seed, "penalty": "l21", "solver": "subgradient"}
                rows.append({**numbers(SWEEP_CSV, draw), **same})
                epochs = [{**numbers(METRICS, draw), **same, "epoch": epoch} for epoch in range(1, EPOCHS + 1)]
                (folder / run).mkdir(parents=True)
                replace_csv(folder / run / METRICS, epochs)
    replace_csv(folder / SWEEP_CSV, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="few trials, once: to see that it runs, not to quote")
    options = parser.parse_args()
    trials, repeats = (40, 1) if options.quick else (options.trials, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finished_sweep(folder / "sweep", trials)
        seconds = seconds_of(["report", "sweep"], folder, repeats)
        keep(options.out, [(f"report of {trials:,} trials", seconds, "s")])


if __name__ == "__main__":
    main()
