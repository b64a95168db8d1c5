"""timm's models as backbones, by name. timm is imported only here, and only when it is asked for; nothing is downloaded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType

from torch import Tensor, nn

from sparsehead_cli.data.contract import Normalisation
from sparsehead_cli.errors import SparseheadError, did_you_mean
from sparsehead_cli.foreign.facts import Facts, hints_of
from sparsehead_cli.foreign.layouts import IMAGENET
from sparsehead_cli.foreign.networks import ForeignNetwork, Place, Search, assemble, on_meta
from sparsehead_cli.foreign.tensors import COUNTER, choose_branch, preferred, tensors_of, without_network
from sparsehead_cli.foreign.vit import STRUCTURE, TOKENS, fixed_order, settings_of, timms_names, with_positions
from sparsehead_cli.nets.recompute import update_once

PREFIX = "timm:"
ANCHORS = 5  # names of a model, spread over it, by which it is looked for in a file


class TimmBackbone(nn.Module):
    """A timm model without its classifier, images [B, C, h, w] -> representation [B, D], D = `dim`.

    `image` is the (C, h, w) that it is made for; `normalise` is that of its training images, `classifiers` are the
    beginnings of the names that its classifier has in a file. `settings` go to timm, in place of what the name says. `name` and
    `made_with` are what timm.create_model made it with.
    """

    def __init__(self, name: str, image_size: int | None = None, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.name = name
        self.net, self.made_with = created(name, image_size, settings or {})
        known = self.net.pretrained_cfg
        channels, height, width = known["input_size"]
        self.image = (channels, image_size or height, image_size or width)
        self.normalise = Normalisation(tuple(known["mean"]), tuple(known["std"]))
        classifiers = known.get("classifier") or ()
        self.classifiers = tuple(f"{c}." for c in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        self.dim = self.net.head_hidden_size if hasattr(self.net, "head_hidden_size") else self.net.num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the model's own; BatchNorm's running statistics move once. Raises: SparseheadError for a model that has none."""
        try:
            self.net.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError):
            raise SparseheadError(f"timm's {self.name} cannot compute activations again. Choose --set accumulate=2.") from None
        update_once(self.net)

    def stages(self) -> list[nn.Module]:
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
        return [nn.ParameterList([named[name] for name in names]) for names in parts.values()]


def require_timm() -> ModuleType:
    """timm. Raises: SparseheadError that says how to install it."""
    try:
        import timm
    except ImportError:
        raise SparseheadError("timm:NAME needs timm, which is not installed: pip install 'sparsehead[timm]'") from None
    return timm


def created(name: str, image_size: int | None, settings: Mapping[str, object]) -> tuple[nn.Module, dict[str, object]]:
    """The named model, newly initialised, without a classifier, and the settings that timm made it with.

    Raises: SparseheadError for a name that timm does not know.
    """
    timm = require_timm()
    if not name or name.partition(".")[0] not in timm.list_models():  # names such as hf-hub:… would be looked up in the network
        raise SparseheadError(f'timm has no model "{name}"; timm.list_models() lists them.{did_you_mean(name, timm.list_models())}')
    settings = {"num_classes": 0, **settings}
    sized = {**settings, "img_size": image_size} if image_size else settings
    try:
        try:
            return timm.create_model(name, pretrained=False, **sized), sized
        except TypeError:  # convolutional models take images of any size
            return timm.create_model(name, pretrained=False, **settings), settings
    except Exception as error:
        raise SparseheadError(f"timm cannot make {name}: {' '.join(str(error).split())[:200]}") from None


def is_vit(net: nn.Module) -> bool:
    """Whether it is a plain vision transformer, whose settings timm takes whatever its name."""
    from timm.models.vision_transformer import VisionTransformer

    return type(net) is VisionTransformer


def find_timm(name: str, state: object, search: Search, image_size: int | None = None) -> ForeignNetwork:
    """Nested dicts of tensors -> the timm model `name` with the weights in them, and its projector where one is beside it.

    Raises: SparseheadError as `find_resnet`, and where timm or the model is not there.
    """
    facts, source, make = search.facts, search.source, partial(TimmBackbone, name, image_size)
    tensors, backbone = tensors_of(state), on_meta(make)
    vit = is_vit(backbone.net)
    read = {"positions": fixed_order(tensors)} if vit else {}
    facts.recognise("vit" if vit else "timm", tensors, hints_of(state), **read)
    place = place_of(backbone, timms_names(tensors) if vit else tensors, search, name)
    normalise = usual_normalisation(backbone, place, tensors, name, facts)
    if vit:
        settings = settings_of(backbone.net, place.own(), facts, source)
        if settings:  # the file's heads and tokens are not timm's
            make = partial(make, settings)
            backbone = on_meta(make)
        place = place.changed(with_positions(backbone.net, place.own(), image_size, facts, source))
    network = assemble(search, place, backbone, make, name=name, words=name)
    network.backbone.normalise = normalise
    return replace(network, layout="timm")


def place_of(backbone: TimmBackbone, tensors: Mapping[str, Tensor], search: Search, name: str) -> Place:
    """The network of the file that is evaluated. Raises: SparseheadError where no name of the model's is in it."""
    expected = [key for key in backbone.net.state_dict() if not key.endswith(COUNTER)]
    # some names of the model, spread over it, say behind which prefixes it stands
    counts: Counter[str] = Counter()
    for anchor in expected[:: max(1, len(expected) // ANCHORS)]:
        counts.update(key.removesuffix(anchor) for key in tensors if f".{key}".endswith(f".{anchor}"))
    if not counts:
        raise without_network(tensors, search.source, search.skipped, name)
    prefixes = preferred(prefix for prefix, count in counts.items() if count == max(counts.values()))
    prefix = choose_branch(prefixes, search.facts, search.source)
    parts = {key.partition(".")[0] for key in expected} | (STRUCTURE if is_vit(backbone.net) else set())
    keys = {}
    for key in tensors:
        own = key.removeprefix(prefix)
        if key.startswith(prefix) and own.partition(".")[0] in parts and not own.startswith(backbone.classifiers):
            keys[own] = key
    return Place(prefix, keys, tensors)


def usual_normalisation(
    backbone: TimmBackbone, place: Place, tensors: Mapping[str, Tensor], name: str, facts: Facts
) -> Normalisation:
    """How images are normalised where nobody says it. What timm says becomes known where the weights are its own, by a
    classifier of as many classes as theirs, or of its tag; a model's name alone says nothing about the images.

    A vision transformer without a classifier is hardly timm's own. It is guessed to be of a self-supervised method: all of
    them normalise images as ImageNet's, most of timm's with 0.5.
    """
    prefixes, vit = tuple(f"{place.prefix}{classifier}" for classifier in backbone.classifiers), is_vit(backbone.net)
    classifier = [value for key, value in tensors.items() if key.startswith(prefixes)]
    classes = {value.shape[0] for value in classifier if value.dim()}
    owned = bool(classifier) and place.prefix in ("", "state_dict.") and facts.layout.name == "timm"
    if (owned and not facts.dataset and classes == {backbone.net.pretrained_cfg["num_classes"]}) or "." in name:
        facts.known = {"mean": backbone.normalise.mean, "std": backbone.normalise.std, **facts.known}
    if owned and vit:
        own = {"heads": backbone.net.blocks[0].attn.num_heads, "tokens": TOKENS.get(backbone.net.global_pool)}
        facts.known = {**own, **facts.known}
    return Normalisation(**IMAGENET) if vit and not classifier else backbone.normalise
