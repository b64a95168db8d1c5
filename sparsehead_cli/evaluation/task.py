"""What a protocol is given, a task, and what it returns, outcomes; and what the protocols can be told."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import held_out_mask, place_in_class
from sparsehead_cli.evaluation.subject import Subject
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.runs.config import MOST_WORKERS
from sparsehead_cli.runs.settings import setting

Predictions = dict[object, Tensor]  # by setting, int64 [N] each
FOLDS = 10
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
    sts: Path = setting(Path("data/sts"), "Folder of sts: tables of score, sentence1, sentence2, or SentEval's downstream.")
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
    """A data set to evaluate on: its official training and test images, on the device; `digests` are hashes of them.

    With `folds` it has no test part: both are all of it, to be measured by ten-fold cross-validation.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    test: Source
    digests: tuple[str, str]
    folds: bool = False

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
    watch: Callable[[int, int], None] = lambda step, total: None  # steps done, of how many

    @property
    def classes(self) -> int:
        return len(self.data.classes)

    def part_seed(self) -> int:
        """The seed of all that this task draws."""
        return stable_seed("evaluate", self.protocol, self.share, self.seed)


@dataclass(frozen=True)
class Outcome:
    """What came out, as columns of a row; of an accuracy `right` and `all` count the test images of each class, int64 [classes]."""

    columns: dict[str, object]
    right: Tensor | None = None
    all: Tensor | None = None


def classified(task: Task, features: str, predicted: Tensor, truth: Tensor, **columns: object) -> Outcome:
    """Predictions int64 [N] against the truth, with the accuracy's 95 % Wilson interval."""
    right = torch.bincount(truth[predicted == truth], minlength=task.classes).cpu()
    count = torch.bincount(truth, minlength=task.classes).cpu()
    low, high = wilson(int(right.sum()), len(truth))
    accuracy = {"metric": "accuracy", "value": int(right.sum()) / len(truth), "low": low, "high": high}
    return Outcome({"features": features, "n_test": len(truth), **columns, **accuracy}, right, count)


def in_folds(task: Task, features: str, predict: Callable[[Tensor, Tensor, Tensor], Predictions]) -> Predictions:
    """What `predict(features, labels, queries)` says of the test part, int64 [N] by setting; each fold from the other nine, where
    the data set has no test part: every tenth input of each class, in the order of the file.
    """
    train, test = task.features()
    if not task.data.folds:
        return predict(train[features], train.labels, test[features])
    fold = torch.from_numpy(place_in_class(train.labels.cpu().numpy()) % FOLDS).to(train.labels.device)
    found: Predictions = {}
    for k in range(FOLDS):
        for setting_, predicted in predict(train[features][fold != k], train.labels[fold != k], train[features][fold == k]).items():
            found.setdefault(setting_, torch.empty_like(train.labels))[fold == k] = predicted
    return found


def held_out_tenth(labels: Tensor) -> Tensor:
    """The mask of the held-out tenth of labels [N], bool [N]; where classes are too small to have one, every tenth image."""
    mask = torch.from_numpy(held_out_mask(labels.cpu().numpy())).to(labels.device)
    return mask if mask.any() else torch.arange(len(labels), device=mask.device) % 10 == min(9, len(labels) - 1)


def few_labels(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """The indices of a class-balanced share of the labels [N]: share · N / classes of each class, at least one, int64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    each, drawn = max(1, round(share * len(labels) / classes)), labels[shuffled]
    first = torch.from_numpy(place_in_class(drawn.cpu().numpy()) < each).to(labels.device)  # of each class, as they were drawn
    return shuffled[first & (drawn >= 0) & (drawn < classes)].sort().values
