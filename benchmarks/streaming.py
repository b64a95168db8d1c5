"""Does a folder of images stream? Memory, speed and waiting while `pretrain` and `evaluate` read JPEGs from the disk.

    python benchmarks/streaming.py --out results/streaming/streaming.csv         # 20,000 images, three epochs; some minutes
    python benchmarks/streaming.py --quick                                       # whether it runs, not how fast

Writes an image folder of JPEGs, 160 x 120 pixels in ten classes (the images of fashion10k, enlarged and coloured at random), and
trains the narrow network on it through the command line. Each second the memory of the command and of its reading processes is
added up: "rss" counts pages that they share once for each of them, "pss" once. A row is one measurement:

    start, median, maximum of memory     of each epoch, from the first reading process on, the probe at its end included
    images_per_second, waiting_share     of each epoch, from metrics.csv
    evaluate_…                           memory while `sparsehead evaluate` reads the images, waiting, and linear accuracy of r
    load_average                         of the machine before the run: how much else it had to do
    bare, step, reading                  images a second of the network alone (views ready), of the whole step (crops ready), and
                                         of the reading processes alone
    corrupt                              one JPEG in the middle is cut short: exit codes with and without --skip-bad-images, whether
                                         the message names it, and the images that were skipped
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.io import encode_jpeg

from sparsehead_cli.data.augment import Crops
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.runs.build import Run, build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.training.loop import train_step

SETTINGS = {"image_size": 32, "views": "symmetric", "batch_size": 256, "precision": "float32"}


def write_folder(root: Path, images: int) -> None:
    """train/<class>/*.jpg with `images` images, test/ with a tenth as many; a folder that has them already stays as it is."""
    for part, count in (("train", images), ("test", images // 10)):
        if len(list(root.glob(f"{part}/*/*.jpg"))) != count:
            write_part(root, part, count)


def write_part(root: Path, part: str, images: int) -> None:
    """One part of the folder, from the same part of fashion10k."""
    source = load_split("fashion10k", "train+val" if part == "train" else part, Path("data"))
    order = source.labels.argsort(stable=True)
    generator = torch.Generator().manual_seed(len(part))
    for i in range(images):
        label, place = divmod(i, images // 10)
        chosen = order[label * len(order) // 10 + place % (len(order) // 10)]
        folder = root / part / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        jpeg = encode_jpeg(coloured(source.inputs[chosen], generator), quality=85)
        (folder / f"{place:06}.jpg").write_bytes(jpeg.numpy().tobytes())


def coloured(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [1, 28, 28] -> [3, 120, 160]: a garment of a random light colour somewhere on a dark one, with some noise."""
    large = F.interpolate(image[None].float() / 255, size=(120, 120), mode="bicubic", antialias=True).clamp(0, 1)[0]
    left = int(torch.randint(0, 41, (1,), generator=generator))
    mask = F.pad(large, (left, 40 - left))
    garment = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
    ground = 0.4 * torch.rand(3, 1, 1, generator=generator)
    picture = mask * garment + (1 - mask) * ground + 0.03 * torch.randn(3, 120, 160, generator=generator)
    return (picture.clamp(0, 1) * 255).to(torch.uint8)


def family(parent: int) -> list[int]:
    """A process and its children."""
    found = [parent]
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def memory(parent: int, field: str) -> float:
    """ "Rss" or "Pss" of a process and its children, in MB; a child that ends meanwhile counts as nothing."""
    total = 0
    for process in family(parent):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


def command(folder: Path, results: Path, workers: int, epochs: int, *more: str) -> list[str]:
    """`sparsehead pretrain` on the folder."""
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    run = ["pretrain", "--dataset", str(folder), "--results", str(results), "--workers", str(workers), "--epochs", str(epochs)]
    return [sys.executable, "-m", "sparsehead_cli", *run, *settings, *more]


def watch_memory(folder: Path, results: Path, workers: int, epochs: int) -> list[dict[str, object]]:
    """Train, and look at the memory each second."""
    load = os.getloadavg()[0]  # of others, before this begins
    started = subprocess.Popen(command(folder, results, workers, epochs), stdout=subprocess.PIPE, text=True, env=environment())
    ended = []  # a time for every epoch that ended
    reading = threading.Thread(target=lambda: ended.extend(time.monotonic() for line in started.stdout if line[:6] == "epoch "))
    reading.start()
    seen: dict[tuple[str, int], list[float]] = {}
    while started.poll() is None:
        begun = bool(len(family(started.pid)) > 1 or ended)  # the first reading process
        for field in ("Rss", "Pss") if begun or seen else ():
            epoch = min(len(ended) + 1, epochs)
            seen.setdefault((field.lower(), epoch), []).append(memory(started.pid, field))
        time.sleep(1)
    reading.join()
    if started.returncode:
        raise SystemExit(f"the run ended with {started.returncode}")
    rows = [row("load_average", load, "", "")]
    for (field, epoch), values in sorted(seen.items()):
        values = [value for value in values if value]  # the last look may come too late
        rows.append(row(f"{field}_start", values[0], "MB", epoch))
        rows.append(row(f"{field}_median", statistics.median(values), "MB", epoch))
        rows.append(row(f"{field}_maximum", max(values), "MB", epoch))
    for line in read_csv(next(results.glob("*/*/metrics.csv"))):
        for name in ("images_per_second", "waiting_share", "skipped_images", "knn_accuracy"):
            rows.append(row(name, float(line[name]), {"images_per_second": "images/s"}.get(name, ""), int(line["epoch"])))
    return rows


def watch_evaluation(results: Path, workers: int) -> list[dict[str, object]]:
    """`sparsehead evaluate` of the trained run: memory in each quarter of the reading, accuracy and waiting at its end."""
    run = next(results.glob("*/*/checkpoint.pt")).parent
    arguments = ["evaluate", str(run), "--protocol", "linear,knn", "--workers", str(workers)]
    program = [sys.executable, "-m", "sparsehead_cli", *arguments]
    started = subprocess.Popen(program, stdout=subprocess.DEVNULL, env=environment())
    values = []
    while started.poll() is None:
        if len(family(started.pid)) > 1:  # while there are reading processes
            values.append(memory(started.pid, "Pss"))
        time.sleep(0.5)
    if started.returncode:
        raise SystemExit(f"the evaluation ended with {started.returncode}")
    quarter = max(1, len(values) // 4)
    values = values or [math.nan]  # few images are read before anybody looks
    quarters = [values[i * quarter : (i + 1) * quarter] or values[-1:] for i in range(4)]
    rows = [row(f"evaluate_pss_maximum_of_quarter_{i + 1}", max(part), "MB", "") for i, part in enumerate(quarters)]
    first = read_csv(run / "evaluations.csv")[0]
    rows += [row(f"evaluate_{name}", float(first[name]), "", "") for name in ("n_train", "n_test", "waiting_share", "value")]
    return rows


def speeds(folder: Path, workers: int, times: int) -> list[dict[str, object]]:
    """Images a second of the bare network, of the step on ready crops, and of reading alone; medians."""
    run = build(Config(dataset=str(folder), workers=workers, results=Path(tempfile.gettempdir()), **SETTINGS))
    crops = Crops(run.views.recipe, run.method.backbone.image[1], 0)
    batches = run.train.batches(run.local_batch, order=torch.arange(len(run.train)), read=crops)
    batch = next(batches)
    started, count = time.perf_counter(), 0
    for another in batches:
        count += len(another)
    reading = count / (time.perf_counter() - started)
    views = run.views(batch.inputs, generator=torch.Generator())
    bare = per_second(run, lambda: bare_step(run, views, batch.labels), times)
    step = per_second(run, lambda: train_step(run, batch, 0), times)
    return [row(name, value, "images/s", "") for name, value in (("bare", bare), ("step", step), ("reading", reading))]


def bare_step(run: Run, views: list[torch.Tensor], labels: torch.Tensor) -> None:
    loss, _ = run.forward(views, labels)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()


def per_second(run: Run, step: object, times: int) -> float:
    """Images a second of `step`, by the median."""
    seconds = []
    for _ in range(times + 3):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return run.local_batch / statistics.median(seconds[3:])


def corrupt(folder: Path, results: Path, workers: int) -> list[dict[str, object]]:
    """One epoch with a JPEG cut short, without and with --skip-bad-images; the file is mended afterwards."""
    files = sorted(folder.glob("train/*/*.jpg"))
    bad = files[len(files) // 2]
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    try:
        plain = subprocess.run(command(folder, results, workers, 1), capture_output=True, text=True, env=environment(), check=False)
        skipping = command(folder, results, workers, 1, "--skip-bad-images")
        skip = subprocess.run(skipping, capture_output=True, text=True, env=environment(), check=False)
    finally:
        bad.write_bytes(whole)
    print(plain.stderr.strip())
    table = [read_csv(path) for path in results.glob("*/*/metrics.csv")]
    return [
        row("corrupt_exit_code", plain.returncode, "", ""),
        row("corrupt_is_named", int(str(bad) in plain.stderr.replace("\n", "")), "", ""),
        row("corrupt_skipped_exit_code", skip.returncode, "", ""),
        row("corrupt_skipped_images", int(table[0][0]["skipped_images"]) if table and table[0] else -1, "", 1),
    ]


def environment() -> dict[str, str]:
    """One thread for the training process: the reading processes want the other cores."""
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def row(measurement: str, value: float, unit: str, epoch: int | str) -> dict[str, object]:
    print(f"{measurement:<28} epoch {epoch!s:<3} {value:12,.3f} {unit}", flush=True)
    return {"measurement": measurement, "epoch": epoch, "value": round(value, 4), "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the images are written, and stay (default: a folder that goes)")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    parser.add_argument("--quick", action="store_true", help="400 images, one epoch: to see that it runs, not to quote")
    options = parser.parse_args()
    images, epochs = (400, 1) if options.quick else (options.images, options.epochs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch, "images")).resolve()
        write_folder(folder, images)
        rows = watch_memory(folder, Path(scratch, "results"), options.workers, epochs)
        rows += watch_evaluation(Path(scratch, "results"), options.workers)
        rows += speeds(folder, options.workers, times=1 if options.quick else 20)
        rows += corrupt(folder, Path(scratch, "corrupt"), options.workers)
    machine = {"images": images, "workers": options.workers, "cores": os.cpu_count(), "torch": str(torch.__version__)}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, [{**row, **machine, "commit": code_version()} for row in rows], "streaming.csv")


if __name__ == "__main__":
    torch.set_num_threads(int(environment()["OMP_NUM_THREADS"]))
    main()
