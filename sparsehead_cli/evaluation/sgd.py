"""Protocols that train on images by the loop that pretrains as well: linear-sgd, the classic one, and fine-tuning."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.augment import RECIPES, Crops, ImageViews
from sparsehead_cli.data.contract import GLOBAL, Batch, Source, View
from sparsehead_cli.data.prepare import with_channels
from sparsehead_cli.evaluation.subject import trainable
from sparsehead_cli.evaluation.task import SHARES, Outcome, Task, classified, few_labels, held_out_tenth
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features, extract
from sparsehead_cli.nets.optim import SGD, parameter_groups
from sparsehead_cli.runs.run import Phase, Progress, Training
from sparsehead_cli.sparse.layers import eval_mode
from sparsehead_cli.ssl.contract import Method
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import fit

LARGE = 64  # pixels beyond which images are cropped as ImageNet's are
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4  # of fine-tuning; linear layers on frozen features have none
DECAY = 0.7  # of the learning rate from one part of the network to the one below it, in fine-tuning
LRS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of linear-sgd: one linear layer each, all trained in one pass


@dataclass(frozen=True)
class Schedule:
    """How long to train, on batches of how many, with which peak learning rate, and which recipe for views of small images."""

    epochs: int
    batch_size: int
    lr: float = 1.0
    recipe: str = "shift"


class Watcher(Callback):
    """Hands the steps on to whoever shows them."""

    def __init__(self, watch: Callable[[int, int], None]) -> None:
        self.watch = watch

    def on_step(self, run: Training, progress: Progress) -> None:
        self.watch(progress.step, run.total_steps)


@dataclass(frozen=True)
class OneView:
    """One augmented view of the images of any data set, with the channels that a network expects; `Views` of the contract."""

    images: ImageViews
    channels: int

    roles = (GLOBAL,)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> list[View]:
        """uint8 images [B, C, H, W], or ready crops [B, 1, C, h, w] -> [the view]."""
        x = with_channels(inputs.flatten(0, -4), self.channels).unflatten(0, inputs.shape[:-3])
        (view,) = self.images(x, generator)
        return [View(view.inputs.contiguous(memory_format=torch.channels_last))]

    def read(self, seed: int, step: int, first: int) -> Crops:
        return self.images.read(seed, step, first)


def supervise(
    task: Task, method: Method, optimizer: torch.optim.Optimizer, train: Source, schedule: Schedule, *, must_be_finite: bool
) -> None:
    """Train a method on labelled images, by the loop that pretrains as well. Large images are augmented as ImageNet's.

    Raises: SparseheadError for a loss that is no longer finite, where it must be.
    """
    prepare = task.subject.prepare
    if prepare.image:
        channels, size, _ = prepare.image
    else:  # pixels, in the size in which they come, which for images from files is that of the network beside them
        channels, size = train.spec.channels, train.size if train.streams else train.spec.size
    images = ImageViews(RECIPES["published-crop" if size > LARGE else schedule.recipe], prepare.normalise, size)
    batch_size = min(schedule.batch_size, len(train))
    training = Training(
        method=method,
        forward=method,
        optimizer=optimizer,
        views=OneView(images, channels),
        phases=(Phase(train, None, schedule.epochs),),
        batch_size=batch_size,
        local_batch=batch_size,
        seed=task.part_seed(),
        device=task.subject.device,
        peak_lr=schedule.lr,
        must_be_finite=must_be_finite,
        advice=lambda: f"Fine-tuning diverged at learning rate {schedule.lr:g}. Choose a lower one: --set finetune_lr=…",
    )
    fit(training, [Watcher(task.watch)], Progress())


# ---------------------------------------------------------------------------------------------- linear layers


class LinearProbes(Method):
    """A linear layer for each learning rate of LRS and each kind of features, behind a frozen network, all on the same views."""

    def __init__(self, network: nn.Module, widths: dict[str, int], classes: int) -> None:
        super().__init__(getattr(network, "backbone", network), getattr(network, "projector", nn.Identity()))
        self.network = network
        self.heads = nn.ModuleDict({name: nn.ModuleList(nn.Linear(width, classes) for _ in LRS) for name, width in widths.items()})

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            features = self.network(views[0].inputs)
        losses = [
            F.cross_entropy(head(features[name].float()), batch.labels) for name, heads in self.heads.items() for head in heads
        ]
        return sum(losses), {}


def linear_sgd(task: Task) -> Iterator[Outcome]:
    """The classic linear evaluation: a linear layer trained by SGD on augmented views behind the frozen network in eval mode.

    Every learning rate of LRS trains its own layer on the same views. The one that is best on a tenth held out of the training
    images predicts the test images.
    """
    train, test = task.features()
    held_out = held_out_tenth(train.labels)
    rest = task.data.train.take((~held_out).nonzero().flatten())
    schedule = Schedule(task.settings.sgd_epochs, task.settings.sgd_batch)
    for name, heads in trained_heads(task, rest, {name: test[name].shape[1] for name in task.subject.features}, schedule).items():
        predicted, chosen = best_head(list(heads), train[name][held_out], train.labels[held_out], test[name])
        columns = {**chosen, "eval_epochs": schedule.epochs, "eval_batch_size": schedule.batch_size, "eval_seed": task.seed}
        yield classified(task, name, predicted, test.labels, n_train=len(rest), n_val=int(held_out.sum()), **columns)


def trained_heads(task: Task, train: Source, widths: dict[str, int], schedule: Schedule) -> nn.ModuleDict:
    """For each kind of features a linear layer for each of LRS, trained on the same views."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.part_seed())
        method = LinearProbes(task.subject.network, widths, task.classes).to(task.subject.device)
    groups = []
    for heads in method.heads.values():
        groups += [{"params": head.parameters(), "peak": lr, "constant_lr": False} for head, lr in zip(heads, LRS, strict=True)]
    optimizer = SGD(groups, lr=1.0, momentum=MOMENTUM)
    with eval_mode(task.subject.network):
        # a layer whose learning rate is too high for these features may diverge: another one is chosen
        supervise(task, method, optimizer, train, schedule, must_be_finite=False)
    return method.heads


@torch.no_grad()
def best_head(heads: list[nn.Linear], val: Tensor, labels: Tensor, test: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The predictions on test of the head that is best on val, of equals the one with the lower learning rate."""
    scores = [float((head(val).argmax(dim=1) == labels).double().mean()) for head in heads]
    best = max(range(len(heads)), key=lambda i: (scores[i], -i))
    return heads[best](test).argmax(dim=1), {"eval_lr": LRS[best], "val_accuracy": scores[best]}


# ---------------------------------------------------------------------------------------------- fine-tuning


class Classifier(Method):
    """A trainable copy of an encoder with a linear layer on r or z, and its cross-entropy."""

    def __init__(self, encoder: nn.Module, features: str, width: int, classes: int) -> None:
        super().__init__(trainable(encoder.backbone), trainable(encoder.projector) if features == "z" else nn.Identity())
        # Features come in any scale; normalised, one learning rate suits every network (as in MAE, He et al. 2022, A.1).
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes))
        nn.init.zeros_(self.head[1].weight)
        nn.init.zeros_(self.head[1].bias)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return F.cross_entropy(self.logits(views[0].inputs).float(), batch.labels), {}

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, classes]."""
        return self.head(self.embed(inputs)[1])


def end_to_end(task: Task) -> Iterator[Outcome]:
    """Fine-tuning on all training images."""
    yield from tuned(task, task.data.train, task.settings.finetune_epochs, eval_seed=task.seed)


def semi_finetune(task: Task) -> Iterator[Outcome]:
    """Fine-tuning on the same share of the labels as `semi_linear` has."""
    epochs = dict(zip(SHARES, task.settings.semi_epochs, strict=True))[task.share]
    labels, seed = task.data.train.labels, stable_seed("evaluate", "semi-linear", task.share, task.seed)
    known = task.data.train.take(few_labels(labels, task.classes, task.share, seed))
    yield from tuned(task, known, epochs, label_share=task.share, eval_seed=task.seed)


def tuned(task: Task, train: Source, epochs: int, **columns: object) -> Iterator[Outcome]:
    """Fine-tuning on r and on z, each from the pretrained weights."""
    schedule = Schedule(epochs, task.settings.finetune_batch, task.settings.finetune_lr, "gentle-crop")
    widths = task.features()[1].by_name
    columns = {"eval_lr": schedule.lr, "eval_epochs": epochs, "eval_batch_size": schedule.batch_size, **columns}
    for name in task.subject.features:
        test = finetune(task, train, name, widths[name].shape[1], schedule)
        yield classified(task, name, test["logits"].argmax(dim=1), test.labels, n_train=len(train), n_val=0, **columns)


def finetune(task: Task, train: Source, features: str, width: int, schedule: Schedule) -> Features:
    """A copy of the network and a linear layer on r or z (`width` wide), trained end to end -> {"logits"} of test, at the end.

    Learning rates fall by DECAY from each part to the one below it: head and projector, last stage, …, first stage.
    """
    model = Classifier(task.subject.network, features, width, task.classes)
    model = model.to(task.subject.device, memory_format=torch.channels_last)
    optimizer = SGD(discriminative_groups(model, schedule.lr), lr=schedule.lr, momentum=MOMENTUM)
    supervise(task, model, optimizer, train, schedule, must_be_finite=True)
    return extract(model, task.data.test, task.subject.prepare, lambda inputs: {"logits": model.logits(inputs)})


def discriminative_groups(model: Classifier, lr: float) -> list[dict]:
    """Parameter groups with their peak learning rate; weights decay, biases and norms do not. Source: Howard & Ruder 2018."""
    parts = [nn.ModuleList([model.projector, model.head]), *map(nn.ParameterList, reversed(stages_of(model.backbone)))]
    groups = []
    for depth, part in enumerate(parts):
        groups += [{**group, "peak": lr * DECAY**depth} for group in parameter_groups(part, WEIGHT_DECAY)]
    return groups


def stages_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The trainable parameters of a backbone from input to output, each once, in the parts that learn at different rates.

    An encoder may name them by a method `stages`. Of any other they are its parts, in the order in which they were made; what
    only wraps one other module is opened. Parameters outside of all parts, such as a class token, belong to the first.
    """
    if inspect.ismethod(getattr(backbone, "stages", None)):
        stages = backbone.stages()
    else:
        stages = [part for part in backbone.children() if any(True for _ in part.parameters())]
        if len(stages) == 1 and not list(backbone.parameters(recurse=False)):
            return stages_of(stages[0])
    parts = [list(stage.parameters()) for stage in stages] or [[]]
    inside = {id(parameter) for part in parts for parameter in part}
    parts[0] = [parameter for parameter in backbone.parameters() if id(parameter) not in inside] + parts[0]
    seen: set[int] = set()
    trained = []
    for part in parts:
        part = [parameter for parameter in part if parameter.requires_grad and id(parameter) not in seen]
        seen.update(map(id, part))
        trained.append(part)
    return [part for part in trained if part]
