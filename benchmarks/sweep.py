"""What `sparsehead sweep-lambda` costs above its trials, side by side on the same machine.

    python benchmarks/sweep.py --out results/sweep/overhead.csv        # about eight minutes on two cores

bare: one process, everything imported, one thread, that does what a trial does (pretraining and linear evaluation), alone, and
beside as many others as there are cores: the speed-up of running trials side by side. sweep: the command itself on 12 trials, from
its start to its prompt. ideal: 12 times the bare time of one alone, over the speed-up. The sweep should take at most 1.1 × that.
trial_share: the bare time of one alone with all cores, over what each further trial adds to a sweep with --jobs 1, which gives it
as many: a trial of a sweep should run at 0.95 of the speed of the same run alone at least.
"""

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.sweeps.engines import cores, processes
from sparsehead_cli.sweeps.grid import read_grid, trials
from sparsehead_cli.sweeps.trial import run_trial

LAMS, SEEDS, EPOCHS = "0,1e-3,3e-3,1e-2,3e-2,1e-1", 2, 2  # twelve trials
ONE_MORE = "1e-3", "1e-3,3e-3,1e-2,3e-2"  # λ of two sweeps whose difference is that of three trials
TINY = {"widths": "8,8,8,8", "projector_hidden": 16, "projector_out": 8, "batch_size": 500}  # of --quick


def bare(
    folder: Path,
    settings: dict[str, object],
    threads: int,
    ready: multiprocessing.Queue,
    go: multiprocessing.Event,
    done: multiprocessing.Queue,
) -> None:
    """One trial's work, timed once everything is imported and all others are ready, too."""
    torch.set_num_threads(threads)
    grid = read_grid("lambda-quick", None, {"lams": "1e-3", "seeds": 1}, {"results": folder, **settings})
    config = trials(grid, "lambda-quick")[0]
    ready.put(True)
    go.wait()
    began = time.perf_counter()
    run_trial(dataclasses.replace(config, lam=1e-3))
    done.put(time.perf_counter() - began)


def seconds_of_bare(count: int, settings: dict[str, object], threads: int = 1) -> float:
    """How long `count` trials beside each other take, until the last has ended, with so many threads each."""
    context = processes()
    ready, go, done = context.Queue(), context.Event(), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        queues = (ready, go, done)
        running = [context.Process(target=bare, args=(Path(folder, str(i)), settings, threads, *queues)) for i in range(count)]
        for process in running:
            process.start()
        for _ in running:
            ready.get()
        go.set()
        seconds = max(done.get() for _ in running)
        for process in running:
            process.join()
    return seconds


def seconds_of_sweep(lams: str, seeds: int, settings: dict[str, object], jobs: int | None = None) -> float:
    """The command from start to end, with so many trials at a time."""
    axes = ["--lams", lams, "--seeds", str(seeds), *(["--jobs", str(jobs)] if jobs else [])]
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sparsehead_cli", "sweep-lambda", *axes, *given, "--results", folder]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})
        return time.perf_counter() - began


def count(lams: str) -> int:
    """How many values of λ these are."""
    return len(lams.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    options = parser.parse_args()
    repeats, lams, seeds = (1, "0,1e-3", 1) if options.quick else (3, LAMS, SEEDS)
    settings = {"epochs": 1, **TINY} if options.quick else {"epochs": EPOCHS}
    rounds = [(seconds_of_bare(1, settings), seconds_of_bare(cores(), settings)) for _ in range(repeats)]
    alone, beside = (statistics.median(column) for column in zip(*rounds, strict=True))
    sweep = seconds_of_sweep(lams, seeds, settings)
    with_all = statistics.median(seconds_of_bare(1, settings, threads=cores()) for _ in range(repeats))
    few, more = ONE_MORE
    if options.quick:
        added = sweep / count(lams)
    else:
        longer = seconds_of_sweep(more, 1, settings, jobs=1) - seconds_of_sweep(few, 1, settings, jobs=1)
        added = longer / (count(more) - count(few))
    speed_up = cores() * alone / beside
    numbers = {"bare_alone": alone, "bare_beside": beside, "speed_up": speed_up, "sweep": sweep}
    numbers["ideal"] = count(lams) * seeds * alone / speed_up
    numbers["overhead"] = sweep / numbers["ideal"]
    numbers["trial_share"] = with_all / added
    for name, value in numbers.items():
        print(f"{name:12} {value:8.2f}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        row = {name: round(value, 3) for name, value in numbers.items()}
        machine = {"cores": cores(), "torch": str(torch.__version__), "commit": code_version()}
        replace_csv(options.out, [{**row, **machine}], "overhead.csv")


if __name__ == "__main__":
    main()
