"""How fast is the pipeline, and how near to what the machine can do? Images a second (two views each), in one run, medians.

    python benchmarks/throughput.py

"bare" is forward, backward and optimizer step of backbone and head on views that are already there. "pipeline" is
everything that `sparsehead pretrain` does for a batch: gather, views, step, penalty, gradient norm, logging; with λ above 0 by
each solver. "convolutions alone" is the sum of what torch takes for each convolution of the step, forward and backward, by itself.
Timings alternate batch by batch, so a machine whose speed drifts slows all alike. `gflops` is the arithmetic of the step, as
torch's own convolutions would do it, over its time; the machine's limit is a product of large matrices in the same precision.
Other libraries: `peers/compare.py`.
"""

import argparse
import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import facts
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.data.contract import joined
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo
from sparsehead_cli.machine.memory import keep_freed_memory
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.training.loop import epoch_order, train_step

FASHION = DATASETS["fashion10k"]


def read_rgb32(data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """The embedded images as 32x32 RGB: padded by two pixels, three equal channels. Their content does not change the speed."""
    images, labels = FASHION.read(data_dir, train)
    return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None], 3, axis=1), labels


DATASETS["fashion-rgb32"] = DatasetInfo(FASHION.classes, 3, 32, FASHION.normalise, read_rgb32)
RECIPES["colour-no-blur"] = (Augmentation(), Augmentation())


NETWORKS = (("narrow", "fashion10k", 60), ("narrow", "fashion-rgb32", 40), ("resnet18", "fashion-rgb32", 8))  # and rounds
PENALISED = {f"pipeline, λ, {solver}": {"lam": 1e-4, "solver": solver} for solver in ("subgradient", "proximal")}


def make_run(backbone: str, dataset: str, batch_size: int, **settings: object) -> Run:
    views = "grey-small" if dataset == "fashion10k" else "colour-no-blur"
    settings |= {"backbone": backbone, "dataset": dataset, "views": views, "batch_size": batch_size}
    return build(Config(**settings, results=Path(tempfile.gettempdir())))


def pipeline_step(run: Run) -> Callable[[], None]:
    """One batch from the images on the device to the update, as the loop does it."""
    if run.sparse and run.sparse.solver == "proximal":
        run.sparse.attach(run.optimizer)
    stream = itertools.chain.from_iterable(
        run.train.batches(run.local_batch, order=epoch_order(run, run.phases[0], epoch)) for epoch in itertools.count()
    )
    steps, sums = itertools.count(), {}

    def step() -> None:
        for name, value in train_step(run, next(stream), next(steps) % run.total_steps).items():
            sums[name] = sums.get(name, 0) + value

    return step


def bare_step(run: Run) -> Callable[[], None]:
    """Forward, backward and update on views made beforehand."""
    batch = next(run.train.batches(run.local_batch))
    views = run.views(batch.inputs, generator=torch.Generator())

    def step() -> None:
        with run.autocast():
            loss, _ = run.forward(views, batch)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()

    return step


def alternate(steps: dict[str, Callable[[], None]], rounds: int, block: int) -> dict[str, list[float]]:
    """Seconds a batch for each step, measured in turn, `block` batches at a time; the first round warms up.

    Each round begins with another step, so none always follows the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            for _ in range(block):
                steps[name]()
            if turn:
                seconds[name].append((time.perf_counter() - started) / block)
    return seconds


def speed_ratio(seconds: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """(median seconds, median of pairwise ratios of speed to the first step's) of each step."""
    base = next(iter(seconds.values()))
    return {
        name: (statistics.median(times), statistics.median(b / t for b, t in zip(base, times, strict=True)))
        for name, times in seconds.items()
    }


def report(network: str, batch_size: int, seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    """Rows of medians, printed as they come; `ratio` is that to the first step."""
    rows, beside = [], next(iter(seconds))
    for name, (median, ratio) in speed_ratio(seconds).items():
        speed = batch_size / median
        row = {"network": network, "workload": name, "images_per_second": round(speed, 1), "ratio": round(ratio, 3)}
        rows.append({**row, "beside": beside})
        print(f"{network:>12}  {name:<24} {speed:9,.1f} images/s   {ratio:6.3f} × {beside}", flush=True)
    return rows


# ---------------------------------------------------------------------------------------------- what the machine can do


def largest_product(precision: torch.dtype) -> Callable[[], None]:
    """A product of two square matrices of side 2,048."""
    a = torch.randn(2048, 2048).to(precision)
    return lambda: a @ a


def shapes_of(run: Run) -> list[tuple[nn.Conv2d, torch.Size]]:
    """The convolutions of a step in their order, each with the shape of its inputs."""
    shapes: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda conv, args, _: shapes.append((conv, args[0].shape)))
        for module in run.method.modules()
        if isinstance(module, nn.Conv2d)
    ]
    batch = next(run.train.batches(run.local_batch))
    with torch.no_grad():
        run.forward(run.views(batch.inputs, generator=torch.Generator()), batch)
    for hook in hooks:
        hook.remove()
    return shapes


def alone(
    conv: nn.Conv2d, shape: torch.Size, precision: torch.dtype, *, images: bool = False, ours: bool = False
) -> Callable[[], None]:
    """A convolution by itself, forward and backward, by torch's own or by ours; `images` need no gradient."""
    x = torch.randn(shape).to(precision, memory_format=torch.channels_last).requires_grad_(not images)
    weight = conv.weight.detach().to(precision, memory_format=torch.channels_last).requires_grad_()

    def convolve() -> torch.Tensor:
        return conv(x) if ours else nn.functional.conv2d(x, weight, None, conv.stride, conv.padding)

    gradient = torch.randn_like(convolve())
    return lambda: convolve().backward(gradient)


def step_gflop(run: Run) -> float:
    """10^9 floating-point operations of the network's products in one step, the zeros around the maps among them."""
    method = copy.deepcopy(run.method).to("meta")  # where convolutions are torch's own
    batch = next(run.train.batches(run.local_batch))
    views = run.views(batch.inputs, generator=torch.Generator())
    with FlopCounterMode(display=False) as counter:
        method.embed(joined(views).to("meta"))[1].sum().backward()
    return counter.get_total_flops() / 1e9


def measure(backbone: str, dataset: str, batch_size: int, rounds: int) -> list[dict[str, object]]:
    """The rows of one network."""
    network = backbone if dataset == "fashion10k" else f"{backbone}, colour"
    keep_freed_memory()  # as training does
    run = make_run(backbone, dataset, batch_size)
    gflop = step_gflop(run)
    convolutions = [alone(conv, shape, run.precision, images=i == 0) for i, (conv, shape) in enumerate(shapes_of(run))]

    def every_convolution() -> None:
        for convolve in convolutions:
            convolve()

    steps = {"bare": bare_step(run), "pipeline": pipeline_step(run)}
    steps |= {name: pipeline_step(make_run(backbone, dataset, batch_size, **lam)) for name, lam in PENALISED.items()}
    steps |= {"convolutions alone": every_convolution, "largest product": largest_product(run.precision)}
    seconds = alternate(steps, rounds, block=1)
    limit = 2 * 2048**3 / 1e9 / statistics.median(seconds.pop("largest product"))
    lam = {name: seconds.pop(name) for name in PENALISED}
    rows = report(network, batch_size, seconds) + report(network, batch_size, {"pipeline": seconds["pipeline"], **lam})[1:]
    for row in rows:
        gflops = gflop * row["images_per_second"] / batch_size
        row |= {"dtype": str(run.precision).removeprefix("torch."), "gflops": round(gflops, 1), "limit": round(limit, 1)}
    share = rows[0]["gflops"] / limit
    print(f"{network:>12}  {gflop:.1f} GFLOP a step, {rows[0]['gflops']:.0f} GFLOP/s of {limit:.0f}: {share:.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    rows = []
    for backbone, dataset, rounds in NETWORKS:
        rows += measure(backbone, dataset, 16 if options.quick else 128, 1 if options.quick else rounds)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, [{**row, **facts()} for row in rows], "throughput.csv")


if __name__ == "__main__":
    main()
