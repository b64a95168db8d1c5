"""Protocols that run the backbone every epoch: linear-sgd, the classic one, and fine-tuning. SGD with momentum, half a cosine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.augment import RECIPES, Augmentation, Crops, ImageViews
from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.prepare import Prepare, with_channels
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.subject import Subject, trainable
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features, extract
from sparsehead_cli.nets.optim import lr_at, parameter_groups
from sparsehead_cli.sparse.layers import eval_mode

LARGE = 64  # pixels beyond which images are cropped as ImageNet's are
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4  # of fine-tuning; linear layers on frozen features have none
DECAY = 0.7  # of the learning rate from one part of the network to the one below it, in fine-tuning
LRS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of linear-sgd: one linear layer each, all trained in one pass


@dataclass(frozen=True)
class Schedule:
    """How long to train, on batches of how many, with which peak learning rate."""

    epochs: int
    batch_size: int
    lr: float = 1.0


Watch = Callable[[int, int], None]  # steps done, of how many


def training_batches(
    subject: Subject, train: Source, recipe: str, schedule: Schedule, seed: int, watch: Watch
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Augmented views [B, C, h, w], labels [B] and the share of the peak learning rate, for every step of a training.

    Small images are augmented by `recipe`, large ones as ImageNet's. Order and views are functions of (seed, epoch or step);
    an epoch is of whole batches, each image at most once.
    """
    batch_size = min(schedule.batch_size, len(train))
    per_epoch = len(train) // batch_size
    total = schedule.epochs * per_epoch
    size = subject.prepare.image[1] if subject.prepare.image else train.size
    views = RECIPES["published-crop" if size > LARGE else recipe]
    for epoch in range(schedule.epochs):
        generator = torch.Generator().manual_seed(stable_seed("order", seed, epoch))
        order = torch.randperm(len(train), generator=generator).to(subject.device)
        crops = Crops(views, size, seed, epoch * per_epoch)
        for step, batch in enumerate(train.batches(batch_size, order=order, read=crops), epoch * per_epoch):
            view = view_of(subject.prepare, batch.inputs, views, stable_seed("view", seed, step))
            yield view, batch.labels, share(step, total)
            watch(step + 1, total)


def share(step: int, total: int) -> float:
    """Half a cosine from 1 down to 0, without a warm-up."""
    return lr_at(step, total=total, warmup=0, lr=1.0)


def view_of(prepare: Prepare, images: Tensor, views: tuple[Augmentation, ...], seed: int) -> Tensor:
    """uint8 images (or ready crops) -> one augmented view as the network expects it."""
    generator = torch.Generator().manual_seed(seed)
    channels, *size = prepare.image or images.shape[1:]
    if images.ndim == 4:
        images = with_channels(images, channels)
    elif images.shape[2] != channels:
        images = with_channels(images.flatten(0, 1), channels).unflatten(0, images.shape[:2])
    view = ImageViews(views, prepare.normalise, size[-1])(images, generator)[0].inputs
    return view.contiguous(memory_format=torch.channels_last)


def linear_sgd(
    subject: Subject,
    train: Source,
    val: Features,
    test: Features,
    *,
    classes: int,
    schedule: Schedule,
    seed: int,
    watch: Watch,
) -> dict[str, tuple[Tensor, dict[str, float]]]:
    """The classic linear evaluation: a linear layer trained by SGD on augmented views behind the frozen network in eval mode.

    Every learning rate of LRS trains its own layer on the same views; the one with the best accuracy on `val` at the end
    predicts `test`. Returns for each kind of features the predictions int64 [N] and the chosen lr, its val_accuracy and epochs.
    """
    torch.manual_seed(seed)
    heads = {name: [nn.Linear(test[name].shape[1], classes).to(subject.device) for _ in LRS] for name in subject.features}
    groups = [{"params": head.parameters(), "peak": lr} for row in heads.values() for head, lr in zip(row, LRS, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM)
    with eval_mode(subject.network):
        for view, labels, lr_share in training_batches(subject, train, "shift", schedule, seed, watch):
            with torch.no_grad():
                features = subject.network(view)
            set_rates(optimizer, lr_share)
            loss = sum(F.cross_entropy(head(features[name].float()), labels) for name, row in heads.items() for head in row)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: best_head(row, val[name], val.labels, test[name], schedule) for name, row in heads.items()}


@torch.no_grad()
def best_head(
    heads: list[nn.Linear], val: Tensor, labels: Tensor, test: Tensor, schedule: Schedule
) -> tuple[Tensor, dict[str, float]]:
    """The predictions on test of the head that is best on val, of equals the one with the lower learning rate."""
    scores = [float((head(val).argmax(dim=1) == labels).double().mean()) for head in heads]
    best = max(range(len(heads)), key=lambda i: (scores[i], -i))
    chosen = {
        "eval_lr": LRS[best],
        "val_accuracy": scores[best],
        "eval_epochs": schedule.epochs,
        "eval_batch_size": schedule.batch_size,
    }
    return heads[best](test).argmax(dim=1), chosen


class Classifier(nn.Module):
    """A trainable copy of an encoder with a linear layer on r or z: one view -> {"logits": [B, classes]}."""

    def __init__(self, encoder: nn.Module, features: str, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = trainable(encoder.backbone)
        self.projector = trainable(encoder.projector) if features == "z" else nn.Identity()
        # Features come in any scale; normalised, one learning rate suits every network (as in MAE, He et al. 2022, A.1).
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes))
        nn.init.zeros_(self.head[1].weight)
        nn.init.zeros_(self.head[1].bias)

    def forward(self, view: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.projector(self.backbone(view)))}


def finetune(
    subject: Subject,
    train: Source,
    test: Source,
    *,
    features: str,
    width: int,
    classes: int,
    schedule: Schedule,
    seed: int,
    watch: Watch,
) -> Features:
    """A copy of the network and a linear layer on r or z (`width` wide), trained end to end -> {"logits"} of test, at the end.

    Learning rates fall by DECAY from each part to the one below it: head and projector, last stage, …, first stage.
    """
    model = Classifier(subject.network, features, width, classes).to(subject.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(discriminative_groups(model, schedule.lr), lr=schedule.lr, momentum=MOMENTUM)
    loss = torch.zeros(())
    for view, labels, lr_share in training_batches(subject, train, "gentle-crop", schedule, seed, watch):
        set_rates(optimizer, lr_share)
        loss = F.cross_entropy(model(view)["logits"].float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not loss.isfinite():
        raise SparseheadError(f"fine-tuning diverged at learning rate {schedule.lr:g}. Choose a lower one: --set finetune_lr=…")
    return extract(model, test, subject.prepare)


def discriminative_groups(model: Classifier, lr: float) -> list[dict]:
    """Parameter groups with their peak learning rate; weights decay, biases and norms do not. Source: Howard & Ruder 2018."""
    parts = [nn.ModuleList([model.projector, model.head]), *map(nn.ParameterList, reversed(stages_of(model.backbone)))]
    groups = []
    for depth, part in enumerate(parts):
        groups += [{**group, "peak": lr * DECAY**depth} for group in parameter_groups(part, WEIGHT_DECAY)]
    return groups


def stages_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The trainable parameters of a backbone from input to output, each once, in the parts that learn at different rates.

    A backbone may name them (`stage_parameters`). Of any other they are its parts, in the order in which they were made; what
    only wraps one other module is opened. Parameters outside of all parts, such as a class token, belong to the first.
    """
    if hasattr(backbone, "stage_parameters"):
        stages = backbone.stage_parameters()
    else:
        parts = [part for part in backbone.children() if any(True for _ in part.parameters())]
        outside = list(backbone.parameters(recurse=False))
        if len(parts) == 1 and not outside:
            return stages_of(parts[0])
        stages = [list(part.parameters()) for part in parts] or [[]]
        stages[0] = outside + stages[0]
    seen: set[int] = set()
    trained = [[p for p in stage if p.requires_grad and id(p) not in seen and not seen.add(id(p))] for stage in stages]
    return [stage for stage in trained if stage]


def set_rates(optimizer: torch.optim.Optimizer, lr_share: float) -> None:
    """This step's learning rate of each group: its peak times the schedule's share."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * lr_share
