"""The protocols: each a function of a task -> outcomes, one a kind of features and setting. No file is read or written here.

Somebody's own protocol is such a function, too, which the user names as module:function.

    def nearest_mean(task: Task) -> Iterator[Outcome]:
        train, test = task.features()
        ...
        yield classified(task, "r", predicted, test.labels, n_train=len(train), n_val=0)
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import held_out_mask
from sparsehead_cli.evaluation.sgd import Schedule, Watch, finetune, linear_sgd
from sparsehead_cli.evaluation.subject import Subject
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.measure.knn import DISTANCES, knn_predict
from sparsehead_cli.measure.linear import Standardise, cross_validated_l2, fit_logistic, linear_probe
from sparsehead_cli.runs.config import MOST_WORKERS
from sparsehead_cli.runs.settings import setting

KS = (1, 5, 20, 200)
MOST_SEEDS = 1_000  # of semi
SHARES = (0.01, 0.1)  # of the labels, that semi-supervised evaluation knows


@dataclass(frozen=True)
class Settings:
    """What the protocols that train a network can be told; `--set` reaches each by name."""

    sgd_epochs: int = setting(100, "Passes of linear-sgd over the training images.", least=1)
    sgd_batch: int = setting(256, "Images a step of linear-sgd.", least=1)
    finetune_epochs: int = setting(10, "Passes of finetune over the training images.", least=1)
    finetune_batch: int = setting(128, "Images a step of finetune and semi.", least=1)
    finetune_lr: float = setting(0.1, "Peak learning rate of finetune and semi.", above=0)
    semi_seeds: int = setting(5, "How often semi draws the labels that it knows; each is two jobs.", least=1, most=MOST_SEEDS)
    semi_epochs: tuple[int, ...] = setting(
        (60, 30),
        "Passes of semi's fine-tuning, for each share of the labels.",
        least=1,
        count=len(SHARES),
        note=", for 1 % and 10 % of the labels, as in 60,30",
    )


@dataclass(frozen=True)
class DetectionSettings:
    """How a detector is trained. The defaults are those of He et al. 2020 (MoCo, 4.2.1) for PASCAL VOC.

    They ask for 24,000 steps of 16 images of trainval07+12, which are 23 epochs; rate 0.02 after 100 steps of warm-up, a
    tenth of it after 3/4 and a hundredth after 11/12 of the steps; weight decay 1e-4; the short side is 480 … 800 pixels
    in training and 800 in the test, the long side at most 1333. The detector is another: theirs
    reads one map (C4), this one a pyramid in the sizes of Lin et al. and torchvision, so compare with other pyramids.
    """

    epochs: int = setting(23, "Passes over the training images; with 0 an untrained detector is measured.", least=0)
    batch_size: int = setting(16, "Images a step.", least=1)
    lr: float = setting(0.02, "Peak learning rate, for batches of 16: halve both together.", above=0)
    warmup: int = setting(100, "How long the learning rate rises.", unit="steps", least=0)
    weight_decay: float = setting(1e-4, "Of weights.", least=0)
    min_size: int | None = setting(
        None, "Short side of an image; without it 25 cells of the last stage, 800 for the ImageNet stem.", unit="pixels", least=1
    )
    max_size: int | None = setting(None, "Long side at most; without it 5/3 of min_size.", unit="pixels", least=1)
    smallest: float = setting(
        0.6,
        "Training images are scaled to this share of min_size up to 1, in steps of a twenty-fifth.",
        above=0,
        most=1,
        note=", a share of min_size",
    )
    masks: bool = setting(False, "Mask R-CNN, where the set has segmentations.")
    width: int = setting(256, "Channels of the pyramid.", multiple=32, note=", the groups of a group norm")
    hidden: int = setting(1024, "Width of the head that classifies a region.", least=1)
    regions: int = setting(512, "Regions of an image, from which that head learns.", least=1)
    workers: int = setting(4, "Processes that read images; results do not depend on it.", least=0, most=MOST_WORKERS)


@dataclass(frozen=True)
class Labelled:
    """A data set to evaluate on: its official training and test images, on the device; `digests` are hashes of them."""

    name: str
    classes: tuple[str, ...]
    train: Source
    test: Source
    digests: tuple[str, str]

    @property
    def digest(self) -> str:
        """One hash for both parts."""
        return hashlib.blake2b("".join(self.digests).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Task:
    """One protocol on one data set for one network. `share` of the training labels is known; `seed` chooses which.

    `features()` are those of the training and the test images, extracted once for all protocols. A protocol that takes steps
    calls `watch` after each of them.
    """

    protocol: str
    subject: Subject
    data: Labelled
    settings: Settings
    features: Callable[[], tuple[Features, Features]]
    share: float = 1.0
    seed: int = 0
    watch: Watch = lambda step, total: None

    @property
    def classes(self) -> int:
        return len(self.data.classes)

    def part_seed(self) -> int:
        """The seed of all that this task draws."""
        return stable_seed("evaluate", self.protocol, self.share, self.seed)


@dataclass(frozen=True)
class Outcome:
    """What came out, as columns of a row; `right` and `all` count the test images of each class, int64 [classes]."""

    columns: dict[str, object]
    right: Tensor
    all: Tensor


def classified(task: Task, features: str, predicted: Tensor, truth: Tensor, **columns: object) -> Outcome:
    """Predictions int64 [N] against the truth, with the accuracy's 95 % Wilson interval."""
    right = torch.bincount(truth[predicted == truth], minlength=task.classes).cpu()
    count = torch.bincount(truth, minlength=task.classes).cpu()
    low, high = wilson(int(right.sum()), len(truth))
    accuracy = {"metric": "accuracy", "value": int(right.sum()) / len(truth), "low": low, "high": high}
    return Outcome({"features": features, "n_test": len(truth), **columns, **accuracy}, right, count)


def knn(task: Task) -> Iterator[Outcome]:
    """k nearest neighbours among all training images; a k beyond their number is left out."""
    bank, test = task.features()
    ks = [k for k in KS if k <= len(bank)]
    for name in task.subject.features:
        for distance in DISTANCES:
            found = knn_predict(bank[name], bank.labels, test[name], classes=task.classes, ks=ks, distance=distance)
            for (k, vote), predicted in found.items():
                yield classified(task, name, predicted, test.labels, n_train=len(bank), n_val=0, k=k, distance=distance, vote=vote)


def linear(task: Task) -> Iterator[Outcome]:
    """Logistic regression to convergence on all training images; its L2 strength is chosen on a tenth held out of them."""
    train, test = task.features()
    held_out = held_out_tenth(train)
    for name in task.subject.features:
        f, y = train[name], train.labels
        predicted, chosen = linear_probe((f[~held_out], y[~held_out]), (f[held_out], y[held_out]), test[name], task.classes)
        columns = {"l2": chosen["l2"], "val_accuracy": chosen["val_accuracy"]}
        yield classified(task, name, predicted, test.labels, n_train=len(train), n_val=int(held_out.sum()), **columns)


def held_out_tenth(train: Features) -> Tensor:
    """The mask of the held-out tenth, bool [N]; where classes are too small to have one, every tenth image."""
    mask = torch.from_numpy(held_out_mask(train.labels.cpu().numpy())).to(train.labels.device)
    return mask if mask.any() else torch.arange(len(train), device=mask.device) % 10 == min(9, len(train) - 1)


def sgd(task: Task) -> Iterator[Outcome]:
    """The classic linear protocol; its learning rate is chosen on a tenth held out of the training images."""
    train, test = task.features()
    held_out = held_out_tenth(train)
    val = Features({name: f[held_out] for name, f in train.by_name.items()}, train.labels[held_out])
    rest = task.data.train.take((~held_out).nonzero().flatten())
    schedule = Schedule(task.settings.sgd_epochs, task.settings.sgd_batch)
    found = linear_sgd(
        task.subject, rest, val, test, classes=task.classes, schedule=schedule, seed=task.part_seed(), watch=task.watch
    )
    for name, (predicted, chosen) in found.items():
        columns = {**chosen, "eval_seed": task.seed}
        yield classified(task, name, predicted, test.labels, n_train=len(rest), n_val=len(val), **columns)


def semi_linear(task: Task) -> Iterator[Outcome]:
    """Logistic regression on a share of the labels, its strength chosen by cross-validation among them alone."""
    train, test = task.features()
    known = few_labels(train.labels, task.classes, task.share, task.part_seed())
    for name in task.subject.features:
        standardise = Standardise.of(train[name][known])
        f, y = standardise(train[name][known]), train.labels[known]
        l2, val_accuracy = cross_validated_l2(f, y, task.classes)
        predicted = fit_logistic(f, y, task.classes, l2).predict(standardise(test[name]))
        columns = {"l2": l2, "val_accuracy": val_accuracy, "label_share": task.share, "eval_seed": task.seed}
        yield classified(task, name, predicted, test.labels, n_train=len(known), n_val=0, **columns)


def semi_finetune(task: Task) -> Iterator[Outcome]:
    """Fine-tuning on the same share of the labels as `semi_linear` has."""
    epochs = dict(zip(SHARES, task.settings.semi_epochs, strict=True))[task.share]
    labels = task.data.train.labels
    known = few_labels(labels, task.classes, task.share, stable_seed("evaluate", "semi-linear", task.share, task.seed))
    columns = {"label_share": task.share, "eval_seed": task.seed}
    yield from tuned(task, task.data.train.take(known), epochs, **columns)


def end_to_end(task: Task) -> Iterator[Outcome]:
    """Fine-tuning on all training images."""
    yield from tuned(task, task.data.train, task.settings.finetune_epochs, eval_seed=task.seed)


def tuned(task: Task, train: Source, epochs: int, **columns: object) -> Iterator[Outcome]:
    """Fine-tuning on r and on z, each from the pretrained weights."""
    schedule = Schedule(epochs, task.settings.finetune_batch, task.settings.finetune_lr)
    widths = task.features()[1].by_name
    for name in task.subject.features:
        found = finetune(
            task.subject,
            train,
            task.data.test,
            features=name,
            width=widths[name].shape[1],
            classes=task.classes,
            schedule=schedule,
            seed=task.part_seed(),
            watch=task.watch,
        )
        chosen = {"eval_lr": schedule.lr, "eval_epochs": epochs, "eval_batch_size": schedule.batch_size, **columns}
        yield classified(task, name, found["logits"].argmax(dim=1), found.labels, n_train=len(train), n_val=0, **chosen)


def few_labels(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """The indices of a class-balanced share of the labels [N]: share · N / classes of each class, at least one, int64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    each = max(1, round(share * len(labels) / classes))
    chosen = [shuffled[labels[shuffled] == c][:each] for c in range(classes)]
    return torch.cat(chosen).sort().values


# the settings that each protocol reads, by the beginnings of their names
READS = {"linear-sgd": ("sgd_",), "finetune": ("finetune_",), "semi-finetune": ("finetune_batch", "finetune_lr", "semi_epochs")}

PROTOCOLS: dict[str, Callable[[Task], Iterator[Outcome]]] = {
    "knn": knn,
    "linear": linear,
    "linear-sgd": sgd,
    "semi-linear": semi_linear,
    "semi-finetune": semi_finetune,
    "finetune": end_to_end,
}
