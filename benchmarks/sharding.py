"""What memory does a large head take, whole in each of two processes or in parts (`--set shard_head=true`)?

    python benchmarks/sharding.py --out results/sharding/sharding.csv     # three layers of 8,192 units, some minutes on two cores
    python benchmarks/sharding.py --quick                                 # of 256 units: whether it runs, not to quote

Barlow Twins with the narrow network on the embedded images, λ 1e-4, batch 32, trained for four steps by two processes (gloo) of one
thread. Rows, of "whole" and of "sharded", and the ratio sharded / whole:

    weights          of the head, in one process                            MB
    peak             of a process's memory over four steps, less what it had before the run was built; the larger of the two    MB
    building         the same until the first step: each process makes all weights before it keeps its part                    MB
    step             seconds, the median of the last three
    loss             of the last step: the two must agree, but for the rounding of a sum of 67 million squares
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed.fsdp  # before memory is looked at, for both forms
from machine import facts

from sparsehead_cli.machine import distributed
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.training.loop import epoch_batches, train_step

STEPS = 4


def resident(field: str) -> float:
    """ "VmRSS" or "VmHWM" (the largest since the last `forget`) of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def forget() -> None:
    """Let VmHWM begin anew. See proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def one_process(sharded: bool, width: int, out: Path) -> None:
    """What one of the processes that torchrun started does, and finds."""
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    before = resident("VmRSS")
    forget()
    head = {"projector_layers": 3, "projector_hidden": width, "projector_out": width, "shard_head": sharded}
    settings = {"batch_size": 32, "lam": 1e-4, "lr": 1e-3, "precision": "float32", "results": Path(tempfile.gettempdir())}
    run = build(Config(method="barlow", **head, **settings))
    found = {"building": resident("VmHWM") - before}
    forget()
    batches, seconds = epoch_batches(run, 0), []
    for step in range(STEPS):
        began = time.perf_counter()
        loss = train_step(run, next(batches), step)["loss"].item()
        seconds.append(time.perf_counter() - began)
    found["peak"] = resident("VmHWM") - before
    found |= {"step": statistics.median(seconds[1:]), "loss": loss}
    found["weights"] = sum(distributed.own_part(p).numel() for p in run.method.projector.parameters()) * 4 / 2**20
    largest = distributed.all_gather(torch.tensor([list(found.values())])).amax(dim=0)
    if distributed.rank() == 0:
        out.write_text(json.dumps(dict(zip(found, largest.tolist(), strict=True))))
    distributed.stop()


def measure(name: str, width: int, scratch: Path) -> dict[str, float]:
    """The numbers of one form, by two processes of their own."""
    out = scratch / f"{name}.txt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    command = [*torchrun, "--width", str(width), "--process", name, "--out", str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--quick", action="store_true", help="256 units: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    parser.add_argument("--process", choices=("whole", "sharded"), help=argparse.SUPPRESS)  # how the script starts itself
    options = parser.parse_args()
    width = 256 if options.quick else options.width
    if options.process:
        return one_process(options.process == "sharded", width, options.out)
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: measure(name, width, Path(scratch)) for name in ("whole", "sharded")}
    if abs(found["sharded"]["loss"] / found["whole"]["loss"] - 1) > 1e-4:
        raise SystemExit(f"the losses differ: {found}")
    units = {"weights": "MB", "peak": "MB", "building": "MB", "step": "s", "loss": ""}
    rows = [row(name, key, numbers[key], unit) for name, numbers in found.items() for key, unit in units.items()]
    rows.append(row("both", "width", width, ""))
    rows += [row("sharded / whole", key, found["sharded"][key] / found["whole"][key], "") for key in ("weights", "peak", "step")]
    machine = facts()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, [{**line, **machine} for line in rows], "sharding.csv")
    return None


def row(head: str, measurement: str, value: float, unit: str) -> dict[str, object]:
    print(f"{head:<16} {measurement:<10} {value:14,.4f} {unit}", flush=True)
    return {"workload": head, "measurement": measurement, "value": round(value, 6), "unit": unit}


if __name__ == "__main__":
    main()
