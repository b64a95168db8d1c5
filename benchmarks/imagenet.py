"""Do the ImageNet entries of experiments.yaml run? Two processes, fifty steps, a folder of JPEGs and tar shards, stopped once.

    python benchmarks/imagenet.py --out results/imagenet/imagenet.csv     # a quarter of an hour on two cores
    python benchmarks/imagenet.py --quick                                 # twelve steps of the first entry, not stopped

Writes JPEGs of noise of ImageNet's usual 500 x 375 pixels as data_dir/imagenet/train/<wnid>/ and val/<wnid>/, and the same as
tar shards, and trains each entry under torchrun (gloo, two processes of one thread). The run on the folder is not interrupted.
The run on the shards gets SIGTERM in its second epoch and goes on by the same command; as both read the same images in the same
order, their losses must agree, and the script ends with an error where they do not.

What is smaller than the entry says, so that it ends: the batch (4 images in place of 2,048 or 4,096), the number of images and so
the epochs (two of 25 steps in place of 100 on 1.28 million images), the views, of 72 pixels in place of 224, and the learning rate,
a hundredth, since so few images give a gradient of noise. Network, stem, head, views, optimizer, λ and schedule are the entry's;
its warm-up is cut to the length of the run. The rows:

    reading                                     images a second that one core decodes and crops, twice each, to 224 pixels
    steps, images_per_second, waiting_share     of the last epoch on the folder
    loss_first, loss_last                       means of the two epochs
    stopped_at, stop_is_said                    the step that SIGTERM was obeyed in, on shards; whether one process said so
    loss_difference                             of the last epoch, shards with the stop less folder without
    checkpoint                                  bytes on the disk, MB
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import torch
from machine import facts
from torch.nn import functional as F
from torchvision.io import encode_jpeg

from sparsehead_cli.data.augment import RECIPES, Crops
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.runs.config import read_experiments
from sparsehead_cli.runs.table_files import read_csv, replace_csv

ENTRIES = ("imagenet-simclr", "imagenet-byol", "imagenet-barlow")
WNIDS = [f"n{number:08}" for number in (1440764, 1443537)]
STEPS, QUICK_STEPS, EPOCHS, BATCH = 50, 12, 2, 4
SMALLER = {"batch_size": BATCH, "epochs": EPOCHS, "image_size": 72, "precision": "float32"}
WORKERS = {"imagenet-barlow": 0}  # a reading process is a fork, which keeps its process's 6 GB as they were when the epoch began
NARROW = {"projector_hidden": 64, "blocks": "1,1,1,1"}  # with --quick


def write_images(root: Path, trained: int) -> None:
    """data_dir/imagenet/{train,val}/<wnid>/*.JPEG: noise of 375 x 500 pixels, a colour a class.

    A file has about 85 KB, those of ImageNet about 110. There are so many that `trained` of the training images are left when one
    in ten is held out.
    """
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", -(-trained * 10 // 9) + 1), ("val", 3 * len(WNIDS))):
        for i in range(count):
            label = i % len(WNIDS)
            coarse = torch.rand(1, 3, 24, 32, generator=generator)
            coarse[:, label] *= 0.3
            image = F.interpolate(coarse, size=(375, 500), mode="bicubic")[0]
            image = (image + 0.05 * torch.randn(3, 375, 500, generator=generator)).clamp(0, 1).mul(255).to(torch.uint8)
            path = root / "imagenet" / part / WNIDS[label] / f"{WNIDS[label]}_{i:05}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(image, 90).numpy().tobytes())


def write_shards(root: Path, shards: Path, count: int = 4) -> None:
    """The same images in the folder's order, as train-000.tar … and test-000.tar."""
    shards.mkdir()
    for part, name, number in (("train", "train", count), ("val", "test", 1)):
        paths = sorted((root / "imagenet" / part).glob("*/*.JPEG"))
        for shard in range(number):
            with tarfile.open(shards / f"{name}-{shard:03}.tar", "w") as tar:
                for path in paths[shard * len(paths) // number : (shard + 1) * len(paths) // number]:
                    label = path.with_suffix(".cls")
                    label.write_text(str(WNIDS.index(path.parent.name)))
                    tar.add(path, f"{path.parent.name}/{path.stem}.jpg")
                    tar.add(label, f"{path.parent.name}/{path.stem}.cls")
                    label.unlink()


def settings_of(entry: str, quick: bool) -> list[str]:
    """What is set beside the entry."""
    settings = {
        **SMALLER,
        "workers": WORKERS.get(entry, 1),
        "lr": read_experiments()[entry]["lr"] / 100,
        **(NARROW if quick else {}),
    }
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def train(entry: str, results: Path, data: list[str], quick: bool, *, stop: bool = False) -> str:
    """The command under torchrun, to its end; with `stop` SIGTERM comes within the second epoch. What it printed, errors behind."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sparsehead_cli"]
    command = [*torchrun, "pretrain", "--experiment", entry, "--results", str(results), *data, *settings_of(entry, quick)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    printed, errors = [], []
    reading = threading.Thread(target=lambda: errors.extend(process.stderr))
    reading.start()
    began = time.monotonic()
    for line in process.stdout:
        printed.append(line)
        if stop and line.startswith("epoch") and "kNN" in line:  # the first epoch is over
            time.sleep(0.3 * (time.monotonic() - began))  # of the time that it took: the second takes about as long
            process.send_signal(signal.SIGTERM)
            stop = False
        if not line.startswith("epoch"):
            began = time.monotonic()  # the first epoch begins with the last line of the header
    reading.join()
    if process.wait() and not any("stopped by SIGTERM" in line for line in errors):
        raise SystemExit(f"{entry} ended with {process.returncode}:\n{''.join(errors)}")
    return "".join(printed + errors)


def reading(root: Path) -> float:
    """Images a second that one process on one core decodes and crops, twice each, to 224 pixels."""
    source = load_split("imagenet", "pretrain", root, workers=0)
    crops = Crops(RECIPES["symmetric"], 224, 0)
    began, count = time.perf_counter(), 0
    for batch in source.batches(4, order=torch.arange(len(source)), read=crops):
        count += len(batch.labels)
    return count / (time.perf_counter() - began)


def run_entry(entry: str, root: Path, quick: bool) -> list[dict[str, object]]:
    """The rows of one entry, and its two runs, which must agree."""
    images, shards = ["--data-dir", str(root)], ["--dataset", str(root / "shards")]
    train(entry, root / "whole", images, quick)
    said = train(entry, root / "parts", shards, quick, stop=not quick)
    stopped = re.findall(r"^stopped by SIGTERM at step (\d+) of (\d+)", said, re.MULTILINE)
    if not quick:
        train(entry, root / "parts", shards, quick)
    whole, parts = (read_csv(next((root / name / entry).glob("*/metrics.csv"))) for name in ("whole", "parts"))
    checkpoint = next((root / "whole" / entry).glob("*/checkpoint.pt"))
    losses = [float(line["loss"]) for line in whole]
    difference = float(parts[-1]["loss"]) - losses[-1]
    rows = [row(entry, "steps", QUICK_STEPS if quick else STEPS, "")]
    rows += [
        row(entry, name, float(whole[-1][name]), unit) for name, unit in (("images_per_second", "images/s"), ("waiting_share", ""))
    ]
    rows += [row(entry, "loss_first", losses[0], ""), row(entry, "loss_last", losses[-1], "")]
    if stopped:
        rows += [row(entry, "stopped_at", int(stopped[0][0]), ""), row(entry, "stop_is_said", len(stopped), "")]
    rows += [row(entry, "loss_difference", difference, ""), row(entry, "checkpoint", checkpoint.stat().st_size / 1e6, "MB")]
    if not quick and (len(stopped) != 1 or not int(stopped[0][0]) < int(stopped[0][1]) == STEPS):
        raise SystemExit(f"{entry} was not stopped on its way:\n{said}")
    if not abs(difference) <= 1e-3 * abs(losses[-1]):
        raise SystemExit(f"{entry}: the losses of the two runs differ: {whole[-1]['loss']} and {parts[-1]['loss']}")
    return rows


def row(entry: str, measurement: str, value: float, unit: str) -> dict[str, object]:
    print(f"{entry:<16} {measurement:<18} {value:14,.5f} {unit}", flush=True)
    return {"experiment": entry, "measurement": measurement, "value": round(value, 6), "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", nargs="*", choices=ENTRIES, help="of experiments.yaml (default: all, with --quick the first)")
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV, which keeps those of other entries")
    options = parser.parse_args()
    entries = options.entries or (ENTRIES[:1] if options.quick else ENTRIES)
    steps = QUICK_STEPS if options.quick else STEPS
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch), steps // EPOCHS * BATCH)
        write_shards(Path(scratch), Path(scratch, "shards"))
        rows = [row("imagenet", "reading", reading(Path(scratch)), "images/s")]
        for entry in entries:
            rows += run_entry(entry, Path(scratch), options.quick)
    machine = facts()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        others = [line for line in read_csv(options.out, "imagenet.csv") if line["experiment"] not in ("imagenet", *entries)]
        replace_csv(options.out, [*others, *({**line, **machine} for line in rows)], "imagenet.csv")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
