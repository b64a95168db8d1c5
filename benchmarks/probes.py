"""What `evaluate` does with features, beside others who do the same: seconds and accuracies, with one thread and with two.

    python benchmarks/probes.py --out results/probes/durations.csv                   # r, and the pixels of small grey images
    python benchmarks/probes.py --folder data/cifar10-jpeg --out probes-colour.csv    # pixels of 32 x 32 in colour

r: 10,000 images of the embedded garments as an untrained encoder sees them, [10,000, 256]. pixels: the same images, or those of a
folder, 12,500 training images at most. Each classifier sees the same numbers. Needs scikit-learn, of the extra `test`.

linear: ours, which chooses its strength on held-out images and is then fitted on all; scikit-learn's StandardScaler and
LogisticRegression along the same strengths, each begun where the last one ended, chosen and fitted again in the same way; and the
recipe for linear classifiers of solo-learn's documentation, on features that are extracted once: 100 epochs of SGD in batches of
256, lr 0.1 with momentum 0.9, a tenth of it from epoch 60 and again from 80, without weight decay. kNN: k = 20, votes
exp(cosine / T), ours and with scikit-learn's KNeighborsClassifier (T = 0.1), and solo-learn's, T = 0.07, by a matrix of one-hot
votes.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from durations import keep
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from sparsehead_cli.data.datasets import dataset_info, load_split
from sparsehead_cli.measure.features import EncoderAndHead, Features, Pixels, extract
from sparsehead_cli.measure.knn import knn_predict
from sparsehead_cli.measure.linear import L2_GRID, is_over, linear_probe
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config

K, MOST = 20, 12_500  # neighbours; training images
EPOCHS, BATCH = 100, 256


class Data(NamedTuple):
    """Features [n, D] and labels [n] of training, held-out and test images."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


def data_of(dataset: str, few: int | None, features_of: Callable[[object], Features], name: str) -> Data:
    """The three splits of a data set, as `features_of` makes features by `name` of them."""
    parts = []
    for part in ("train", "val", "test"):
        source = load_split(dataset, part, Path("data"), image_size=32)
        count = min(len(source), few or MOST)
        features = features_of(source.take(torch.arange(count) * len(source) // count))
        parts.append((features[name], features.labels))
    return Data(*parts, len(dataset_info(dataset, Path("data")).classes))


def representations(few: int | None) -> Data:
    """r of an untrained encoder."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(Config(dataset="fashion10k", results=Path(folder), device="cpu", precision="float32"))
    network = EncoderAndHead(run.method.backbone, run.method.projector)
    return data_of("fashion10k", few, lambda source: extract(network, source, run.prepare), "r")


def pixels(dataset: str, few: int | None) -> Data:
    """The images themselves, in [0, 1]."""
    return data_of(dataset, few, lambda source: extract(Pixels(), source, lambda images: images.float() / 255), "pixels")


def our_linear(data: Data, quick: bool) -> Tensor:
    return linear_probe(data.train, data.val, data.test[0], data.classes)[0]


def sklearn_linear(data: Data, quick: bool) -> np.ndarray:
    scaler = StandardScaler().fit(data.train[0].numpy())
    (x, y), (held_out, truth) = (
        (scaler.transform(features.numpy()), labels.numpy()) for features, labels in (data.train, data.val)
    )
    scores: dict[float, float] = {}
    model = LogisticRegression(warm_start=True, max_iter=20 if quick else 2_000)
    for l2 in L2_GRID:
        scores[l2] = model.set_params(C=1 / (l2 * len(x))).fit(x, y).score(held_out, truth)
        if is_over(scores):
            break
    joined = np.concatenate([x, held_out]), np.concatenate([y, truth])
    model.set_params(C=1 / (max(scores, key=scores.get) * len(joined[0]))).fit(*joined)
    return model.predict(scaler.transform(data.test[0].numpy()))


def sgd_linear(data: Data, quick: bool) -> Tensor:
    x, y = (torch.cat(pair) for pair in zip(data.train, data.val, strict=True))
    layer = torch.nn.Linear(x.shape[1], data.classes)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 80])
    for _ in range(1 if quick else EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer(data.test[0]).argmax(dim=1)


def our_knn(data: Data, quick: bool) -> Tensor:
    (x, y), (queries, _) = data.train, data.test
    return knn_predict(x, y, queries, classes=data.classes, ks=[K])[K, "weighted"]


def sklearn_knn(data: Data, quick: bool) -> np.ndarray:
    model = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=lambda away: np.exp((1 - away) / 0.1))
    return model.fit(data.train[0].numpy(), data.train[1].numpy()).predict(data.test[0].numpy())


def one_hot_knn(data: Data, quick: bool) -> Tensor:
    bank, predicted = F.normalize(data.train[0], dim=1), []
    for queries in F.normalize(data.test[0], dim=1).split(500):
        similarity, index = (queries @ bank.T).topk(K, dim=1)
        votes = F.one_hot(data.train[1][index], data.classes) * (similarity / 0.07).exp()[:, :, None]
        predicted.append(votes.sum(dim=1).argmax(dim=1))
    return torch.cat(predicted)


JOBS = {
    "linear, ours": our_linear,
    "linear, scikit-learn": sklearn_linear,
    "linear, SGD as solo-learn": sgd_linear,
    "kNN, ours": our_knn,
    "kNN, scikit-learn": sklearn_knn,
    "kNN, one-hot as solo-learn": one_hot_knn,
}


def measured(name: str, data: Data, repeats: int, *, quick: bool) -> Iterator[tuple[str, float, str]]:
    """(measurement, value, unit): seconds, the median of what is run in turn, and accuracies."""
    few = Data(*((x[:: len(x) // 100 + 1], y[:: len(x) // 100 + 1]) for x, y in data[:3]), data.classes)
    for predict in JOBS.values():
        predict(few, True)  # imports what is imported at the first call
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds: dict[str, list[float]] = {job: [] for job in JOBS}
        accuracies: dict[str, float] = {}
        with threadpool_limits(threads):
            for _ in range(repeats):
                for job, predict in JOBS.items():
                    torch.manual_seed(0)
                    began = time.perf_counter()
                    predicted = torch.as_tensor(predict(data, quick))
                    seconds[job].append(time.perf_counter() - began)
                    accuracies[job] = float((predicted == data.test[1]).double().mean())
        for job in JOBS:
            yield f"{name}: {job}, {threads} threads", statistics.median(seconds[job]), "s"
            yield f"{name}: {job}, {threads} threads", 100 * accuracies[job], "%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="of images in train/CLASS/ and test/CLASS/, in place of the embedded garments")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="few images, once: to see that it runs, not to quote")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")  # that a quick fit has not converged
    few, repeats = (300, 1) if options.quick else (None, 3)
    sets = {} if options.folder else {"r": representations(few)}
    sets[f"pixels of {options.folder or 'fashion10k'}"] = pixels(options.folder or "fashion10k", few)
    rows = []
    for name, data in sets.items():
        shape = f"{name} [{len(data.train[0]) + len(data.val[0]):,}, {data.train[0].shape[1]:,}]"
        rows += measured(shape, data, repeats, quick=options.quick)
    keep(options.out, rows)


if __name__ == "__main__":
    main()
