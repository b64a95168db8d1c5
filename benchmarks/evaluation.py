"""What an evaluation costs: seconds and memory, side by side in one process.

    python benchmarks/evaluation.py results/quickstart/RUN/checkpoint.pt --dataset fashion-mnist

Measured: extraction of the features against the bare forward pass over the same images (alternating, medians); linear and kNN
evaluation of r and z, extraction included, against one epoch of linear-sgd times its 100 epochs, or with --whole against all
of them; and the peak of the process's memory over that of the data and the features. Rows go to --out.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch

from sparsehead_cli.data.datasets import dataset_info, load_split
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.protocols import knn, linear, linear_sgd
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.evaluation.task import Labelled, Settings, Task
from sparsehead_cli.measure.features import BATCH, extract
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.sparse.layers import eval_mode

REPEATS = 5


def peak_megabytes() -> float:
    """The most memory that this process has had so far (ru_maxrss is in kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(job) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


@torch.no_grad()
def bare(network, view, images: int) -> None:
    """The forward pass alone, as often as `images` images need it, on one view that is there already."""
    with eval_mode(network):
        for _ in range(-(-images // len(view))):
            network(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--whole", action="store_true", help="run all 100 epochs of linear-sgd")
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, default=Path("results/evaluation/speed.csv"))
    options = parser.parse_args()

    subject = load_subject(options.checkpoint, LoadOptions(device="cpu", data_dir=options.data_dir))
    train, test = (load_split(options.dataset, part, options.data_dir) for part in ("train+val", "test"))
    if options.quick:
        train, test = (part.take(torch.arange(500)) for part in (train, test))
    classes = dataset_info(options.dataset, options.data_dir).classes
    data = Labelled(options.dataset, classes, train, test, ("", ""))
    view = subject.prepare(train.inputs[:BATCH])
    bare(subject.network, view, 10 * BATCH)  # warms up
    before = peak_megabytes()

    pairs = []
    for _ in range(1 if options.quick else REPEATS):
        forward = seconds(lambda: bare(subject.network, view, len(train)))
        pairs.append((forward, seconds(lambda: extract(subject.network, train, subject.prepare))))
    share = statistics.median(forward / extraction for forward, extraction in pairs)

    began = time.perf_counter()
    features = tuple(extract(subject.network, part, subject.prepare) for part in (train, test))
    extraction = time.perf_counter() - began
    task = Task("linear", subject, data, Settings(), lambda: features)
    outcomes, linear_seconds, knn_seconds = {}, 0.0, 0.0
    linear_seconds = seconds(lambda: outcomes.update(linear={o.columns["features"]: o.columns["value"] for o in linear(task)}))
    knn_seconds = seconds(lambda: list(knn(task)))
    ours = extraction + linear_seconds + knn_seconds
    held = sum(f.element_size() * f.numel() for part in features for f in part.by_name.values()) / 2**20
    over = peak_megabytes() - before - held

    epochs = 100 if options.whole else 1 if options.quick else 2
    task = Task("linear-sgd", subject, data, Settings(sgd_epochs=epochs), lambda: features)
    sgd_seconds = seconds(lambda: outcomes.update(sgd={o.columns["features"]: o.columns["value"] for o in linear_sgd(task)}))
    row = {
        "commit": code_version(),
        "dataset": options.dataset,
        "n_train": len(train),
        "n_test": len(test),
        "threads": torch.get_num_threads(),
        "bare_seconds": round(statistics.median(forward for forward, _ in pairs), 2),
        "extraction_seconds": round(statistics.median(found for _, found in pairs), 2),
        "extraction_share": round(share, 3),
        "linear_seconds": round(linear_seconds, 1),
        "knn_seconds": round(knn_seconds, 1),
        "evaluation_seconds": round(ours, 1),
        "sgd_epochs": epochs,
        "sgd_seconds_of_100_epochs": round(sgd_seconds * 100 / epochs, 1),
        "times_faster": round(sgd_seconds * 100 / epochs / ours, 1),
        "megabytes_over_data_and_features": round(over),
        **{f"linear_{name}": value for name, value in outcomes["linear"].items()},
        **{f"linear_sgd_{name}": value if options.whole else "" for name, value in outcomes["sgd"].items()},
    }
    for name, value in row.items():
        print(f"{name:>34}  {value}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_csv(options.out, [row], "speed.csv")


if __name__ == "__main__":
    main()
