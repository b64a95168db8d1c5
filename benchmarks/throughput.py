"""How fast is the pipeline against the bare step of the same network? Images a second (two views each), in one run, medians.

    python benchmarks/throughput.py

"bare" is forward, backward and optimizer step of backbone and head on views that are already there. "pipeline" is
everything that `sparsehead pretrain` does for a batch: gather, views, step, penalty, gradient norm, logging.
Timings alternate batch by batch, so a machine whose speed drifts slows both alike. Other libraries: `peers/compare.py`.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import code_version
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


def make_run(backbone: str, dataset: str, batch_size: int) -> Run:
    views = "grey-small" if dataset == "fashion10k" else "colour-no-blur"
    settings = {"backbone": backbone, "dataset": dataset, "views": views, "batch_size": batch_size}
    return build(Config(**settings, results=Path(tempfile.gettempdir())))


def pipeline_step(run: Run) -> Callable[[], None]:
    """One batch from the images on the device to the update, as the loop does it."""
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
    """Seconds a batch for each step, measured in turn, `block` batches at a time; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(block):
                step()
            if turn:
                seconds[name].append((time.perf_counter() - started) / block)
    return seconds


def report(network: str, batch_size: int, seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    """Rows of medians, printed as they come; `ratio` is the median of pairwise ratios of speed to the first step's."""
    rows = []
    base = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(b / t for b, t in zip(base, times, strict=True))
        speed = batch_size / statistics.median(times)
        rows.append({"network": network, "workload": name, "images_per_second": round(speed, 1), "ratio": round(ratio, 3)})
        print(f"{network:>12}  {name:<22} {speed:9,.1f} images/s   {ratio:6.3f} × {next(iter(seconds))}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    rows, batch_size = [], 32 if options.quick else 128
    for backbone, dataset, rounds in (("narrow", "fashion10k", 60), ("resnet18", "fashion-rgb32", 12)):
        run = make_run(backbone, dataset, batch_size)
        steps = {"bare": bare_step(run), "pipeline": pipeline_step(run)}
        rows += report(backbone, batch_size, alternate(steps, 2 if options.quick else rounds, block=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"commit": code_version(), "torch": str(torch.__version__)}
        replace_csv(options.out, [{**row, **machine} for row in rows], "throughput.csv")


if __name__ == "__main__":
    main()
