"""Transfer to object detection: Faster R-CNN, or Mask R-CNN, on a pretrained backbone, all layers trained.

    results = detect(backbone, normalise, *load_detection("voc", data_dir), DetectionSettings(), seed=0, device=device)

The detector reads a copy of the backbone through a feature pyramid (Lin et al. 2017). Two choices are those for pretrained
weights of unknown scale (He et al. 2020, MoCo, 4.2, normalise there too), without a need for large batches: the pyramid has
group norms, and a BatchNorm of the backbone keeps the statistics of its pretraining, while its scale and shift are trained.

Average precision is COCO's: interpolated at 101 recalls, over IoU thresholds 0.5, 0.55 … 0.95, averaged over classes. For
VOC that is what papers call AP, AP50 and AP75, up to VOC2007's own 11 recalls.
"""

import copy
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, box_iou

from sparsehead_cli.data.colour import luma
from sparsehead_cli.data.contract import Normalisation
from sparsehead_cli.data.detection import DetectionSet, Target
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.task import DetectionSettings
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.nets.optim import make_optimizer, parameter_groups
from sparsehead_cli.runs.settings import problems_of


def detect(
    backbone: ResNet,
    normalise: Normalisation,
    train: DetectionSet,
    test: DetectionSet,
    settings: DetectionSettings,
    *,
    seed: int,
    device: torch.device,
    watch: Callable[[int, int, float], None] = lambda step, total, loss: None,
) -> dict[str, float]:
    """Train a detector on `train` and measure it on `test`, once, at the end: map, map_50, map_75, n_train, n_test.

    With masks, segm_map, segm_map_50 and segm_map_75 as well. Precisions are fractions in [0, 1]. `backbone` stays as it is,
    and so does the global generator. `watch(step, total, loss)` is called after each step, from 1. `normalise` is that of the
    backbone's own training images; a backbone of one channel reads the luma. The same seed gives the same numbers on a CPU;
    on a GPU, torchvision's kernels sum in no fixed order.

    Raises: SparseheadError for settings and sets that do not go together, and for a loss that is no longer finite.
    """
    require_extra()
    if problems := problems_of(settings, "detection."):
        raise SparseheadError("\n".join(problems))
    require_usable(train, test, settings)
    train, test = (replace(part, masks=settings.masks) for part in (train, test))
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):  # torchvision draws regions and sizes from the global generator
        torch.manual_seed(seed)
        detector = make_detector(backbone, normalise, len(train.classes), settings).to(device)
        train_detector(detector, train, settings, seed, device, watch)
        pairs = predictions(detector, test, settings, device)
        values = average_precision(pairs, masks=settings.masks, ignoring=any(scene.ignore.any() for scene in test.scenes))
    return {**values, "n_train": float(len(train)), "n_test": float(len(test))}


def require_extra() -> None:
    """Raises: SparseheadError where average precision could not be computed in the end."""
    missing = [name for name in ("torchmetrics", "pycocotools") if importlib.util.find_spec(name) is None]
    if missing:
        raise SparseheadError(f"detection needs {' and '.join(missing)}, not installed: pip install 'sparsehead[detection]'")


def require_usable(train: DetectionSet, test: DetectionSet, settings: DetectionSettings) -> None:
    """Raises: SparseheadError for sets without objects or of different classes, and for masks without segmentations."""
    if train.classes != test.classes:
        raise SparseheadError("the training and the test set have different classes. Give both the same.")
    for name, part in (("training", train), ("test", test)):
        if not part.has_objects:
            raise SparseheadError(f"the {name} set ({len(part)} images) has no objects. Look at its annotations.")
        if settings.masks and not part.outlined:
            raise SparseheadError(
                f"objects of the {name} set have no segmentations, so there are no masks to learn. Leave masks out."
            )


# ---------------------------------------------------------------------------------------------- the detector


def make_detector(backbone: ResNet, normalise: Normalisation, classes: int, settings: DetectionSettings) -> FasterRCNN:
    """Faster or Mask R-CNN over a copy of the backbone, for lists of images [C, H, W] in [0, 1], C the backbone's."""
    assert len(normalise.mean) == backbone.image[0]
    levels = levels_of(backbone)
    channels, strides = shapes_of(backbone, levels)
    names = list(levels.values())
    pyramid = BackboneWithFPN(
        copy.deepcopy(backbone).requires_grad_(True),
        levels,
        channels,
        settings.width,
        norm_layer=partial(nn.GroupNorm, 32),
    )
    short = settings.min_size or 25 * strides[-1]
    # one more level is pooled from the last stage; an anchor's side is eight cells of its level, 32 pixels at stride 4
    sides = tuple((8 * stride,) for stride in [*strides, 2 * strides[-1]])
    heads = mask_heads(names, classes, settings) if settings.masks else {}
    return (MaskRCNN if settings.masks else FasterRCNN)(
        pyramid,
        min_size=tuple(max(1, round(short * i / 25)) for i in range(round(25 * settings.smallest), 26)),
        max_size=settings.max_size or round(short * 5 / 3),
        image_mean=list(normalise.mean),
        image_std=list(normalise.std),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(settings.width * 7 * 7, settings.hidden),
        box_predictor=FastRCNNPredictor(settings.hidden, classes + 1),
        box_batch_size_per_image=settings.regions,
        **heads,
    )


def mask_heads(levels: list[str], classes: int, settings: DetectionSettings) -> dict[str, nn.Module]:
    """What turns a region into masks, 28 x 28 a class."""
    return {
        "mask_roi_pool": MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        "mask_head": MaskRCNNHeads(settings.width, (settings.width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(settings.width, settings.width, classes + 1),
    }


def levels_of(backbone: ResNet) -> dict[str, str]:
    """The stages whose maps the pyramid reads, by their names in the backbone: its stages of blocks, numbered from 0."""
    blocks = [id(stage) for stage in backbone.stages() if isinstance(stage, nn.Sequential)]
    names = [name for name, child in backbone.named_children() if id(child) in blocks]
    return {name: str(i) for i, name in enumerate(names)}


@torch.no_grad()
def shapes_of(backbone: ResNet, levels: dict[str, str]) -> tuple[list[int], list[int]]:
    """Channels and stride, in pixels, of each level."""
    side = 2 ** (len(levels) + 2)  # the ImageNet stem halves twice, every stage but the first once more
    x = torch.zeros(1, backbone.image[0], side, side, device=next(backbone.parameters()).device)
    channels, strides = [], []
    for name, child in copy.deepcopy(backbone).eval().named_children():
        x = child(x)
        if name in levels:
            channels.append(x.shape[1])
            strides.append(side // x.shape[2])
    return channels, strides


def train_mode(detector: nn.Module) -> None:
    """Training mode, but for BatchNorm: it goes on with the statistics of its pretraining."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


# ---------------------------------------------------------------------------------------------- training


def train_detector(
    detector: FasterRCNN,
    train: DetectionSet,
    settings: DetectionSettings,
    seed: int,
    device: torch.device,
    watch: Callable[[int, int, float], None],
) -> None:
    """All layers, by SGD with momentum 0.9. Raises: SparseheadError for a loss or a weight that is no longer finite."""
    optimizer = make_optimizer("sgd", parameter_groups(detector, settings.weight_decay), settings.lr, momentum=0.9)
    channels = len(detector.transform.image_mean)
    total = settings.epochs * math.ceil(len(train) / settings.batch_size)
    train_mode(detector)
    for step, batch in enumerate(training_batches(train, settings, seed)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, total, settings)
        images, targets = zip(*(to_device(image, target, channels, device) for image, target in batch), strict=True)
        loss = sum(detector(images, targets).values())
        require_finite(loss, step, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch(step + 1, total, loss.item())
    for parameter in detector.parameters():
        require_finite(parameter, total, settings)


def rate_at(step: int, total: int, settings: DetectionSettings) -> float:
    """Learning rate of step 0 … total - 1: a linear rise, then `lr`, a tenth from 3/4 and a hundredth from 11/12 on."""
    drops = (4 * step >= 3 * total) + (12 * step >= 11 * total)
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup)) * 0.1**drops


def require_finite(values: Tensor, step: int, settings: DetectionSettings) -> None:
    if not values.isfinite().all():
        raise SparseheadError(
            f"the detector's loss is no longer finite at step {step}. Lower lr ({settings.lr}) or lengthen the warm-up "
            f"({settings.warmup} steps); otherwise look at the checkpoint's weights and the data's normalisation."
        )


def training_batches(train: DetectionSet, settings: DetectionSettings, seed: int) -> Iterator[list[tuple[Tensor, Target]]]:
    """Every epoch all images in a new order, half of them mirrored; the last batch of an epoch may be smaller.

    Order and mirroring are drawn here, not where images are read, so they are the same for any number of workers.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(train), generator=generator).tolist()
        mirrored = iter((torch.rand(len(train), generator=generator) < 0.5).tolist())
        for batch in read_batches(train, order, settings):
            yield [mirror(*learnable(*item)) if next(mirrored) else learnable(*item) for item in batch]


def read_batches(part: DetectionSet, order: Iterable[int], settings: DetectionSettings) -> Iterator[list[tuple[Tensor, Target]]]:
    """The images of `part` in the given order, read by `settings.workers` processes."""
    loader = DataLoader(
        _Readable(part),
        batch_size=settings.batch_size,
        sampler=order,
        num_workers=settings.workers,
        collate_fn=list,
        generator=torch.Generator(),  # it would draw a seed for its workers from the global one
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, SparseheadError):
                raise item
        yield [(image, {name: torch.from_numpy(value) for name, value in target.items()}) for image, target in batch]


class _Readable(Dataset):
    """A set as worker processes can send it: errors are items, for one that is raised there arrives as a traceback; targets
    are arrays, for a tensor between processes costs an open file."""

    def __init__(self, part: DetectionSet) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, np.ndarray]] | SparseheadError:
        try:
            image, target = self.part[i]
        except SparseheadError as error:
            return error
        return image, {name: value.numpy() for name, value in target.items()}


def learnable(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Without crowds and what is to be ignored: neither is trained on."""
    keep = (target["iscrowd"] == 0) & (target["ignore"] == 0)
    return image, {name: value[keep] for name, value in target.items()}


def mirror(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Left and right exchanged, in the image, the boxes and the masks."""
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    width = image.shape[2]
    flipped = {**target, "boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(2)
    return image.flip(2), flipped


def to_device(image: Tensor, target: Target, channels: int, device: torch.device) -> tuple[Tensor, Target]:
    """uint8 [3, H, W] -> float32 [channels, H, W] in [0, 1], luma for one channel; and the target, both on the device."""
    x = image.to(device).float() / 255
    return (luma(x[None])[0] if channels == 1 else x), {name: value.to(device) for name, value in target.items()}


# ---------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def predictions(
    detector: FasterRCNN, test: DetectionSet, settings: DetectionSettings, device: torch.device
) -> Iterator[tuple[Target, Target]]:
    """(detections, truth) for each test image, on the CPU; masks that are detected are bool [K, H, W], at probability 0.5."""
    detector.eval()
    channels = len(detector.transform.image_mean)
    for batch in read_batches(test, range(len(test)), settings):
        for image, target in batch:
            x, _ = to_device(image, {}, channels, device)
            detections = detector([x])[0]
            if "masks" in detections:
                detections["masks"] = detections["masks"][:, 0] >= 0.5
            yield {name: value.cpu() for name, value in detections.items()}, target


def average_precision(pairs: Iterable[tuple[Target, Target]], masks: bool, ignoring: bool) -> dict[str, float]:
    """COCO's average precision of (detections, truth) pairs: map, map_50, map_75; with masks segm_map … as well.

    NaN where there are no objects. Crowds are ignored by COCO's rule, in the metric. With `ignoring`, objects marked `ignore` are
    so by VOC's rule, which depends on the threshold: each threshold then has a metric of its own, and its own share of the
    detections.
    """
    from torchmetrics.detection import MeanAveragePrecision

    groups = [[t] for t in THRESHOLDS] if ignoring else [THRESHOLDS]
    kinds = ("bbox", "segm") if masks else ("bbox",)
    metrics = [MeanAveragePrecision(iou_type=kinds, iou_thresholds=list(group), backend="pycocotools") for group in groups]
    for detections, truth in pairs:
        for group, metric in zip(groups, metrics, strict=True):
            pair = counted(detections, truth, group[0]) if ignoring else (detections, truth)
            metric.update(*([item] for item in pair))
    results = [metric.compute() for metric in metrics]
    values = {}
    for prefix in ("", "segm_") if masks else ("",):
        source = "bbox_" if masks and not prefix else prefix
        values[f"{prefix}map"] = sum(result[f"{source}map"].item() for result in results) / len(results)
        for name in ("map_50", "map_75"):  # -1 where the threshold is another
            values[f"{prefix}{name}"] = max(result[f"{source}{name}"].item() for result in results)
    return {name: value if value >= 0 else math.nan for name, value in values.items()}  # -1: there is no object


def counted(detections: Target, truth: Target, threshold: float) -> tuple[Target, Target]:
    """(detections, truth) without the ignored objects, and without the detections of them.

    VOC's rule: a detection belongs to the object of its class that it overlaps most; where that one is ignored and the
    overlap reaches the threshold, the detection is neither right nor wrong.
    """
    ignored = truth["ignore"] == 1
    overlap = box_iou(detections["boxes"], truth["boxes"])
    overlap[detections["labels"][:, None] != truth["labels"]] = 0
    drop = torch.zeros(len(overlap), dtype=torch.bool)
    if ignored.any():
        best, which = overlap.max(dim=1)
        drop = (best >= threshold) & ignored[which]
    return {name: value[~drop] for name, value in detections.items()}, {name: value[~ignored] for name, value in truth.items()}


THRESHOLDS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
