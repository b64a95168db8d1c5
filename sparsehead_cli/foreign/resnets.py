"""Other people's tensors -> a ResNet and its projector. Nothing is read from the disk here.

    network = find_resnet(torch.load(path, weights_only=True), Search("path"))

A ResNet is found by the names of its blocks, under whatever prefix: torchvision's `layer1.0.conv1.weight`, or the numbers of an
nn.Sequential of its children, `4.0.conv1.weight` (lightly). Its architecture is read off the shapes. What no shape shows is a
fact (facts.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import Facts, hints_of
from sparsehead_cli.foreign.networks import ForeignNetwork, Place, Search, assemble, on_meta
from sparsehead_cli.foreign.tensors import TIMM_HINT, choose_branch, listed, preferred, printable, tensors_of, without_network
from sparsehead_cli.nets.backbones import BasicBlock, Bottleneck, ResNet

NAMED = re.compile(r"((?:.*\.)?)layer[1-9]\.\d{1,3}\.conv[12]\.weight")
NUMBERED = re.compile(r"((?:.*\.)?)([2-9])\.\d{1,3}\.conv[12]\.weight")
STARTS = (2, 3, 4)  # the number of the first stage: behind conv, bn; then relu; then maxpool
WIDEST = 2**16  # channels of a stage


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


def find_resnet(state: object, search: Search) -> ForeignNetwork:
    """Nested dicts of tensors -> the ResNet in them and its projector.

    Raises: SparseheadError where there is no ResNet, where a part of it is missing or of another architecture (with
    `allow_partial` only reported), and for weights that are no finite numbers.
    """
    tensors, facts = tensors_of(state), search.facts
    places = places_in(tensors)
    if not places:
        raise without_network(tensors, search.source, search.skipped, "ResNet")
    stems = [stem for place in places if (stem := place.own().get("conv1.weight")) is not None and stem.ndim == 4]
    facts.recognise("resnet", tensors, hints_of(state), kernel=stems[0].shape[-1] if stems else None)
    prefix = choose_branch([place.prefix for place in places], facts, search.source)
    place = next(place for place in places if place.prefix == prefix)
    shape = with_facts(architecture_of(place, search.source), place, facts)
    require_buildable(shape, place, search.source)
    notes = require_published(shape, search)
    return assemble(search, place, on_meta(shape.build), shape.build, name=shape.name, words=shape.words(), notes=notes)


def places_in(tensors: Mapping[str, Tensor]) -> list[Place]:
    """Where backbones lie, the one to evaluate first."""
    named = {match[1] for name in tensors if (match := NAMED.fullmatch(name))}
    starts: dict[str, int] = {}
    for match in filter(None, map(NUMBERED.fullmatch, tensors)):
        starts[match[1]] = min(int(match[2]), starts.get(match[1], 9))
    numbered = {prefix for prefix, start in starts.items() if start in STARTS and f"{prefix}0.weight" in tensors}
    places: list[Place] = []
    for prefix in preferred(named | numbered):
        place = place_at(prefix, None if prefix in named else starts[prefix], tensors)
        if not any(same_network(place.own(), other.own()) for other in places):
            places.append(place)
    return places


def same_network(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether a network is in the file under two names, as encoder.0 and backbone, with the same numbers."""
    if a.keys() != b.keys():
        return False
    for name in a:
        x, y = a[name], b[name]
        plain = all(t.layout == torch.strided and t.is_cpu and t.dtype.is_floating_point for t in (x, y) if t.ndim)
        if not (plain and (x.dtype, x.shape) == (y.dtype, y.shape) and torch.equal(x, y)):
            return False
    return True


def place_at(prefix: str, start: int | None, tensors: Mapping[str, Tensor]) -> Place:
    """What belongs to the backbone behind `prefix`; lightly's blocks say `shortcut` for torchvision's `downsample`."""
    keys = {}
    for name in tensors:
        if name.startswith(prefix):
            first, dot, rest = name[len(prefix) :].partition(".")
            first = renamed(first, start) if start is not None else first
            if re.fullmatch("conv1|bn1|layer[1-9]", first):
                keys[re.sub(r"(^|\.)shortcut\.", r"\1downsample.", first + dot + rest)] = name
    return Place(prefix, keys, tensors, start)


def renamed(first: str, start: int) -> str:
    """The number of a child of the nn.Sequential -> its name in torchvision's ResNet."""
    if first in ("0", "1"):
        return ("conv1", "bn1")[int(first)]
    return f"layer{int(first) - start + 1}" if re.fullmatch("[2-9]", first) and int(first) >= start else first


def architecture_of(place: Place, source: str) -> Architecture:
    """The ResNet that has these shapes. Raises: SparseheadError where they are no ResNet's."""
    stages: dict[int, set[int]] = {}
    widths: dict[int, int] = {}
    for name, value in place.own().items():
        if match := re.fullmatch(r"layer(\d)\.(\d{1,3})\.(.*)", name):
            stage = int(match[1])
            stages.setdefault(stage, set()).add(int(match[2]))
            if match[3] in ("conv1.weight", "bn1.weight") and value.ndim:
                widths.setdefault(stage, value.shape[0])
    count = max(stages)
    lost = [f"layer{stage}" for stage in range(1, count + 1) if not 0 < widths.get(stage, 0) <= WIDEST]
    if lost:
        raise SparseheadError(f"{source}: the ResNet at {place.where} has no usable {listed(lost)}. {TIMM_HINT}")
    channels, kernel = first_convolution(place, source)
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


def first_convolution(place: Place, source: str) -> tuple[int, int]:
    """Its channels and the side of its kernel; where it is missing, those for ImageNet. Raises: SparseheadError for others."""
    key = place.keys.get("conv1.weight")
    shape = list(place.tensors[key].shape) if key else [64, 3, 7, 7]
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2:] not in ([7, 7], [3, 3]):
        raise SparseheadError(
            f"{source}: the first convolution {printable(key)} is {shape}; "
            f"it must be [width, 1 or 3 channels, 7, 7] or [width, 1 or 3, 3, 3]. {TIMM_HINT}"
        )
    return shape[1], shape[2]


def require_buildable(shape: Architecture, place: Place, source: str) -> None:
    """Raises: SparseheadError for shapes that claim a far larger network than the file has numbers for."""
    one_each = replace(shape, blocks=(1,) * len(shape.blocks))
    claimed = sum(parameter.numel() for parameter in on_meta(one_each.build).parameters())
    there = sum(value.numel() for value in place.own().values())
    blocks = sum(name.endswith(".conv1.weight") for name in place.keys)
    if claimed > 4 * there + 2**20 or sum(shape.blocks) > 4 * blocks + 4:
        raise SparseheadError(
            f"{source}: the shapes at {place.where} are those of a {shape.words()}, "
            f"of which only {there:,} numbers are there. It is damaged or of another architecture. {TIMM_HINT}"
        )


def require_published(shape: Architecture, search: Search) -> tuple[str, ...]:
    """Nothing for a ResNet of DEPTHS. For another one the line that says so loudly: its last blocks may be lost.

    Raises: SparseheadError that lists what it lacks, unless partial ones are allowed.
    """
    if (shape.block, shape.blocks) in DEPTHS:
        return ()
    lacks = {}  # of each published ResNet that is larger, the blocks that are not there
    for (block, blocks), name in DEPTHS.items():
        pairs = list(zip_longest(shape.blocks, blocks, fillvalue=0))
        if block is shape.block and all(there <= published for there, published in pairs):
            lacks[name] = [f"layer{i}.{j}" for i, (there, published) in enumerate(pairs, 1) for j in range(there, published)]
    nearest = min(lacks, key=lambda name: len(lacks[name]), default=None)
    words = f"its stages have {', '.join(map(str, shape.blocks))} blocks, which no published ResNet has"
    if nearest:
        words += f"; of a {nearest} it lacks {listed(lacks[nearest])}"
    if not search.allow_partial:
        raise SparseheadError(f"{search.source}: {words}. Is it whole? --allow-partial takes it as it is. {TIMM_HINT}")
    return (f"NOT A PUBLISHED RESNET: {words}",)


# the numbers of blocks that have a name
DEPTHS: dict[tuple[type, tuple[int, ...]], str] = {
    (BasicBlock, (1, 1, 1, 1)): "resnet9",
    (BasicBlock, (2, 2, 2, 2)): "resnet18",
    (BasicBlock, (3, 4, 6, 3)): "resnet34",
    (Bottleneck, (3, 4, 6, 3)): "resnet50",
    (Bottleneck, (3, 4, 23, 3)): "resnet101",
    (Bottleneck, (3, 8, 36, 3)): "resnet152",
}
