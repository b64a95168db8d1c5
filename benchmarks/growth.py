"""How time and memory grow with the work: batch, images, widths, trials, processes; and does a step grow faster than its work?

    python benchmarks/growth.py                          # results/growth/, at most ten minutes on two idle cores
    python benchmarks/growth.py --axes images trials     # some axes; the rows of the others stay as they are
    python benchmarks/growth.py --quick --out FOLDER     # whether it runs, not how fast

Every point, a step at a size, is measured in a process of its own, which first takes the step at the smallest size, so that what is
loaded once does not count. growth.csv has the median seconds of at least three calls, and the megabytes that the first call took
at its peak beyond what the process held before, inputs included. A size is left out, and all larger ones with it, where three
calls would take longer than LONGEST. exponents.csv has the slopes of log seconds and log megabytes against log size over the upper
half of the sizes, and beside them the largest exponent of the work itself: that of its formula, such as 3 for eigenvalues.
"""

import argparse
import gc
import importlib
import math
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from machine import facts
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from sparsehead_cli import SparseHead
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo
from sparsehead_cli.data.looks import LOOKED_AT
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.data.shards import _indexed
from sparsehead_cli.evaluation.protocols import KS
from sparsehead_cli.evaluation.spectrum import TABLES as SPECTRUM_TABLES
from sparsehead_cli.evaluation.spectrum import other_tables
from sparsehead_cli.evaluation.spectrum_rows import number_of
from sparsehead_cli.evaluation.table import TaskTables
from sparsehead_cli.evaluation.task import few_labels
from sparsehead_cli.machine import distributed
from sparsehead_cli.measure.features import BATCH, Pixels, extract
from sparsehead_cli.measure.head import Reading, fewest_features, mean_response
from sparsehead_cli.measure.knn import knn_predict
from sparsehead_cli.measure.linear import linear_probe
from sparsehead_cli.measure.moments import BlockMoments, Moments
from sparsehead_cli.measure.spectrum import Spectrum, eigenvalues_of
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.present.figures import GREY, OKABE_ITO, STYLE, save_figure
from sparsehead_cli.present.report import write_study
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.table_files import Row, frame, read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN
from sparsehead_cli.sparse.telemetry import head_sparsity, layer_sparsity
from sparsehead_cli.ssl import losses
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.results import read_sweep
from sparsehead_cli.study.study import read_study
from sparsehead_cli.study.summary import summarise
from sparsehead_cli.sweeps.engines import cores
from sparsehead_cli.sweeps.sweep import SweepState
from sparsehead_cli.training.loop import epoch_batches, train_step

ROOT = Path(__file__).parents[1]
LONGEST = 6.0  # seconds that three calls of a step may take
CALLS, ENOUGH = 3, 0.3  # calls of a step at least, and the seconds after which there are no more than that
E_DIM, REPRESENTATION, CLASSES = 128, 256, 10
FASHION = DATASETS["fashion10k"]
# what steps import when they begin: imported before the processes fork, it is imported once
LATER = ("torch._dynamo", "sparsehead_cli.data.reading", "scipy.sparse.linalg", "torch.distributed.nn")
Work = Callable[[], object]


class Step(NamedTuple):
    """What makes the work of a size, in a folder for its files, and the largest exponents that seconds and megabytes may have.

    Some are not measured beyond a size (`most`), or below one (`least`).
    """

    make: Callable[[int, Path], Work]
    seconds: float
    megabytes: float
    most: int = 10**9
    least: int = 0


class Axis(NamedTuple):
    """What grows, its sizes, those of --quick, and the steps by name."""

    name: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    steps: dict[str, Step]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config(folder: Path, **settings: object) -> Config:
    return Config(results=folder / "runs", workers=cores(), **settings)


# --------------------------------------------------------------------------------------------------------------- batch


def training_step(size: int, folder: Path) -> Work:
    """Of the default network, SimCLR, views and optimizer included."""
    run = build(config(folder, batch_size=size))
    return partial(train_step, run, next(epoch_batches(run, 0)), 0)


def backward(loss: Callable[..., Tensor | tuple], *embeddings: Tensor, **constants: object) -> Work:
    """The loss of embeddings and its gradient."""
    leaves = [z.requires_grad_() for z in embeddings]

    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        result = loss(*leaves, **constants)
        (result[0] if isinstance(result, tuple) else result).backward()

    return work


def objective(name: str, batch: int, width: int) -> Work:
    """An objective of two views [batch, width], with the constants of its recipe."""
    z = [normal(batch, width, seed=seed) for seed in range(4)]
    prototypes = normal(512, width)
    dino = {"teacher_prototypes": prototypes, "centre": torch.zeros(512), "student_temperature": 0.1, "teacher_temperature": 0.02}
    labels = torch.arange(batch) % CLASSES
    return {
        "NT-Xent": lambda: backward(losses.nt_xent, *z[:2], temperature=0.2),
        "SupCon": lambda: backward(losses.sup_con, *z[:2], labels=labels, temperature=0.1),
        "InfoNCE": lambda: backward(partial(losses.info_nce, queue=normal(4096, width)), z[0], z[1], temperature=0.2),
        "BYOL": lambda: backward(losses.byol, *z),
        "SimSiam": lambda: backward(losses.simsiam, *z),
        "Barlow Twins": lambda: backward(losses.barlow_twins, *z[:2], off_diagonal=0.005),
        "VICReg": lambda: backward(losses.vicreg, *z[:2], invariance=25.0, variance=25.0, covariance=1.0),
        "W-MSE": lambda: backward(losses.w_mse, *z[:2], eps=0.0),
        "SwAV": lambda: backward(losses.swav, *z[:2], prototypes=prototypes[:128], temperature=0.1, epsilon=0.02, iterations=3),
        "DINO": lambda: backward(losses.dino, *z[:2], z[2], z[3], prototypes=prototypes, **dino),
        "pixels (autoencoder, MAE)": lambda: backward(
            lambda decoded: losses.reconstruction(decoded, torch.zeros_like(decoded), torch.ones_like(decoded)).mean(),
            normal(batch, 1, 28, 28),
        ),
    }[name]()


PAIRWISE = ("NT-Xent", "SupCon")  # objectives of a B x B matrix
SQUARE = ("Barlow Twins", "VICReg", "W-MSE")  # objectives of an E x E matrix
OTHERS = ("InfoNCE", "BYOL", "SimSiam", "SwAV", "DINO", "pixels (autoencoder, MAE)")


def objective_of_batch(name: str, size: int, folder: Path) -> Work:
    return objective(name, size, 32 if name == "W-MSE" else E_DIM)


def objective_of_width(name: str, size: int, folder: Path) -> Work:
    return objective(name, 2 * size if name == "W-MSE" else 256, size)


# -------------------------------------------------------------------------------------------------------------- images


@cache
def embedded() -> tuple[np.ndarray, np.ndarray]:
    return FASHION.read(Path(), True)


def grey(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The embedded images as often as it takes: uint8 [size, 28, 28], and their labels."""
    images, labels = embedded()
    return np.resize(images, (size, *images.shape[1:])), np.resize(labels, size)


def encoded(count: int) -> list[bytes]:
    """The first embedded images as PNGs."""
    from torchvision.io import encode_png

    return [encode_png(torch.from_numpy(image)[None]).numpy().tobytes() for image in embedded()[0][:count]]


def image_folder(size: int, folder: Path) -> Path:
    """train/CLASS/*.png: hard links to a few PNGs for each thousand, since a file system lets one have some ten thousand names."""
    root = folder / f"folder{size}"
    pngs = encoded(CLASSES)
    for i in range(size):
        label, place = i % CLASSES, i // CLASSES
        parent = root / "train" / f"class{label}"
        first = parent / f"{place // 1_000 * 1_000:07}.png"
        if first.name == f"{place:07}.png":
            parent.mkdir(parents=True, exist_ok=True)
            first.write_bytes(pngs[label])
        else:
            os.link(first, parent / f"{place:07}.png")
    return root


def shard_folder(size: int, folder: Path) -> Path:
    """train-*.tar of 1,000 images with labels each, all of them names of one file."""
    import io
    import tarfile

    root = folder / f"shards{size}"
    root.mkdir()
    pngs = encoded(CLASSES)
    with tarfile.open(root / "train-0000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(1_000):
            for ending, content in (("png", pngs[i % CLASSES]), ("cls", str(i % CLASSES).encode())):
                member = tarfile.TarInfo(f"{i:06}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for i in range(1, size // 1_000):
        os.link(root / "train-0000.tar", root / f"train-{i:04}.tar")
    return root


def memory_run(arrays: tuple[np.ndarray, np.ndarray], folder: Path) -> Run:
    """A run on images in memory, ready to take its first step."""
    DATASETS["grown"] = DatasetInfo(FASHION.classes, 1, 28, FASHION.normalise, lambda data_dir, train: arrays)
    return build(config(folder, dataset="grown"))


def streaming_run(root: Path, folder: Path) -> Run:
    """A run on images that stream from files, of which the process knows nothing yet."""
    _indexed.cache_clear()
    LOOKED_AT.clear()
    return build(config(folder, dataset=str(root), cache="none"))


def first_batch(make: Callable[[], Run]) -> None:
    """From nothing to the first batch of the first epoch."""
    batches = epoch_batches(make(), 0)
    next(batches)
    batches.close()


def epoch(run: Run) -> None:
    """The order and the batches of an epoch, without the network."""
    for _ in epoch_batches(run, 0):
        pass


def ready_in_memory(size: int, folder: Path) -> Work:
    return partial(first_batch, partial(memory_run, grey(size), folder))


def ready_from_files(write: Callable[[int, Path], Path], size: int, folder: Path) -> Work:
    return partial(first_batch, partial(streaming_run, write(size, folder), folder))


def epoch_in_memory(size: int, folder: Path) -> Work:
    return partial(epoch, memory_run(grey(size), folder))


def epoch_from_shards(size: int, folder: Path) -> Work:
    return partial(epoch, streaming_run(shard_folder(size, folder), folder))


def features(size: int) -> tuple[Tensor, Tensor]:
    """r [size, 256] of ten classes that overlap, and labels."""
    labels = torch.arange(size) % CLASSES
    r = torch.empty(size, REPRESENTATION)
    r.normal_(generator=torch.Generator().manual_seed(0)).add_(normal(CLASSES, REPRESENTATION, seed=1)[labels], alpha=0.2)
    return r, labels


def knn(size: int, folder: Path) -> Work:
    (bank, labels), queries = features(size), normal(100, REPRESENTATION, seed=2)
    return partial(knn_predict, bank, labels, queries, classes=CLASSES, ks=KS)


def probe(size: int, folder: Path) -> Work:
    (r, labels), (val, truth) = features(size), features(max(100, size // 9))
    return partial(linear_probe, (r, labels), (val, truth), normal(100, REPRESENTATION), CLASSES)


def extraction(size: int, folder: Path) -> Work:
    """Everything of it but the network: the features are the pixels."""
    images, labels = grey(size)
    source = Memory(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))
    return partial(extract, Pixels(), source, Prepare((1, 28, 28), FASHION.normalise))


def spectrum(size: int, folder: Path) -> Work:
    r, _ = features(size)

    def work() -> None:
        moments = BlockMoments(REPRESENTATION, size)
        for batch in r.split(BATCH):
            moments.add(batch)
        moments.close()
        Spectrum(moments).eigenvalues  # noqa: B018  # a cached property is computed where it is asked for

    return work


def labels_of_semi(size: int, folder: Path) -> Work:
    return partial(few_labels, torch.arange(size) % 1_000, 1_000, 0.1, 0)


# -------------------------------------------------------------------------------------------------------------- widths


def head(size: int) -> nn.Sequential:
    return make_projector(size, [size], size)


def penalty(name: str, size: int, folder: Path) -> Work:
    layer = nn.Linear(size, size)
    sparse = SparseHead(layer, lam=1e-3, penalty=name)

    def work() -> None:
        layer.weight.grad = None
        sparse.penalty().backward()

    return work


def proximal(size: int, folder: Path) -> Work:
    layer = nn.Linear(size, size)
    return partial(SparseHead(layer, lam=1e-3, solver="proximal").shrink, torch.optim.SGD(layer.parameters(), lr=0.1))


def head_pass(size: int, folder: Path) -> Work:
    projector, r = head(size), normal(256, size)

    def work() -> None:
        projector.zero_grad()
        projector(r).square().mean().backward()

    return work


def moments_of(size: int, folder: Path) -> Work:
    r = normal(2 * BATCH, size)

    def work() -> None:
        moments = Moments(size)
        for batch in r.split(BATCH):
            moments.add(batch)

    return work


def eigenvalues(size: int, folder: Path) -> Work:
    moments = Moments(size)
    moments.add(normal(2 * BATCH, size))
    return lambda: eigenvalues_of(moments.covariance())


def intervals(size: int, folder: Path) -> Work:
    moments = BlockMoments(size, 2 * BATCH)
    moments.add(normal(2 * BATCH, size))
    moments.close()
    return partial(moments.intervals, partial(number_of, "effective_rank"))


def reading(size: int, folder: Path) -> Work:
    projector, r = make_projector(size, [size], 32).eval(), normal(64, size)
    return lambda: Reading.of(mean_response(projector, r))


def batch_needs(size: int, folder: Path) -> Work:
    return partial(fewest_features, head(size).eval(), normal(256, size), 0.2)


def telemetry(size: int, folder: Path) -> Work:
    sparse, r = SparseHead(head(size).eval(), lam=1e-3), normal(BATCH, size)
    return lambda: head_sparsity(sparse, r, layer_sparsity(sparse, r))


def telemetry_without_head(size: int, folder: Path) -> Work:
    return partial(head_sparsity, SparseHead(nn.Identity(), lam=0), normal(BATCH, size))


def pruning(size: int, folder: Path) -> Work:
    """Half of the columns of every layer are zero."""
    projector = head(size).eval()
    with torch.no_grad():
        for layer in projector:
            if isinstance(layer, nn.Linear):
                layer.weight[:, ::2] = 0
    return SparseHead(projector, lam=1e-3).prune


# -------------------------------------------------------------------------------------------------------------- trials


def trials(size: int) -> list[Row]:
    """Rows of sweep.csv: five seeds of each λ, with the numbers of a trial that was run."""
    some = read_csv(ROOT / "results" / "lambda-methods" / "sweep.csv")[0]
    lams = [0.0, *np.geomspace(1e-5, 1e-1, size // 5 - 1).tolist()] if size >= 10 else [0.0]
    rows = [{**some, "lam": lam, "seed": seed, "run": f"run-{lam:.9g}-{seed}"} for lam in lams for seed in range(5)]
    for i, row in enumerate(rows):
        row |= {name: 0.8 + 0.05 * math.sin(i) for name in ("accuracy", "accuracy_z", "knn_accuracy", "val_accuracy")}
    return [{name: str(value) for name, value in row.items()} for row in rows]


def study(size: int, folder: Path) -> Path:
    """The folder of a sweep, a run folder of ten epochs for each trial."""
    root = folder / f"study{size}"
    rows = trials(size)
    metrics = read_csv(next((ROOT / "results" / "byol").glob("*/metrics.csv")))[:10]
    for row in rows:
        (root / row["run"]).mkdir(parents=True)
        replace_csv(root / row["run"] / "metrics.csv", [{**line, **{name: row[name] for name in RUN}} for line in metrics])
    replace_csv(root / "sweep.csv", rows)
    return root


def reading_of_study(size: int, folder: Path) -> Work:
    root = study(size, folder)
    return lambda: merged_curves(root, list(read_sweep(root).values()))


def summary(size: int, folder: Path) -> Work:
    return partial(summarise, trials(size))


def page(size: int, folder: Path) -> Work:
    return partial(write_study, read_study(study(size, folder)))


def bookkeeping_of_sweep(size: int, folder: Path) -> Work:
    """What keeps sweep.csv while trials finish one by one."""
    rows = {row["run"]: row for row in trials(size)}
    (folder / "sweep").mkdir(exist_ok=True)

    def work() -> None:
        state = SweepState(folder / "sweep", dict.fromkeys(rows))
        for name, row in rows.items():
            state.finished(name, row)

    return work


def bookkeeping_of_spectra(size: int, folder: Path) -> Work:
    """What keeps the tables of spectra while checkpoints are measured one by one."""
    source = ROOT / "results" / "spectrum"
    tables = [read_csv(source / name) for name in SPECTRUM_TABLES]
    tables = [[row for row in rows if row["task"] == rows[0]["task"]] for rows in tables]

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            kept = TaskTables(Path(root), SPECTRUM_TABLES, SPECTRUM_TABLES[-1], other_tables)
            for task in range(size):
                kept.add(f"{task:012}", tables)
            kept.write()

    return work


# ----------------------------------------------------------------------------------------------------------- processes


def together(size: int, folder: Path, calls: int = 5, joined_batch: int = 256) -> tuple[float, float]:
    """(median seconds, megabytes) of a training step that so many processes take together; the megabytes are of all of them."""
    context = multiprocessing.get_context("fork")
    results, common = context.Queue(), (size, free_port(), folder, calls, joined_batch)
    members = [context.Process(target=member, args=(rank, *common, results)) for rank in range(size)]
    for process in members:
        process.start()
    found = [results.get(timeout=600) for _ in members]
    for process in members:
        process.join()
    return max(seconds for seconds, _ in found), sum(megabytes for _, megabytes in found)


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def member(rank: int, world: int, port: int, folder: Path, calls: int, batch: int, results: multiprocessing.Queue) -> None:
    """One of the processes that train together."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, cores() // world))
    before = reset_peak()
    run = build(config(folder, batch_size=batch))
    first, seconds = next(epoch_batches(run, 0)), []
    for _ in range(calls + 1):
        distributed.barrier()
        began = time.perf_counter()
        train_step(run, first, 0)
        distributed.barrier()
        seconds.append(time.perf_counter() - began)
    results.put((statistics.median(seconds[1:]), peak() - before))
    distributed.stop()


# --------------------------------------------------------------------------------------------------------- measurement

AXES = {
    "batch": Axis(
        "images in a batch",
        tuple(2**i for i in range(6, 13)),
        (64, 128),
        {
            "training step": Step(training_step, 1, 1),
            **{name: Step(partial(objective_of_batch, name), 2, 2) for name in PAIRWISE},
            **{name: Step(partial(objective_of_batch, name), 1, 1) for name in (*SQUARE, *OTHERS)},
        },
    ),
    "images": Axis(
        "images",
        tuple(1_000 * 4**i for i in range(6)),
        (1_000, 2_000),
        {
            "ready, in memory": Step(ready_in_memory, 1, 1),
            "ready, from shards": Step(partial(ready_from_files, shard_folder), 1, 1),
            "ready, from a folder": Step(partial(ready_from_files, image_folder), 1, 1, most=256_000),
            "an epoch's batches, in memory": Step(epoch_in_memory, 1, 1),
            "an epoch's batches, from shards": Step(epoch_from_shards, 1, 1),
            "features (pixels)": Step(extraction, 1, 1),
            "spectrum of r": Step(spectrum, 1, 1),
            "kNN": Step(knn, 1, 1),
            "linear probe": Step(probe, 1, 1),
            "labels of semi-supervised evaluation": Step(labels_of_semi, 1, 1),
        },
    ),
    "width": Axis(
        "widths D and E",
        tuple(2**i for i in range(7, 14)),
        (64, 128),
        {
            "penalty l21": Step(partial(penalty, "l21"), 2, 2),
            "penalty nuclear": Step(partial(penalty, "nuclear"), 3, 2),
            "proximal map l21": Step(proximal, 2, 2),
            "head": Step(head_pass, 2, 2),
            **{name: Step(partial(objective_of_width, name), 3 if name == "W-MSE" else 2, 2) for name in SQUARE},
            "moments": Step(moments_of, 2, 2),
            "eigenvalues": Step(eigenvalues, 3, 2),
            "intervals of ranks": Step(intervals, 3, 2, most=2_048),
            "what the head reads": Step(reading, 3, 2),
            "features that a batch needs": Step(batch_needs, 2, 2),
            "telemetry of an epoch": Step(telemetry, 2, 2),
            "telemetry without a head": Step(telemetry_without_head, 1, 1),
            "prune": Step(pruning, 2, 2),
        },
    ),
    "trials": Axis(
        "trials",
        (10, 30, 100, 300, 1_000),
        (10, 20),
        {
            "reading a sweep": Step(reading_of_study, 1, 1),
            "summary with bootstrap": Step(summary, 1, 1),
            "page": Step(page, 1, 1),
            "sweep.csv, trial by trial": Step(bookkeeping_of_sweep, 1, 1),
            "tables of spectra, one by one": Step(bookkeeping_of_spectra, 1, 1),
        },
    ),
    "processes": Axis("processes", (1, 2, 4), (1, 2), {"training step, joined batch of 256": Step(together, 0, 1)}),
}


def peak() -> float:
    """The most memory that this process has had, MB, since it was reset (ru_maxrss is in kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> float:
    """Let the peak begin anew, where the system can, at what the process holds now, MB, which is returned."""
    gc.collect()
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def measure(step: Step, size: int, smallest: int, folder: Path, calls: int) -> tuple[float, float]:
    """(median seconds, megabytes) of a step, in this process; at least so many calls."""
    if calls > 1:
        with tempfile.TemporaryDirectory(dir=folder) as small:
            step.make(smallest, Path(small))()
    work, seconds = step.make(size, folder), []
    before = reset_peak()
    while len(seconds) < calls or (calls > 1 and sum(seconds) < ENOUGH):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 1:
            megabytes = peak() - before
    return statistics.median(seconds), megabytes


def alone(function: Callable[..., tuple[float, float]], *arguments: object) -> tuple[float, float]:
    """What a function returns, called in a process of its own: a fork, which has everything imported and nothing begun."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit("a step failed: see above") from None
    finally:
        process.join()


def rows_of(key: str, axis: Axis, quick: bool) -> Iterable[Row]:
    """The rows of growth.csv for an axis, as they are measured."""
    for what, step in axis.steps.items():
        points: list[tuple[int, float]] = []
        sizes = [size for size in (axis.quick if quick else axis.sizes) if step.least <= size <= step.most]
        for size in sizes:
            if not quick and CALLS * predicted(points, size, step.seconds) > LONGEST:
                print(f"{key:10} {what:38} {size:9,}  left out: it would take too long", flush=True)
                break
            with tempfile.TemporaryDirectory() as folder:
                if key == "processes":
                    seconds, megabytes = together(size, Path(folder), 1 if quick else 9, 64 if quick else 256)
                else:
                    seconds, megabytes = alone(measure, step, size, sizes[0], Path(folder), 1 if quick else CALLS)
            points.append((size, seconds))
            print(f"{key:10} {what:38} {size:9,} {seconds:11.5f} s {megabytes:9,.1f} MB", flush=True)
            yield {"axis": key, "what": what, "size": size, "seconds": seconds, "megabytes": round(max(0.0, megabytes), 2)}


def predicted(points: list[tuple[int, float]], size: int, work: float) -> float:
    """About how many seconds a call will take, told by the last two sizes, or by one as if it were in proportion."""
    if not points:
        return 0.0
    last, seconds = points[-1]
    slopes = [math.log(b / a) / math.log(n / m) for (m, a), (n, b) in pairwise(points[-2:])]
    slope = min(max(0.0, *slopes), work + 0.5) if slopes else 1.0  # a machine that is busy for a moment is no growth
    return seconds * (size / last) ** slope


def exponents(rows: list[Row]) -> list[Row]:
    """The rows of exponents.csv: slopes over the upper half of the sizes; none where there is less than a megabyte."""
    result = []
    for key, axis in AXES.items():
        for what, step in axis.steps.items():
            points = sorted((row for row in rows if (row["axis"], row["what"]) == (key, what)), key=lambda row: int(row["size"]))
            upper = points[len(points) // 2 - (len(points) == 2) :]
            for measurement, work in (("seconds", step.seconds), ("megabytes", step.megabytes)) if len(points) > 1 else ():
                values = [float(row[measurement]) for row in upper]
                known = measurement == "seconds" or min(values) >= 1
                slope = np.polyfit(np.log([int(row["size"]) for row in upper]), np.log(values), 1)[0] if known else None
                fitted = {"from_size": upper[0]["size"], "to_size": upper[-1]["size"]}
                value = None if slope is None else round(float(slope), 3)
                result.append({"axis": key, "what": what, "measurement": measurement, "value": value, "work": work, **fitted})
    return result


# -------------------------------------------------------------------------------------------------------------- figure


def figure_of(rows: list[Row], slopes: list[Row]) -> Figure:
    """Exponents of seconds and of megabytes, a line a step, beside those of the work; and what the largest size took."""
    table, largest = frame(slopes), frame(rows).groupby(["axis", "what"], sort=False).last()
    steps = list(dict.fromkeys(zip(table["axis"], table["what"], strict=True)))
    places, headings, y = {}, {}, 0.0
    for i, (axis, what) in enumerate(steps):
        if i == 0 or steps[i - 1][0] != axis:
            headings[axis] = y
            y += 1
        places[axis, what] = y
        y += 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.3 + 0.19 * y), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, measurement, color in zip(panels, ("seconds", "megabytes"), (OKABE_ITO[0], OKABE_ITO[4]), strict=True):
            for row in table[table["measurement"] == measurement].itertuples():
                at = places[row.axis, row.what]
                ax.plot([0, row.work], [at, at], color="#e4e4e4", lw=5, solid_capstyle="butt", zorder=1)
                ax.plot(row.value, at, "o", color=color, ms=5, zorder=3)
                last = largest.loc[(row.axis, row.what)]
                place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
                ax.annotate(amount(last[measurement], measurement), (1.17, at), fontsize=7.5, **place)
            ax.set(xlim=(-0.15, 3.3), xticks=range(4), title=f"exponent of {measurement}")
            ax.grid(axis="x", color="#eeeeee", lw=0.6)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        labels = [*places.items(), *((axis, at) for axis, at in headings.items())]
        names = [name_of(*name, rows) if isinstance(name, tuple) else heading(name, rows) for name, _ in labels]
        panels[0].set_yticks([at for _, at in labels], names, fontsize=8)
        for tick, (name, _) in zip(panels[0].get_yticklabels(), labels, strict=True):
            tick.set_fontweight("normal" if isinstance(name, tuple) else "bold")
        panels[0].set_ylim(y - 0.3, -0.7)
        handles = [
            Line2D([], [], color="#e4e4e4", lw=5, label="at most: the exponent of the work itself"),
            Line2D(
                [], [], color=GREY, ls="", marker="o", ms=5, label="measured, over the upper half of the sizes (none: under 1 MB)"
            ),
        ]
        figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        figure.suptitle("How time and memory grow with the work; right of each panel, what the largest size took")
    return figure


def heading(axis: str, rows: list[Row]) -> str:
    """What grows, and how far."""
    sizes = [int(row["size"]) for row in rows if row["axis"] == axis]
    return f"{AXES[axis].name}, up to {max(sizes):,}"


def name_of(axis: str, what: str, rows: list[Row]) -> str:
    """A step, and how far it was measured where others went further."""
    furthest = max(int(row["size"]) for row in rows if row["axis"] == axis)
    largest = max(int(row["size"]) for row in rows if (row["axis"], row["what"]) == (axis, what))
    return what if largest == furthest else f"{what}, to {largest:,}"


def amount(value: float, measurement: str) -> str:
    """Seconds or megabytes in few digits."""
    if measurement == "megabytes":
        return f"{value / 1000:.1f} GB" if value >= 1000 else f"{value:.0f} MB"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms" if value >= 0.001 else f"{1e6 * value:.0f} µs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what grows (default: everything)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "growth", help="the folder of tables and figure")
    parser.add_argument("--quick", action="store_true", help="two small sizes: to see that it runs, not to quote")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for module in LATER:
        importlib.import_module(module)
    if options.quick:
        torch.set_num_threads(1)  # work so small gains nothing from a second thread, and waits long for it on a busy machine
    machine = facts()
    kept = [row for row in read_csv(options.out / "growth.csv") if row["axis"] not in options.axes]
    for key in options.axes:
        kept += [{**row, **machine} for row in rows_of(key, AXES[key], options.quick)]
        rows = sorted(kept, key=lambda row: list(AXES).index(row["axis"]))
        replace_csv(options.out / "growth.csv", rows)
        replace_csv(options.out / "exponents.csv", exponents(rows))
    save_figure(figure_of(rows, exponents(rows)), options.out / "growth")


if __name__ == "__main__":
    main()
