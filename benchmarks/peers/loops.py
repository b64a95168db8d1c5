"""The training loops of sparsehead and its peers, each as its own documentation writes it; compare.py takes their time.

All of them train one network of ours, on the same images in memory, with two views of the recipe `colour-no-blur` of
throughput.py: crop, flip, colour jitter, grey. A loop never ends. It calls `turn()` behind every batch, and goes on when that
returns.
"""

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from throughput import pipeline_step
from torch import Tensor, nn

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.machine.memory import keep_freed_memory
from sparsehead_cli.nets.backbones import BACKBONES, BasicBlock
from sparsehead_cli.nets.convolution import Conv2d
from sparsehead_cli.runs.build import build, build_method, phases_of
from sparsehead_cli.runs.config import Config, load_config
from sparsehead_cli.runs.settled import settled

Turn = Callable[[], None]

BACKBONES["narrow32"] = (BasicBlock, (1, 1, 1, 1), (32, 64, 128, 256), "strided")  # 256-dimensional r
SIZE = 32  # pixels of a side
WORKERS = min(8, os.cpu_count() or 1)  # the peers' documentation says 4 or 8; more than cores would only harm them
(RECIPE, _) = RECIPES["colour-no-blur"]
JITTER = (RECIPE.brightness, RECIPE.contrast, RECIPE.saturation, RECIPE.hue)


@dataclass(frozen=True)
class Setting:
    """What is trained: a backbone, a method (the head is that of solo-learn's CIFAR recipe), and how many images a batch has."""

    network: str
    method: str
    batch_size: int

    def config(self, precision: str = "float32", compile: bool = False) -> Config:
        """A run of ours with this network."""
        chosen = {"backbone": self.network, "dataset": "fashion-rgb32", "views": "colour-no-blur", "batch_size": self.batch_size}
        machine = {"precision": precision, "compile": compile, "results": Path(tempfile.gettempdir())}
        return load_config(f"{self.method}-cifar", None, chosen | machine)


class Parts:
    """Images, and the modules that a peer trains on them: new ones, in PyTorch's default memory format."""

    def __init__(self, setting: Setting) -> None:
        config = settled(setting.config())
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train = phases_of(config, torch.device("cpu"))[0][0].train
        self.images, self.labels = train.inputs, train.labels
        self.mean, self.std = ([value] * 3 for (value,) in (train.spec.normalise.mean, train.spec.normalise.std))  # equal channels
        method = build_method(config, train.spec).to(self.device)
        self.backbone, self.projector = method.backbone, method.projector
        for module in self.backbone.modules():
            if isinstance(module, Conv2d):
                module.__class__ = nn.Conv2d  # torch's own convolution, as in the networks that the peers bring along
        self.predictor = getattr(method, "predictor", None)


class Images(torch.utils.data.Dataset):
    """The images, one at a time: as PIL images, as torchvision's data sets hand them out, or as uint8 tensors [C, H, W]."""

    def __init__(self, parts: Parts, transform: Callable | None = None, *, pil: bool = True) -> None:
        self.images, self.labels = parts.images, parts.labels.tolist()
        self.transform, self.pil = transform, pil

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple:
        image = self.images[i]
        if self.pil:
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        return (self.transform(image) if self.transform else image), self.labels[i]


def endless(loader: torch.utils.data.DataLoader) -> Iterator:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


# ---------------------------------------------------------------------------------------------- sparsehead


def sparsehead(setting: Setting, turn: Turn, *, precision: str, compile: bool = False) -> None:
    """Everything that `sparsehead pretrain` does for a batch, in a process that keeps freed memory, as its training does."""
    keep_freed_memory()
    step = pipeline_step(build(setting.config(precision, compile)))
    while True:
        step()
        turn()


# ---------------------------------------------------------------------------------------------- lightly


def lightly(setting: Setting, turn: Turn, *, pil: bool, bfloat16: bool = False) -> None:
    """The PyTorch examples of its documentation. Its transforms take PIL images or tensors; workers make the views."""
    from lightly.models.utils import update_momentum
    from lightly.transforms import SimCLRTransform

    parts = Parts(setting)
    normalise = {"mean": parts.mean, "std": parts.std}
    transform = SimCLRTransform(input_size=SIZE, gaussian_blur=0.0, normalize=normalise)  # its other defaults are our strengths
    loader = torch.utils.data.DataLoader(
        Images(parts, transform, pil=pil), setting.batch_size, shuffle=True, drop_last=True, num_workers=WORKERS
    )
    loss_of, pairs = lightly_objective(setting.method, parts)
    trained = nn.ModuleList([m for m in (parts.backbone, parts.projector, parts.predictor) if m is not None])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.06)
    for views, _ in endless(loader):
        for student, teacher in pairs:
            update_momentum(student, teacher, m=0.996)
        x0, x1 = (view.to(parts.device) for view in views)
        with torch.autocast(parts.device.type, torch.bfloat16, enabled=bfloat16):
            loss = loss_of(x0, x1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        turn()


def lightly_objective(method: str, parts: Parts) -> tuple[Callable[[Tensor, Tensor], Tensor], list[tuple[nn.Module, nn.Module]]]:
    """Two views -> the loss, and the pairs of student and teacher that BYOL has."""
    from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss
    from lightly.models.utils import deactivate_requires_grad

    backbone, projector, predictor = parts.backbone, parts.projector, parts.predictor
    if method != "byol":
        criterion = {"simclr": NTXentLoss, "barlow": BarlowTwinsLoss}[method]()
        return lambda x0, x1: criterion(projector(backbone(x0)), projector(backbone(x1))), []
    pairs = [(module, copy.deepcopy(module)) for module in (backbone, projector)]
    for _, teacher in pairs:
        deactivate_requires_grad(teacher)
    criterion, (teacher_backbone, teacher_projector) = NegativeCosineSimilarity(), (teacher for _, teacher in pairs)

    def loss_of(x0: Tensor, x1: Tensor) -> Tensor:
        p0, p1 = (predictor(projector(backbone(x))) for x in (x0, x1))
        z0, z1 = (teacher_projector(teacher_backbone(x)).detach() for x in (x0, x1))
        return 0.5 * (criterion(p0, z1) + criterion(p1, z0))

    return loss_of, pairs


# ---------------------------------------------------------------------------------------------- loops of Lightning


def fit(module: object, loader: object, turn: Turn, precision: str, *, plugged_in: bool) -> None:
    """Lightning's loop, with nothing beside it: no logger, checkpoint, validation or progress bar.

    To have stable-pretraining installed is enough that every trainer gets its callbacks; not `plugged_in`, it goes without.
    """
    from lightning.pytorch import Callback, Trainer

    class Turns(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            turn()

    turns = Turns()
    trainer = Trainer(
        max_epochs=1000,
        devices=1,
        precision=precision,
        callbacks=[turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if not plugged_in:
        trainer.callbacks = [turns]
    trainer.fit(module, loader)


def solo_learn(setting: Setting, turn: Turn, *, precision: str) -> None:
    """Its `main_pretrain.py` with the settings of its `scripts/pretrain/cifar`: PIL in workers, channels_last, its LARS.

    Its methods make their own backbone and head; both are exchanged for ours. Its online classifier stays.
    """
    from omegaconf import OmegaConf
    from solo.data import pretrain_dataloader as data
    from solo.methods import METHODS
    from solo.methods.base import BaseMethod
    from solo.utils.misc import make_contiguous

    parts = Parts(setting)
    parts.backbone.num_features = parts.backbone.dim
    BaseMethod._BACKBONES["ours"] = lambda method, **_: copy.deepcopy(parts.backbone)
    name = {"barlow": "barlow_twins"}.get(setting.method, setting.method)
    model = METHODS[name](OmegaConf.create(solo_learn_config(name, setting)))
    model.projector = parts.projector
    if parts.predictor is not None:
        model.predictor = parts.predictor
        model.momentum_projector = copy.deepcopy(parts.projector).requires_grad_(False)
    make_contiguous(model)
    model = model.to(memory_format=torch.channels_last)
    views = data.build_transform_pipeline("custom", OmegaConf.create(solo_learn_views(parts)))
    transform = data.FullTransformPipeline([data.NCropAugmentation(views, 2)])
    images = data.dataset_with_index(Images)(parts, transform)
    fit(model, data.prepare_dataloader(images, setting.batch_size, WORKERS), turn, precision, plugged_in=False)


def solo_learn_config(name: str, setting: Setting) -> dict[str, object]:
    """What its scripts say of a method on CIFAR-10; the widths are those of a head that is exchanged."""
    widths = {"proj_hidden_dim": 8, "proj_output_dim": 8, "pred_hidden_dim": 8}
    lars = {"clip_lr": True, "eta": 0.02, "exclude_bias_n_norm": True, "momentum": 0.9}
    optimizer = {"name": "lars", "batch_size": setting.batch_size, "lr": 0.3, "classifier_lr": 0.1, "weight_decay": 1e-4}
    return {
        "method": name,
        "backbone": {"name": "ours"},
        "method_kwargs": {**widths, "temperature": 0.2, "scale_loss": 0.1},
        "momentum": {"base_tau": 0.99, "final_tau": 1.0},
        "data": {"dataset": "custom", "num_classes": 10, "num_large_crops": 2, "num_small_crops": 0},
        "optimizer": {**optimizer, "kwargs": lars},
        "scheduler": {"name": "warmup_cosine"},
        "max_epochs": 1000,
    }


def solo_learn_views(parts: Parts) -> dict[str, object]:
    """Our recipe in its words."""
    names = ("brightness", "contrast", "saturation", "hue")
    return {
        "crop_size": SIZE,
        "mean": parts.mean,
        "std": parts.std,
        "rrc": {"enabled": True, "crop_min_scale": RECIPE.area[0], "crop_max_scale": RECIPE.area[1]},
        "color_jitter": {"prob": RECIPE.jitter_p, **dict(zip(names, JITTER, strict=True))},
        "grayscale": {"prob": RECIPE.grey_p},
        "gaussian_blur": {"prob": 0.0},
        "solarization": {"prob": 0.0},
        "equalization": {"prob": 0.0},
        "horizontal_flip": {"prob": RECIPE.flip_p},
    }


def stable_pretraining(setting: Setting, turn: Turn, *, precision: str) -> None:
    """Its README's loop with `gpu_transform`: workers hand out images, kornia makes the views of a whole batch; its LARS."""
    import stable_pretraining as spt
    from stable_pretraining import forward as forwards
    from stable_pretraining.data import transforms

    parts = Parts(setting)
    images = spt.data.FromTorchDataset(
        Images(parts),
        names=["image", "label"],
        transform=transforms.ToImage(rgb=True, scale=True),
        gpu_transform=stable_pretraining_views(parts),
    )
    loader = torch.utils.data.DataLoader(
        images, setting.batch_size, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True, pin_memory=True
    )
    losses = spt.losses
    forward, loss = {
        "simclr": (forwards.simclr, {"simclr_loss": losses.NTXEntLoss(temperature=0.2)}),
        "byol": (forwards.byol, {"byol_loss": losses.BYOLLoss()}),
        "barlow": (forwards.barlow_twins, {"barlow_loss": losses.BarlowTwinsLoss(lambd=0.0051)}),
    }[setting.method]
    modules = {"backbone": parts.backbone, "projector": parts.projector}
    if parts.predictor is not None:
        ema = {"warm_init": True, "base_ema_coefficient": 0.996, "final_ema_coefficient": 1.0}
        modules = {name: spt.TeacherStudentWrapper(module, **ema) for name, module in modules.items()}
        modules["predictor"] = parts.predictor
    lars = {"type": "LARS", "lr": 0.3, "weight_decay": 1e-6}
    optim = {"optimizer": lars, "scheduler": {"type": "LinearWarmupCosineAnnealing"}, "interval": "epoch"}
    module = spt.Module(**modules, **loss, forward=forward, optim=optim)
    fit(module, spt.data.DataModule(train=loader), turn, precision, plugged_in=True)


def stable_pretraining_views(parts: Parts) -> nn.Module:
    """Our recipe in its words: both views as one batch, which its documentation recommends where their strengths are equal."""
    from stable_pretraining.data import gpu_transforms as gt

    steps = [
        gt.GPURandomResizedCrop(size=SIZE, scale=RECIPE.area),
        gt.GPURandomHorizontalFlip(p=RECIPE.flip_p),
        gt.GPUColorJitter(*JITTER, p=RECIPE.jitter_p),
        gt.GPURandomGrayscale(p=RECIPE.grey_p),
        gt.GPUNormalize(mean=parts.mean, std=parts.std),
    ]
    return gt.StackedMultiView(gt.GPUCompose(steps), n_views=2)


# ---------------------------------------------------------------------------------------------- views alone, in one process


def batches_of(setting: Setting) -> tuple[Parts, Iterator[Tensor]]:
    """The parts, and uint8 batches [B, C, H, W] of their images on the device, without end."""
    parts = Parts(setting)
    images = parts.images.to(parts.device)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from images[torch.randperm(len(images))].split(setting.batch_size)[:-1]

    return parts, batches()


def sparsehead_views(setting: Setting, turn: Turn) -> None:
    """Ours: a batch at a time, every image with its own random numbers."""
    run, (_, batches) = build(setting.config()), batches_of(setting)
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        run.views(batch, generator)
        turn()


def torchvision_views(setting: Setting, turn: Turn, *, batched: bool) -> None:
    """torchvision's transforms v2 on tensors: image by image, or a batch at a time, which then has one crop and jitter for all."""
    from torchvision.transforms import v2

    parts, batches = batches_of(setting)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=RECIPE.area, ratio=RECIPE.ratio),
            v2.RandomHorizontalFlip(RECIPE.flip_p),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=RECIPE.jitter_p),
            v2.RandomGrayscale(RECIPE.grey_p),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(parts.mean, parts.std),
        ]
    )
    for batch in batches:
        for _ in range(2):
            _ = transform(batch) if batched else torch.stack([transform(image) for image in batch])
        turn()


def kornia_views(setting: Setting, turn: Turn) -> None:
    """kornia's augmentations on a batch, every image with its own random numbers."""
    from kornia import augmentation as kornia

    parts, batches = batches_of(setting)
    mean, std = (torch.tensor(values) for values in (parts.mean, parts.std))
    transform = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((SIZE, SIZE), scale=RECIPE.area, ratio=RECIPE.ratio, same_on_batch=False),
        kornia.RandomHorizontalFlip(p=RECIPE.flip_p, same_on_batch=False),
        kornia.ColorJitter(*JITTER, p=RECIPE.jitter_p, same_on_batch=False),
        kornia.RandomGrayscale(p=RECIPE.grey_p, same_on_batch=False),
        kornia.Normalize(mean, std),
        data_keys=["input"],
    )
    for batch in batches:
        for _ in range(2):
            transform(batch.float() / 255)
        turn()
