"""timm's models as backbones, by name. timm is imported only here, and only when it is asked for; nothing is downloaded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.errors import SparseheadError, did_you_mean
from sparsehead_cli.foreign.heads import Head, find_head
from sparsehead_cli.foreign.layouts import IMAGENET, Contents, Facts, hints_of
from sparsehead_cli.foreign.networks import SEED, Found, head_words, left_out, load_head, where
from sparsehead_cli.foreign.tensors import (
    COUNTER,
    Fit,
    choose_branch,
    fit,
    preferred,
    require_whole,
    tensors_of,
    without_network,
)
from sparsehead_cli.foreign.vit import STRUCTURE, TOKENS, settings_of, with_positions
from sparsehead_cli.foreign.vit_layouts import VITS
from sparsehead_cli.foreign.vit_names import timms_names

PREFIX = "timm:"
ANCHORS = 5  # names of a model, spread over it, by which it is looked for in a file


class TimmBackbone(nn.Module):
    """A timm model without its classifier, images [B, C, h, w] -> representation [B, D], D = `dim`.

    `image` is the (C, h, w) that it is made for; `normalise` is that of its training images, `classifiers` are the
    beginnings of the names that its classifier has in a file. `settings` go to timm, in place of what the name says.
    """

    def __init__(self, name: str, image_size: int | None = None, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.net = created(name, image_size, settings or {})
        known = self.net.pretrained_cfg
        channels, height, width = known["input_size"]
        self.image = (channels, image_size or height, image_size or width)
        self.normalise = Normalisation(tuple(known["mean"]), tuple(known["std"]))
        classifiers = known.get("classifier") or ()
        self.classifiers = tuple(f"{c}." for c in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        self.dim = self.net.head_hidden_size if hasattr(self.net, "head_hidden_size") else self.net.num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def stage_parameters(self) -> list[list[nn.Parameter]]:
        """The parameters from input to output, stage by stage: the model's own parts, as of our ResNets, where no part spans
        several of the layers that timm names; else those layers, such as the blocks of a transformer.
        """
        named, parts = dict(self.net.named_parameters()), {}
        for name in named:
            parts.setdefault(name.partition(".")[0], []).append(name)
        if hasattr(self.net, "group_matcher"):  # all but a few models have one
            layers = require_timm().models.group_parameters(self.net, self.net.group_matcher(coarse=True))
            layer_of = {name: layer for layer, names in layers.items() for name in names}
            if any(len({layer_of[name] for name in names}) > 1 for names in parts.values()):
                parts = layers
        return [[named[name] for name in names] for names in parts.values()]


def require_timm() -> ModuleType:
    """timm. Raises: SparseheadError that says how to install it."""
    try:
        import timm
    except ImportError:
        raise SparseheadError("timm:NAME needs timm, which is not installed: pip install timm") from None
    return timm


def created(name: str, image_size: int | None, settings: Mapping[str, object]) -> nn.Module:
    """The named model, newly initialised, without a classifier. Raises: SparseheadError for a name that timm does not know."""
    timm = require_timm()
    if not name or name.partition(".")[0] not in timm.list_models():  # names such as hf-hub:… would be looked up in the network
        raise SparseheadError(f'timm has no model "{name}"; timm.list_models() lists them.{did_you_mean(name, timm.list_models())}')
    settings = {"num_classes": 0, "pretrained": False, **settings}
    try:
        try:
            return timm.create_model(name, **settings, **({"img_size": image_size} if image_size else {}))
        except TypeError:  # convolutional models take images of any size
            return timm.create_model(name, **settings)
    except Exception as error:
        raise SparseheadError(f"timm cannot make {name}: {' '.join(str(error).split())[:200]}") from None


def is_vit(net: nn.Module) -> bool:
    """Whether it is a plain vision transformer, whose settings timm takes whatever its name."""
    from timm.models.vision_transformer import VisionTransformer

    return type(net) is VisionTransformer


@dataclass(frozen=True)
class Made:
    """How a model is made: timm's name for it, the side of its images where that is not timm's, and what differs from timm's."""

    name: str
    image_size: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    def on_meta(self) -> TimmBackbone:
        """The model without numbers, at once."""
        with torch.device("meta"):
            return TimmBackbone(self.name, self.image_size, self.settings)

    def initialised(self, head: Head | None) -> tuple[TimmBackbone, nn.Module]:
        """The model and its projector with initial weights, always the same; the global generator stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return TimmBackbone(self.name, self.image_size, self.settings), head.build() if head else nn.Identity()


@dataclass(frozen=True)
class Place:
    """A network of the file at `prefix`: `keys` maps timm's names to those of the `tensors`."""

    prefix: str
    keys: dict[str, str]
    tensors: Mapping[str, Tensor]

    def file(self) -> dict[str, Tensor]:
        """Its tensors by timm's names."""
        return {own: self.tensors[key] for own, key in self.keys.items()}

    def changed(self, values: Mapping[str, Tensor]) -> "Place":
        """The same with other values for some of timm's names."""
        return replace(self, tensors={**self.tensors, **{self.keys[own]: value for own, value in values.items()}})


def find_timm(
    name: str,
    state: object,
    source: str,
    *,
    facts: Facts | None = None,
    image_size: int | None = None,
    allow_partial: bool = False,
    skipped: tuple[str, ...] = (),
) -> Found:
    """Nested dicts of tensors -> the timm model `name` with the weights in them, and its projector where one is beside it.

    Raises: SparseheadError as `find_network`, and where timm or the model is not there.
    """
    tensors, facts, made = tensors_of(state), facts or Facts(), Made(name, image_size)
    backbone = made.on_meta()
    contents = Contents(tensors, hints_of(state), model=name)
    vit = is_vit(backbone.net)
    facts.recognise(contents, VITS if vit else ())
    tensors = timms_names(tensors) if vit else tensors
    place = place_of(backbone, tensors, facts, source, skipped, name)
    normalise = usual_normalisation(backbone, place, contents, facts)
    if vit:
        backbone, made, place = as_in_the_file(backbone, made, place, facts, source)
    found = fit(backbone.net, place.keys, place.tensors, source)
    lacking = require_whole(found, f"timm's {name} at {where(place.prefix)}", source, allow_partial=allow_partial)
    inside = set(place.keys.values())
    head = find_head(tensors, place.prefix, inside, backbone.dim, facts)
    backbone, projector = loaded(backbone, made, head, found)
    backbone.normalise = normalise
    load_head(projector, head, tensors, source)
    report = (
        f"layout: {facts.layout.name}",
        f"backbone: {where(place.prefix)}, {name}, D = {backbone.dim}",
        f"projector: {head_words(head)}",
        *lacking,
        *left_out(tensors, place.prefix, inside, head, skipped),
    )
    return Found("timm", name, backbone, projector, lambda: made.initialised(head), report)


def as_in_the_file(backbone: TimmBackbone, made: Made, place: Place, facts: Facts, source: str) -> tuple[TimmBackbone, Made, Place]:
    """The vision transformer with the heads and tokens of the file's, how it is made, and the file with fitting positions."""
    settings = settings_of(backbone.net, place.file(), facts, source)
    if settings:
        made = replace(made, settings=settings)
        backbone = made.on_meta()
    return backbone, made, place.changed(with_positions(backbone.net, place.file(), made.image_size, facts, source))


def place_of(
    backbone: TimmBackbone, tensors: Mapping[str, Tensor], facts: Facts, source: str, skipped: tuple[str, ...], name: str
) -> Place:
    """The network of the file that is evaluated. Raises: SparseheadError where no name of the model's is in it."""
    expected = [key for key in backbone.net.state_dict() if not key.endswith(COUNTER)]
    prefixes = prefixes_of(expected, tensors)
    if not prefixes:
        raise without_network(tensors, source, skipped, name)
    prefix = choose_branch(prefixes, facts, source)
    parts = {key.partition(".")[0] for key in expected} | (STRUCTURE if is_vit(backbone.net) else set())
    keys = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
    keys = {own: key for own, key in keys.items() if own.partition(".")[0] in parts and not own.startswith(backbone.classifiers)}
    return Place(prefix, keys, tensors)


def usual_normalisation(backbone: TimmBackbone, place: Place, contents: Contents, facts: Facts) -> Normalisation:
    """How images are normalised where nobody says it. What timm says becomes known where the weights are its own, by a
    classifier of as many classes as theirs, or of its tag; a model's name alone says nothing about the images.

    A vision transformer without a classifier is hardly timm's own. It is guessed to be of a self-supervised method: all of
    them normalise images as ImageNet's, most of timm's with 0.5.
    """
    classifiers = tuple(f"{place.prefix}{name}" for name in backbone.classifiers)
    classified, vit = any(name.startswith(classifiers) for name in contents.tensors), is_vit(backbone.net)
    owned = classified and place.prefix in ("", "state_dict.") and facts.layout.name == "timm"
    classes = {value.shape[0] for name, value in contents.tensors.items() if name.startswith(classifiers) and value.dim()}
    if (owned and not facts.dataset and classes == {backbone.net.pretrained_cfg["num_classes"]}) or "." in contents.model:
        facts.known = {"mean": backbone.normalise.mean, "std": backbone.normalise.std, **facts.known}
    if owned and vit:
        own = {"heads": backbone.net.blocks[0].attn.num_heads, "tokens": TOKENS.get(backbone.net.global_pool)}
        facts.known = {**own, **facts.known}
    return Normalisation(**IMAGENET) if vit and not classified else backbone.normalise


def loaded(backbone: TimmBackbone, made: Made, head: Head | None, found: Fit) -> tuple[TimmBackbone, nn.Module]:
    """The model with the file's weights, and the projector that `head` describes; `backbone` is the model without numbers."""
    if set(backbone.net.state_dict()) == set(found.values) and not list(backbone.buffers()):
        own = {name: value.clone() for name, value in found.values.items()}  # in a file two names may share their numbers
        backbone.net.load_state_dict(own, assign=True)  # of large models initial values take longer than all the rest
        with torch.random.fork_rng(devices=[]):
            return backbone, head.build() if head else nn.Identity()
    backbone, projector = made.initialised(head)
    backbone.net.load_state_dict(found.values, strict=False)
    return backbone, projector


def prefixes_of(expected: list[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Behind which prefixes names of the model stand, the one to evaluate first."""
    anchors = expected[:: max(1, len(expected) // ANCHORS)]
    ends = [(key, anchor) for anchor in anchors for key in tensors if key == anchor or key.endswith(f".{anchor}")]
    counts = Counter(key.removesuffix(anchor) for key, anchor in ends)
    return preferred(prefix for prefix, count in counts.items() if count == max(counts.values()))
