"""Other people's tensors -> a backbone and its projector. Nothing is read from the disk here.

    found = find_network(torch.load(path, weights_only=True), "path")

A ResNet is found by the names of its blocks, under whatever prefix: torchvision's `layer1.0.conv1.weight`, or the numbers of an
nn.Sequential of its children, `4.0.conv1.weight` (lightly). Its architecture is read off the shapes. What no shape shows is a
fact of layouts.py.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.heads import Head, find_head
from sparsehead_cli.foreign.layouts import Contents, Facts, hints_of
from sparsehead_cli.foreign.tensors import (
    TIMM_HINT,
    choose_branch,
    fit,
    listed,
    preferred,
    printable,
    require_whole,
    side_of,
    tensors_of,
    without_network,
)
from sparsehead_cli.nets.backbones import BasicBlock, Bottleneck, ResNet

NAMED = re.compile(r"((?:.*\.)?)layer[1-9]\.\d{1,3}\.conv[12]\.weight")
NUMBERED = re.compile(r"((?:.*\.)?)([2-9])\.\d{1,3}\.conv[12]\.weight")
STARTS = (2, 3, 4)  # the number of the first stage: behind conv, bn; then relu; then maxpool
WIDEST = 2**16  # channels of a stage
SEED = 0  # of the initial weights: of an untrained twin, and of what a partial file lacks


@dataclass(frozen=True)
class Place:
    """Where a backbone lies: behind `prefix`; `start` is the number of its first stage, None where stages have names.

    `keys` maps the names of our ResNet to those in the file.
    """

    prefix: str
    start: int | None
    keys: dict[str, str]


@dataclass(frozen=True)
class Architecture:
    """A ResNet as its shapes show it, and the facts that they do not show.

    `relu` and `pool`: whether they follow the first convolution, which has `padding` and `stem_stride` (None: the usual ones of its
    kernel). `stride`: which convolution of a bottleneck strides, "3x3" or "1x1".
    """

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    channels: int
    stem: str
    relu: bool = True
    pool: bool = True
    padding: int | None = None
    stem_stride: int | None = None
    stride: str = "3x3"

    def build(self) -> ResNet:
        """The ResNet, newly initialised, made for images of 224 pixels behind the ImageNet stem and of 32 behind the other."""
        size = 224 if self.stem == "imagenet" else 32
        network = ResNet(self.block, self.blocks, self.widths, self.stem, (self.channels, size, size))
        if not self.relu:
            network.relu = nn.Identity()
        network.maxpool = nn.MaxPool2d(3, 2, padding=1) if self.pool else nn.Identity()
        if self.padding is not None:
            network.conv1.padding = (self.padding, self.padding)
        if self.stem_stride is not None:
            network.conv1.stride = (self.stem_stride, self.stem_stride)
        for block in network.modules() if self.stride == "1x1" else ():
            if isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        return network

    @property
    def name(self) -> str:
        """resnet50, or resnet50x2 where all stages are twice as wide; resnet where the blocks are of no published number."""
        name = DEPTHS.get((self.block, self.blocks), "resnet")
        times = self.widths[0] / 64
        scaled = self.widths == tuple(round(64 * times) * 2**i for i in range(len(self.widths)))
        return f"{name}x{times:g}" if scaled and times > 1 else name

    def words(self) -> str:
        """All of it, for people."""
        blocks, widths = (", ".join(map(str, values)) for values in (self.blocks, self.widths))
        kernel = "7x7" if self.stem == "imagenet" else "3x3"
        return f"{self.name}, blocks {blocks}, widths {widths}, stem {kernel}" + ("" if self.relu else " without ReLU")


@dataclass(frozen=True)
class Found:
    """A network from a file: `fresh()` is the same with its initial weights; `report` says what was found, for people.

    `layout` is whose file it seems to be: moco, dino, byol, swav, barlow, solo-learn, lightning, lightly, torchvision or resnet.
    """

    layout: str
    name: str
    backbone: nn.Module
    projector: nn.Module
    fresh: Callable[[], tuple[nn.Module, nn.Module]]
    report: tuple[str, ...]


def find_network(
    state: object, source: str, *, facts: Facts | None = None, allow_partial: bool = False, skipped: tuple[str, ...] = ()
) -> Found:
    """Nested dicts of tensors -> the ResNet in them and its projector; nn.Identity where there is none.

    `source` is the file's name, for errors, `skipped` what Python objects were left out of it. `facts` holds those that the user
    gives, and lists those that were taken.

    Raises: SparseheadError where there is no ResNet, where a part of it is missing or of another architecture (with
    `allow_partial` only reported), and for weights that are no finite numbers.
    """
    tensors, facts = tensors_of(state), facts or Facts()
    places = places_in(tensors)
    if not places:
        raise without_network(tensors, source, skipped, "ResNet")
    layout = facts.recognise(Contents(tensors, hints_of(state), kernel=kernel_in(places, tensors)))
    prefix = choose_branch([place.prefix for place in places], facts, source)
    place = next(place for place in places if place.prefix == prefix)
    shape = with_facts(architecture_of(place, tensors, source), place, facts)
    require_buildable(shape, place, tensors, source)
    unusual = require_published(shape, source, allow_partial=allow_partial)
    with torch.device("meta"):
        expected = shape.build()
    found = fit(expected, place.keys, tensors, source)
    lacking = require_whole(found, f"a {shape.name} at {where(place.prefix)}", source, allow_partial=allow_partial)
    inside = set(place.keys.values())
    head = find_head(tensors, place.prefix, inside, expected.dim, facts)
    backbone, projector = initialised(shape, head)
    backbone.load_state_dict(found.values, strict=False)
    load_head(projector, head, tensors, source)
    report = (
        f"layout: {layout.name}",
        f"backbone: {where(place.prefix)}, {shape.words()}, D = {backbone.dim}",
        f"projector: {head_words(head)}",
        *unusual,
        *lacking,
        *left_out(tensors, place.prefix, inside, head, skipped),
    )
    return Found(layout.name, shape.name, backbone, projector, lambda: initialised(shape, head), report)


def initialised(shape: Architecture, head: Head | None) -> tuple[nn.Module, nn.Module]:
    """Backbone and projector with initial weights, always the same; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return shape.build(), head.build() if head else nn.Identity()


def load_head(projector: nn.Module, head: Head | None, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give the projector that `head` built its weights. Raises: SparseheadError for weights that are no finite numbers."""
    if head:
        projector.load_state_dict(head.fit(tensors, source).values, strict=False)


def places_in(tensors: Mapping[str, Tensor]) -> list[Place]:
    """Where backbones lie, the one to evaluate first."""
    named = {match[1] for name in tensors if (match := NAMED.fullmatch(name))}
    starts: dict[str, int] = {}
    for match in filter(None, map(NUMBERED.fullmatch, tensors)):
        starts[match[1]] = min(int(match[2]), starts.get(match[1], 9))
    numbered = {prefix for prefix, start in starts.items() if start in STARTS and f"{prefix}0.weight" in tensors}
    found: list[Place] = []
    for prefix in preferred(named | numbered):
        place = place_at(prefix, None if prefix in named else starts[prefix], tensors)
        if not any(same_network(place, other, tensors) for other in found):
            found.append(place)
    return found


def same_network(a: Place, b: Place, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a network is in the file under two names, as encoder.0 and backbone, with the same numbers."""
    pairs = [(tensors[key], tensors[b.keys[name]]) for name, key in a.keys.items() if name in b.keys]
    plain = all(
        t.layout == torch.strided and t.device.type == "cpu" and t.dtype.is_floating_point for t in sum(pairs, ()) if t.ndim
    )
    alike = all((x.dtype, x.shape) == (y.dtype, y.shape) for x, y in pairs)
    return a.keys.keys() == b.keys.keys() and plain and alike and all(torch.equal(x, y) for x, y in pairs)


def place_at(prefix: str, start: int | None, tensors: Mapping[str, Tensor]) -> Place:
    """What belongs to the backbone behind `prefix`; lightly's blocks say `shortcut` for torchvision's `downsample`."""
    keys = {}
    for name in tensors:
        if name.startswith(prefix):
            first, dot, rest = name[len(prefix) :].partition(".")
            first = renamed(first, start) if start is not None else first
            if re.fullmatch("conv1|bn1|layer[1-9]", first):
                keys[re.sub(r"(^|\.)shortcut\.", r"\1downsample.", first + dot + rest)] = name
    return Place(prefix, start, keys)


def renamed(first: str, start: int) -> str:
    """The number of a child of the nn.Sequential -> its name in torchvision's ResNet."""
    if first in ("0", "1"):
        return ("conv1", "bn1")[int(first)]
    return f"layer{int(first) - start + 1}" if re.fullmatch("[2-9]", first) and int(first) >= start else first


def architecture_of(place: Place, tensors: Mapping[str, Tensor], source: str) -> Architecture:
    """The ResNet that has these shapes. Raises: SparseheadError where they are no ResNet's."""
    stages: dict[int, set[int]] = {}
    widths: dict[int, int] = {}
    for name, key in place.keys.items():
        if match := re.fullmatch(r"layer(\d)\.(\d{1,3})\.(.*)", name):
            stage = int(match[1])
            stages.setdefault(stage, set()).add(int(match[2]))
            if match[3] in ("conv1.weight", "bn1.weight") and tensors[key].ndim:
                widths.setdefault(stage, tensors[key].shape[0])
    count = max(stages)
    lost = [f"layer{stage}" for stage in range(1, count + 1) if not 0 < widths.get(stage, 0) <= WIDEST]
    if lost:
        raise SparseheadError(f"{source}: the ResNet at {where(place.prefix)} has no usable {listed(lost)}. {TIMM_HINT}")
    channels, kernel = first_convolution(place, tensors, source)
    return Architecture(
        Bottleneck if any(name.endswith(".conv3.weight") for name in place.keys) else BasicBlock,
        tuple(max(stages[stage]) + 1 for stage in range(1, count + 1)),
        tuple(widths[stage] for stage in range(1, count + 1)),
        channels,
        "imagenet" if kernel == 7 else "small",
        relu=place.start != 2,
        pool=kernel == 7,
    )


def with_facts(shape: Architecture, place: Place, facts: Facts) -> Architecture:
    """The same with what its shapes do not show; the numbers of an nn.Sequential's children show whether it has a max-pool."""
    kernel = 7 if shape.stem == "imagenet" else 3
    pooled = None if place.start in (None, 4) else False
    return replace(
        shape,
        stem_stride=facts.take("stem_stride", guess=2 if kernel == 7 else 1),
        padding=facts.take("padding", guess=kernel // 2),
        pool=facts.take("pool", read=pooled, guess=kernel == 7),
        stride=facts.take("stride", guess="3x3") if shape.block is Bottleneck else "3x3",
    )


def kernel_in(places: list[Place], tensors: Mapping[str, Tensor]) -> int | None:
    """The side of the first convolution that is there."""
    keys = [place.keys["conv1.weight"] for place in places if "conv1.weight" in place.keys]
    return next((tensors[key].shape[-1] for key in keys if tensors[key].ndim == 4), None)


def first_convolution(place: Place, tensors: Mapping[str, Tensor], source: str) -> tuple[int, int]:
    """Its channels and the side of its kernel; where it is missing, those for ImageNet. Raises: SparseheadError for others."""
    key = place.keys.get("conv1.weight")
    shape = list(tensors[key].shape) if key else [64, 3, 7, 7]
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2:] not in ([7, 7], [3, 3]):
        raise SparseheadError(
            f"{source}: the first convolution {printable(key)} is {shape}; "
            f"it must be [width, 1 or 3 channels, 7, 7] or [width, 1 or 3, 3, 3]. {TIMM_HINT}"
        )
    return shape[1], shape[2]


def require_buildable(shape: Architecture, place: Place, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises: SparseheadError for shapes that claim a far larger network than the file has numbers for."""
    with torch.device("meta"):
        claimed = sum(p.numel() for p in replace(shape, blocks=(1,) * len(shape.blocks)).build().parameters())
    there = sum(tensors[key].numel() for key in place.keys.values())
    blocks = sum(name.endswith(".conv1.weight") for name in place.keys)
    if claimed > 4 * there + 2**20 or sum(shape.blocks) > 4 * blocks + 4:
        raise SparseheadError(
            f"{source}: the shapes at {where(place.prefix)} are those of a {shape.words()}, "
            f"of which only {there:,} numbers are there. It is damaged or of another architecture. {TIMM_HINT}"
        )


def require_published(shape: Architecture, source: str, *, allow_partial: bool) -> tuple[str, ...]:
    """Nothing for a ResNet of DEPTHS. For another one the line that says so loudly: its last blocks may be lost.

    Raises: SparseheadError that lists what it lacks, unless partial ones are allowed.
    """
    if (shape.block, shape.blocks) in DEPTHS:
        return ()
    lacks = {
        name: [
            f"layer{i}.{j}"
            for i, (there, all_) in enumerate(zip_longest(shape.blocks, blocks, fillvalue=0), 1)
            for j in range(there, all_)
        ]
        for (block, blocks), name in DEPTHS.items()
        if block is shape.block and all(a <= b for a, b in zip_longest(shape.blocks, blocks, fillvalue=0))
    }
    nearest = min(lacks, key=lambda name: len(lacks[name]), default=None)
    words = f"its stages have {', '.join(map(str, shape.blocks))} blocks, which no published ResNet has"
    if nearest:
        words += f"; of a {nearest} it lacks {listed(lacks[nearest])}"
    if not allow_partial:
        raise SparseheadError(f"{source}: {words}. Is it whole? --allow-partial takes it as it is. {TIMM_HINT}")
    return (f"NOT A PUBLISHED RESNET: {words}",)


def left_out(
    tensors: Mapping[str, Tensor], prefix: str, inside: set[str], head: Head | None, skipped: tuple[str, ...]
) -> tuple[str, ...]:
    """A line that names the parts of the file that are not evaluated, and one for Python objects; none where there are none."""
    parts: dict[str, str] = {}
    own = prefix.split(".")[:-1]
    for name in tensors:
        if name not in inside and not (head and name.startswith(f"{head.path}.")):
            names = name.split(".")
            common = next((i for i, (a, b) in enumerate(zip(names, own, strict=False)) if a != b), min(len(own), len(names) - 1))
            parts.setdefault(names[common], described(names[common], side_of(".".join(names[: common + 1])), side_of(prefix)))
    lines = [f"left out: {listed(parts.values())}"] if parts else []
    if skipped:
        lines.append(f"left unread: Python objects ({listed(skipped, 3)})")
    return tuple(lines)


def described(part: str, side: str, own: str) -> str:
    """The name of a part that is left out, with what it is where that can be told."""
    if side and side != own:
        return f"{side} network {part}"
    return f"classifier {part}" if part in ("fc", "linear", "head") else part


def head_words(head: Head | None) -> str:
    """What the report says about the projector."""
    return f"{printable(head.path)}, {head.words()}" if head else "none found, so that only r is there"


def where(prefix: str) -> str:
    """A prefix as a place: "module.encoder_q", or "the top"."""
    return printable(prefix.rstrip(".")) or "the top"


# the numbers of blocks that have a name
DEPTHS: dict[tuple[type, tuple[int, ...]], str] = {
    (BasicBlock, (1, 1, 1, 1)): "resnet9",
    (BasicBlock, (2, 2, 2, 2)): "resnet18",
    (BasicBlock, (3, 4, 6, 3)): "resnet34",
    (Bottleneck, (3, 4, 6, 3)): "resnet50",
    (Bottleneck, (3, 4, 23, 3)): "resnet101",
    (Bottleneck, (3, 8, 36, 3)): "resnet152",
}
