"""Every method's recipe, with and without λ, through the command line, into one table.

    python benchmarks/methods.py                        # trains what results/methods/methods.csv lacks; two runs at a time
    python benchmarks/methods.py --seeds 3              # each run with three seeds in place of one
    python benchmarks/methods.py --page                 # trains nothing: the table of docs/methods.md, from what is there
    python benchmarks/methods.py --quick --results DIR  # one method for one epoch

Each row is the last epoch of `sparsehead pretrain --method METHOD --lam LAM`, on the held-out images; a run is a row only once
it has ended, and one that was interrupted goes on. "pixels" are the images themselves; "untrained" are the same measurements
of initial weights, for three seeds, after BatchNorm has seen one epoch of views in training mode. Two one-thread runs share
two cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from sparsehead_cli.measure.dimensions import effective_rank
from sparsehead_cli.measure.knn import knn_accuracy
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.present.table import Column, difference, mean
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import load_config, parse_set
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.study.stats import paired_columns
from sparsehead_cli.training.loop import epoch_order
from sparsehead_cli.training.probe import NEIGHBOURS, bank_of, measure

LAMS = (0.0, 1e-3)
SEEDS = 3
COLUMNS = {  # of the page: heading -> column of methods.csv, and how a cell is written; shares in %
    "kNN of r, %": ("knn_accuracy", Column("", digits=1, scale=100)),
    "kNN of z, %": ("knn_accuracy_z", Column("", digits=1, scale=100)),
    "rank of r": ("effective_rank_r", Column("", digits=1)),
    "rank of z": ("effective_rank_z", Column("", digits=1)),
}
QUICK = ["epochs=1", "batch_size=500", "widths=8,8,8,8"]


def untrained(seed: int, results: Path, settings: list[str]) -> dict[str, object]:
    """The row of initial weights. BatchNorm's statistics are of views; without them its numbers would mean less still."""
    run = build(load_config(None, None, {"seed": seed, "lam": 0.0, "results": results, **parse_set(settings)}))
    with torch.no_grad():
        for batch in run.train.batches(run.local_batch, order=epoch_order(run, run.phases[0], 0)):
            run.method.embed(run.views(batch.inputs, generator=torch.Generator())[0].inputs)
    return {
        **identity_columns(run.config, run.name),
        "method": "untrained",
        "run": "",
        "epoch": 0,
        **measure(run, bank_of(run.train), run.val)[0],
    }


def pixels(results: Path) -> dict[str, object]:
    """The row of the images themselves: accuracy and effective rank by the same measure as r's."""
    run = build(load_config(None, None, {"lam": 0.0, "results": results}))
    (bank, labels), (features, truth) = (
        (split.inputs.flatten(1).float() / 255, split.labels) for split in (bank_of(run.train), run.val)
    )
    accuracy = knn_accuracy(bank, labels, features, truth, k=NEIGHBOURS, classes=10)
    spectrum = Spectrum.of(features)
    row = {**identity_columns(run.config, run.name), "method": "pixels", "run": "", "epoch": 0}
    return {**row, "knn_accuracy": accuracy, "effective_rank_r": effective_rank(spectrum.eigenvalues), "std_r": spectrum.std}


def page(rows: list[Row]) -> str:
    """Rows of methods.csv -> the table of docs/methods.md: numbers at λ 0, and what λ changes of them, over paired seeds."""
    head = ["method", "seeds", *(text for name in COLUMNS for text in (name, "with λ")), "groups active with λ, %"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in METHODS:
        zero, other = ({row["seed"]: row for row in rows if (row["method"], float(row["lam"])) == (method, lam)} for lam in LAMS)
        if not (seeds := zero.keys() & other.keys()):
            continue
        cells = [f"`{method}`", str(len(seeds))]
        for column, shape in COLUMNS.values():
            before, after = ({seed: float(of[seed][column]) for seed in seeds} for of in (zero, other))
            cells.append(shape.written(mean(paired_columns(before, {}))))
            cells.append(replace(shape, sign="+").written(difference(paired_columns(after, before))).replace("-", "−"))
        active = statistics.fmean(float(other[seed]["active_groups"]) / float(other[seed]["n_groups"]) for seed in seeds)
        lines.append("| " + " | ".join([*cells, f"{100 * active:.0f}"]) + " |")
    return "\n".join(lines)


def train(method: str, lam: float, seed: int, results: Path, settings: list[str]) -> dict[str, object]:
    """The last row of a run that the command line trains, in a process with one thread; `settings` are other than the recipe's."""
    command = ["-m", "sparsehead_cli", "pretrain", "--method", method, "--lam", str(lam), "--seed", str(seed)]
    command += ["--results", str(results)]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    made = {"method": method, "lam": lam, "seed": seed, "results": results, **parse_set(settings)}
    run = build(load_config(None, None, made))
    return read_csv(run.folder / "metrics.csv")[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where runs and table go")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each method and λ")
    parser.add_argument("--page", action="store_true", help="print the table of docs/methods.md, and train nothing")
    parser.add_argument("--quick", action="store_true", help="one method for one epoch: to see that it runs, not to quote")
    options = parser.parse_args()
    methods, seeds, settings = (["simclr"], 1, QUICK) if options.quick else (options.methods, SEEDS, [])
    table = options.results / "methods" / "methods.csv"
    rows = read_csv(table)
    if options.page:
        print(page(rows))
        return
    table.parent.mkdir(parents=True, exist_ok=True)
    have = {(row["method"], float(row["lam"]), int(row["seed"]), row["backbone"]) for row in rows}
    trained = {(method, lam, seed) for method, lam, seed, _ in have}

    def add(row: dict[str, object]) -> None:
        rows.append(row)
        order = ["pixels", "untrained", *METHODS]
        rows.sort(key=lambda r: (order.index(r["method"]), r["backbone"], float(r["lam"]), int(r["seed"])))
        replace_csv(table, rows)
        print(f"{row['method']:>12}  λ {float(row['lam']):g}  kNN {100 * float(row['knn_accuracy']):.1f} %", flush=True)

    if ("pixels", 0.0, 0) not in trained:
        add(pixels(options.results))
    for backbone in ("narrow",) if options.quick else ("narrow", "vit-mini"):
        for seed in range(seeds):
            if ("untrained", 0.0, seed, backbone) not in have:
                add(untrained(seed, options.results, [f"backbone={backbone}", *settings]))
    jobs = [(method, lam, seed) for method in methods for lam in LAMS for seed in range(options.seeds)]
    wanted = [job for job in jobs if job not in trained]
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda job: train(*job, options.results, settings), wanted):
            add(row)


if __name__ == "__main__":
    main()
