"""What it costs that images lie in files: a folder of small images beside the same images as an array, and tar shards.

    python benchmarks/own_images.py --folder data/cifar10-jpeg --out results/own-images/own_images.csv

A folder of small squares is decoded once. From then on its steps are compared with those on an array of the same images, a
block of steps of one and of the other in turn; medians, and the ratio of each pair. Of shards: the images a second that are
indexed, that tarfile reads in the order of the files, and that are read by their index in a random order. `--quick` takes few.
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sparsehead_cli.data.datasets import DATASETS, DatasetInfo, load_split
from sparsehead_cli.data.shards import shards
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.training.loop import epoch_batches, train_step

SETTINGS = {"views": "symmetric", "batch_size": 128, "precision": "float32", "epochs": 100, "workers": 2}


def small_folder(root: Path) -> Path:
    """A folder of 1,000 JPEGs of 32 x 32 pixels, made of the embedded garments."""
    from torchvision.io import encode_jpeg

    split = load_split("fashion10k", "train", Path("data"))
    images = torch.nn.functional.pad(split.inputs[:1000], (2, 2, 2, 2)).expand(-1, 3, -1, -1).clone()
    images[:, 2] //= 2  # coloured
    for i, (image, label) in enumerate(zip(images, split.labels[:1000].tolist(), strict=True)):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04}.jpg").write_bytes(encode_jpeg(image, 90).numpy().tobytes())
    return root


def steps(run: Run, batches: Iterator, count: int) -> float:
    """Images a second of so many steps, their batches and views included."""
    began = time.perf_counter()
    for step in range(count):
        train_step(run, next(batches), step)
    return count * run.batch_size / (time.perf_counter() - began)


def folder_beside_array(folder: Path, blocks: int, size: int) -> list[dict[str, object]]:
    """Blocks of `size` steps on the decoded folder and on an array of the same images, in turn."""
    began = time.perf_counter()
    decoded = build(Config(dataset=str(folder), results=Path(tempfile.gettempdir()), **SETTINGS))
    seconds = time.perf_counter() - began
    train, val = decoded.train, decoded.val
    inputs = torch.cat([train.inputs, val.inputs]).numpy()
    labels = torch.cat([train.labels, val.labels]).numpy()
    info = train.spec
    DATASETS["array"] = DatasetInfo(
        info.classes, info.channels, info.size, info.normalise, lambda data_dir, train: (inputs, labels)
    )
    runs = {"folder": decoded, "array": build(Config(dataset="array", results=Path(tempfile.gettempdir()), **SETTINGS))}
    batches = {name: epoch_batches(run, 0) for name, run in runs.items()}
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        steps(run, batches[name], 3)
    for block in range(blocks):
        for name in sorted(runs, reverse=bool(block % 2)):
            speeds[name].append(steps(runs[name], batches[name], size))
    ratios = [a / b for a, b in zip(speeds["folder"], speeds["array"], strict=True)]
    rows = [row(f"{name}_steps", statistics.median(values), "images/s") for name, values in speeds.items()]
    rows.append(row("folder_to_array", statistics.median(ratios), ""))
    rows.append(row("decoding_and_building", seconds, "s"))
    return [*rows, row("images", len(inputs), "")]


def write_shards(folder: Path, root: Path, count: int) -> None:
    """The training files of a folder, shuffled, as shards with labels."""
    paths = sorted(folder.glob("train/*/*"))
    np.random.default_rng(0).shuffle(paths)
    for number in range(count):
        with tarfile.open(root / f"train-{number:03}.tar", "w") as tar:
            for path in paths[number::count]:
                for ending, content in ((path.suffix, path.read_bytes()), (".cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(f"{path.stem}-{path.parent.name}{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def shard_speeds(root: Path) -> list[dict[str, object]]:
    """Indexing, reading in the order of the files, and reading anywhere by the index."""
    began = time.perf_counter()
    listing = shards(str(root)).listing(True)
    rows = [row("shards_index", len(listing) / (time.perf_counter() - began), "images/s")]
    began, count = time.perf_counter(), 0
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".cls"):
                    count += len(tar.extractfile(member).read()) > 0
    rows.append(row("shards_in_order", count / (time.perf_counter() - began), "images/s"))
    began = time.perf_counter()
    for i in np.random.default_rng(0).permutation(len(listing)).tolist():
        listing.read(i)
    return [*rows, row("shards_anywhere", len(listing) / (time.perf_counter() - began), "images/s")]


def row(measurement: str, value: float, unit: str) -> dict[str, object]:
    print(f"{measurement:<24} {value:12,.3f} {unit}", flush=True)
    return {"measurement": measurement, "value": round(value, 4), "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder with train/<class>/ of small squares (default: some that are made)")
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    parser.add_argument("--quick", action="store_true", help="a few steps: to see that it runs, not to quote")
    options = parser.parse_args()
    blocks, size = (1, 1) if options.quick else (options.blocks, options.steps)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or small_folder(Path(scratch, "images"))
        rows = folder_beside_array(folder, blocks, size)
        Path(scratch, "shards").mkdir()
        write_shards(folder, Path(scratch, "shards"), 4)
        rows += shard_speeds(Path(scratch, "shards"))
    machine = {"cores": os.cpu_count(), "torch": str(torch.__version__), "commit": code_version()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, [{**row, **machine} for row in rows], "own_images.csv")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main()
