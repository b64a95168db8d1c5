"""The weights that a run's encoder starts from where they are not drawn from its seed: --init, any checkpoint that evaluate reads.

Only the encoder is taken, never the head. It must be of the very architecture that the run trains, also in what no shape of a
weight shows, such as a stride: with other strides the same weights would be another network. No code in a file is ever run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.berts import is_pretrained, weights_of
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.file import read_file
from sparsehead_cli.foreign.networks import Search, on_meta
from sparsehead_cli.foreign.resnets import find_resnet
from sparsehead_cli.foreign.tensors import COUNTER, listed
from sparsehead_cli.foreign.timm_models import PREFIX as TIMM
from sparsehead_cli.foreign.timm_models import TimmBackbone, find_timm
from sparsehead_cli.nets.backbones import BACKBONES, ResNet
from sparsehead_cli.runs.backbone import build_backbone
from sparsehead_cli.runs.checkpoint import checkpoint_file, is_checkpoint, load_checkpoint
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.encoder_file import is_encoder_file, load_encoder_file, spec_in
from sparsehead_cli.runs.identity import config_in

REMEDY = "Choose another file for --init."
OF_IMAGES = ("training", "image", "stem", "normalise")  # attributes of a module that do not change what it computes
BORDER = "padding"  # of the first convolution: another one changes no more than the border of the images


@dataclass(frozen=True)
class Initial:
    """The weights of an encoder by its own names, and where they came from, in words; both empty for those drawn from the seed."""

    weights: dict[str, Tensor]
    words: str

    def put_into(self, backbone: nn.Module) -> None:
        """Give the backbone these weights."""
        if self.weights:
            of_file(backbone).load_state_dict(self.weights)


@dataclass(frozen=True)
class Found:
    """The encoder in a file: its weights, the network that they are of (None where only its weights can be compared), its words."""

    weights: dict[str, Tensor]
    network: nn.Module | None
    words: str


def initial_encoder(config: Config, spec: object) -> Initial:
    """The weights that --init names; none where a run starts from its seed.

    Raises: SparseheadError for a file that holds no encoder, or one of another architecture, with what differs.
    """
    if config.init is None:
        return trained_before(config, spec)
    path = checkpoint_file(config.init)
    own = is_checkpoint(path) or is_encoder_file(path)
    found = in_our_file(path, config) if own else in_their_file(path, config, spec)
    plug_in = FIELDS["backbone"].is_plug_in(config.backbone)
    ours = build_anew(config, spec) if plug_in else on_meta(lambda: build_backbone(config, spec))
    differing = other_weights(found.weights, of_file(ours).state_dict())
    if not differing and found.network is not None:
        differing = other_modules(found.network, ours)
    border = [line for line in differing if line.startswith(f"conv1's {BORDER} ")]
    if set(differing) - set(border):
        raise SparseheadError(
            f"--init {path}: it holds {found.words}, and this run trains {in_words(ours, config.backbone)}. What differs: "
            f"{listed(differing, 4)}. {remedy_for(found, ours, config)}"
        )
    note = f"; {border[0]}, so that the border of images counts otherwise" if border else ""
    return Initial(found.weights, f"{found.words}, of {path}{note}")


def trained_before(config: Config, spec: object) -> Initial:
    """The weights that a backbone comes with, of which `minilm` and hf:PATH are; none of others. Raises: SparseheadError."""
    if not (isinstance(spec, TextSpec) and is_pretrained(config.backbone)):
        return Initial({}, "")
    shapes = {name: value.shape for name, value in on_meta(lambda: build_backbone(config, spec)).state_dict().items()}
    return Initial(weights_of(config.backbone, spec.vocabulary, shapes), f"the trained weights of {config.backbone}")


def of_file(backbone: nn.Module) -> nn.Module:
    """The module whose names a file has: a model of timm's is wrapped."""
    return backbone.net if isinstance(backbone, TimmBackbone) else backbone


def build_anew(config: Config, spec: object) -> nn.Module:
    """A backbone of somebody's own, which may not know how to be made without numbers; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return build_backbone(config, spec)


def in_our_file(path: Path, config: Config) -> Found:
    """The encoder in a checkpoint of ours, or in an encoder exported from one. Raises: SparseheadError."""
    state = load_encoder_file(path) if path.suffix == ".safetensors" else load_checkpoint(path, REMEDY)
    weights = {n.removeprefix("backbone."): value for n, value in state["method"].items() if n.startswith("backbone.")}
    try:
        theirs = config_in(state["identity"], path.resolve().parent.parent.name)
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {' '.join(str(error).split())[:500]}") from None
    if FIELDS["backbone"].is_plug_in(theirs.backbone):
        if theirs.backbone != config.backbone:
            raise SparseheadError(
                f"--init {path}: it holds a {theirs.backbone}, code of somebody's own, and this run trains a {config.backbone}. "
                f"Choose --backbone {theirs.backbone}, if you trust it."
            )
        return Found(weights, None, f"a {theirs.backbone} by {theirs.method}")
    spec = spec_in(state)
    if spec is None:  # of versions that left the images' size to the data set
        return Found(weights, None, f"a {theirs.backbone} by {theirs.method}")
    try:
        network = on_meta(lambda: build_backbone(theirs, spec))
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {error}") from None
    name = theirs.backbone.removeprefix(TIMM)
    weights = {n.removeprefix("net."): value for n, value in weights.items()} if theirs.backbone.startswith(TIMM) else weights
    return Found(weights, network, f"{in_words(network, name)} by {theirs.method}")


def in_their_file(path: Path, config: Config, spec: object) -> Found:
    """The encoder in anybody's file: the timm model that the run trains, or else a ResNet. Raises: SparseheadError."""
    state, skipped = read_file(path)
    search = Search(str(path), Facts(), skipped=skipped)
    try:
        if config.backbone.startswith(TIMM):
            found = find_timm(config.backbone.removeprefix(TIMM), state, search, getattr(spec, "size", None))
        else:
            found = find_resnet(state, search)
    except SparseheadError as error:
        plain = re.sub(r" (?:Is it whole\? )?--allow-partial [^.]*\.", "", str(error))  # pretrain has none of these options
        plain = plain.replace("timm:NAME --weights FILE", "--backbone timm:NAME")
        raise SparseheadError(f"--init {plain}") from None
    name = found.name.removeprefix(TIMM)
    weights = {name: value.detach().float() for name, value in of_file(found.backbone).state_dict().items()}
    for key in weights:
        if key.endswith(COUNTER):
            weights[key] = weights[key].long()
    return Found(weights, found.backbone, f"{in_words(found.backbone, name)} of the layout {found.layout} at {found.where}")


def in_words(network: nn.Module, name: str) -> str:
    """A network for people: a resnet18 (blocks 2, 2, 2, 2; widths 64, 128, 256, 512; stem 7x7; 3 channels)."""
    if not isinstance(network, ResNet):
        return f"a {name}"
    stages = [getattr(network, stage) for stage in network.layers]
    blocks, widths = ([f(stage) for stage in stages] for f in (len, lambda stage: stage[0].conv1.out_channels))
    kernel, stride, channels = network.conv1.kernel_size[0], network.conv1.stride[0], network.conv1.in_channels
    sizes = f"blocks {', '.join(map(str, blocks))}; widths {', '.join(map(str, widths))}"
    return f"a {name} ({sizes}; stem {kernel}x{kernel}, stride {stride}; {channels} channel{'' if channels == 1 else 's'})"


def other_weights(given: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """A phrase for each weight that one network has and the other has not, or has in another shape."""
    differing = []
    for name in dict.fromkeys((*expected, *given)):
        there, here = (list(of[name].shape) if name in of else "not there" for of in (given, expected))
        if there != here:
            differing.append(f"{name} is {there} in the file and {here} in the run")
    return differing


def other_modules(theirs: nn.Module, ours: nn.Module) -> list[str]:
    """A phrase for each thing that no weight shows and that two networks of the same weights do otherwise."""
    differing = []
    modules = dict(ours.named_modules())
    for name, module in theirs.named_modules():
        mine = modules.get(name)
        if type(mine) is not type(module):
            differing.append(f"{name} is {type(module).__name__} in the file and {type(mine).__name__} in the run")
            continue
        for key, value in plain_attributes(module).items():
            other = plain_attributes(mine).get(key)
            if value != other:
                differing.append(f"{f'{name}' + chr(39) + 's ' if name else ''}{key} is {value} in the file and {other} in the run")
    return differing


def plain_attributes(module: nn.Module) -> dict[str, object]:
    """The numbers, words and truth values that a module keeps, but those that do not change what it computes."""
    kept = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in OF_IMAGES}
    return {key: value for key, value in kept.items() if type(value) in (bool, int, float, str, tuple)}


def remedy_for(found: Found, ours: nn.Module, config: Config) -> str:
    """What to choose so that the file fits."""
    theirs = found.network
    if not (isinstance(theirs, ResNet) and isinstance(ours, ResNet)):
        return "Choose the --backbone that the file is of."
    if theirs.conv1.in_channels != ours.conv1.in_channels:
        kind = {1: "grey", 3: "colour"}[theirs.conv1.in_channels]
        return f"Choose a --dataset of {kind} images, or another file."
    of_size = config.backbone in BACKBONES and BACKBONES[config.backbone][3] is None
    if of_size and theirs.conv1.kernel_size != ours.conv1.kernel_size and len(theirs.layers) == len(ours.layers):
        size = "above 64" if theirs.conv1.kernel_size == (7, 7) else "of 64 or below"
        return f"A {config.backbone} has that stem for images {size} pixels: --image-size."
    return "Choose the --backbone (and --set widths=…, blocks=…) that the file is of."
