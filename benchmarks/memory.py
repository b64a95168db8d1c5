"""What large batches and deep networks take of memory, and what it costs to take less of it.

    python benchmarks/memory.py --out results/memory/memory.csv         # half an hour on two idle cores, 10 GB of memory
    python benchmarks/memory.py --quick                                 # whether it runs, not how much it takes

Each peak is that of a process of its own (ru_maxrss: the interpreter, torch and all code included), which makes two steps;
`start_mb` is what it had before them. Seconds are medians over steps that one further process makes in turn, `ratio` is the median
of pairwise ratios of speed to the first row of the workload. The workloads:

    pretrain     `sparsehead pretrain`, the whole default run; its seconds are those of the command
    resnet18     a step of ResNet-18 on 512 images of 32x32 pixels, two views each, by `accumulate`
    resnet50     a step of ResNet-50 on 8 images of 64x64 pixels, two views each, by `checkpoint_activations`
    nt_xent,     value and gradient for 4,096 images, two views each, E = 128, by how many similarities are held at once:
    sup_con      all of them, or those of the package
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Nothing that is large is imported up here: a process that starts others is part of their peak.
WORKLOADS = {
    "resnet18": ("accumulate", ("1", "2", "4", "8")),
    "resnet50": ("checkpoint_activations", ("false", "true")),
    "nt_xent": ("at_once", ("all", "limit")),
    "sup_con": ("at_once", ("all", "limit")),
}
NETWORKS = {
    "resnet18": {"image_size": 32, "batch_size": 512},
    "resnet50": {"image_size": 64, "batch_size": 8},
}
QUICK = {"image_size": 16, "batch_size": 16, "widths": (8, 8, 8, 8)}
QUICK_WORKLOADS = {"resnet18": ("accumulate", ("1", "2"))}
IMAGES, DIM = 4096, 128  # of an objective
ROUNDS = 3
Step = Callable[[], object]


def network_steps(name: str, quick: bool) -> dict[str, Step]:
    """A training step by each value of the setting."""
    from sparsehead_cli.runs.build import build
    from sparsehead_cli.runs.config import Config
    from sparsehead_cli.training.loop import epoch_batches, train_step

    sizes = QUICK if quick else NETWORKS[name]
    run = build(Config(backbone=name, precision="float32", results=Path(tempfile.gettempdir()), **sizes))
    batch = next(iter(epoch_batches(run, 0)))

    def step(value: str) -> None:
        if name == "resnet18":
            run.method.parts = int(value)
        else:
            run.method.backbone.set_grad_checkpointing(value == "true")
        train_step(run, batch, 0)

    return {value: partial(step, value) for value in WORKLOADS[name][1]}


def objective_steps(name: str, quick: bool) -> dict[str, Step]:
    """Value and gradient of an objective by how many similarities are held at once."""
    import torch

    from sparsehead_cli.ssl.losses import contrastive

    images = 256 if quick else IMAGES
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(images, DIM, generator=generator).requires_grad_() for _ in range(2))
    constants = {"temperature": 0.2}
    if name == "sup_con":
        constants["labels"] = torch.randint(10, (images,), generator=generator)
    at_once = {"all": 4 * images**2, "limit": images**2 if quick else contrastive.MOST_SIMILARITIES}

    def step(value: str) -> None:
        contrastive.MOST_SIMILARITIES = at_once[value]
        getattr(contrastive, name)(z1, z2, **constants).backward()

    return {value: partial(step, value) for value in WORKLOADS[name][1]}


def steps_of(name: str, quick: bool) -> dict[str, Step]:
    return (network_steps if name in NETWORKS else objective_steps)(name, quick)


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peaks(name: str, value: str, quick: bool) -> dict[str, float]:
    """The peak of two steps; the second has the optimizer's own numbers beside it."""
    step = steps_of(name, quick)[value]
    start = peak_mb()
    step(), step()
    return {"start_mb": start, "peak_mb": peak_mb()}


def times(name: str, quick: bool) -> dict[str, dict[str, float]]:
    """Seconds of a step by value, and the ratio of its speed to that of the first value, measured in turn."""
    steps = steps_of(name, quick)
    seconds: dict[str, list[float]] = {value: [] for value in steps}
    next(iter(steps.values()))()  # warms up
    for _ in range(1 if quick else ROUNDS):
        for value, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[value].append(time.perf_counter() - began)
    first = next(iter(seconds.values()))
    ratios = {value: [a / b for a, b in zip(first, own, strict=True)] for value, own in seconds.items()}
    return {value: {"seconds": statistics.median(own), "ratio": statistics.median(ratios[value])} for value, own in seconds.items()}


def apart(*arguments: str) -> dict:
    """What this script finds in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def default_run(quick: bool) -> dict[str, object]:
    """Peak and seconds of `sparsehead pretrain`."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "sparsehead_cli", "pretrain", "--results", results]
        command += ["--epochs", "1", "--batch-size", "500", "--set", "widths=8,8,8,8"] if quick else []
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"peak_mb": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - began}


def row(workload: str, setting: str, numbers: dict[str, float]) -> dict[str, object]:
    digits = {"peak_mb": 0, "start_mb": 0, "seconds": 3, "ratio": 3}
    shown = {name: round(numbers[name], places) if name in numbers else "" for name, places in digits.items()}
    print(f"{workload:<9} {setting:<28}", *(f"{name} {number}" for name, number in shown.items()), sep="  ", flush=True)
    return {"workload": workload, "setting": setting, **shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    parser.add_argument("--only", help="one workload")
    parser.add_argument("--apart", nargs="+", help=argparse.SUPPRESS)  # a workload and maybe a value, in this process
    options = parser.parse_args()
    if options.apart:
        print(json.dumps((peaks if len(options.apart) == 2 else times)(*options.apart, options.quick)))
        return
    quick = ["--quick"] if options.quick else []
    rows = [] if options.only not in (None, "pretrain") else [row("pretrain", "", default_run(options.quick))]
    for name, (setting, values) in (QUICK_WORKLOADS if options.quick else WORKLOADS).items():
        if options.only in (None, name):
            found = {value: apart(*quick, "--apart", name, value) for value in values}
            seconds = apart(*quick, "--apart", name)
            rows += [row(name, f"{setting}={value}", found[value] | seconds[value]) for value in values]
    if options.out:
        write(options.out, rows)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    from machine import facts

    from sparsehead_cli.runs.table_files import replace_csv

    machine = facts()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_csv(path, [{**row, **machine} for row in rows], "memory.csv")


if __name__ == "__main__":
    main()
