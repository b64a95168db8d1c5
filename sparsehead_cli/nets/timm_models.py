"""timm's models as backbones, by name. timm is imported only here, and only when it is asked for; nothing is downloaded."""

from collections import Counter
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.errors import SparseheadError, did_you_mean
from sparsehead_cli.nets.foreign import SEED, Found, head_words, left_out, where
from sparsehead_cli.nets.foreign_heads import Head, find_head
from sparsehead_cli.nets.foreign_tensors import COUNTER, choose_branch, fit, preferred, require_whole, tensors_of, without_network
from sparsehead_cli.nets.layouts import Contents, Facts, hints_of

PREFIX = "timm:"
ANCHORS = 5  # names of a model, spread over it, by which it is looked for in a file


class TimmBackbone(nn.Module):
    """A timm model without its classifier, images [B, C, h, w] -> representation [B, D], D = `dim`.

    `image` is the (C, h, w) that it is made for; `normalise` is that of its training images, `classifiers` are the
    beginnings of the names that its classifier has in a file.
    """

    def __init__(self, name: str, image_size: int | None = None) -> None:
        super().__init__()
        self.net = created(name, image_size)
        known = self.net.pretrained_cfg
        channels, height, width = known["input_size"]
        self.image = (channels, image_size or height, image_size or width)
        self.normalise = Normalisation(tuple(known["mean"]), tuple(known["std"]))
        classifiers = known.get("classifier") or ()
        self.classifiers = tuple(f"{c}." for c in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        self.dim = self.net.head_hidden_size if hasattr(self.net, "head_hidden_size") else self.net.num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def require_timm() -> ModuleType:
    """timm. Raises: SparseheadError that says how to install it."""
    try:
        import timm
    except ImportError:
        raise SparseheadError("timm:NAME needs timm, which is not installed: pip install timm") from None
    return timm


def created(name: str, image_size: int | None) -> nn.Module:
    """The named model, newly initialised, without a classifier. Raises: SparseheadError for a name that timm does not know."""
    timm = require_timm()
    if not name or name.partition(".")[0] not in timm.list_models():  # names such as hf-hub:… would be looked up in the network
        raise SparseheadError(f'timm has no model "{name}"; timm.list_models() lists them.{did_you_mean(name, timm.list_models())}')
    try:
        try:
            return timm.create_model(name, num_classes=0, pretrained=False, **({"img_size": image_size} if image_size else {}))
        except TypeError:  # convolutional models take images of any size
            return timm.create_model(name, num_classes=0, pretrained=False)
    except Exception as error:
        raise SparseheadError(f"timm cannot make {name}: {' '.join(str(error).split())[:200]}") from None


def initialised(name: str, image_size: int | None, head: Head | None) -> tuple[TimmBackbone, nn.Module]:
    """The model and its projector with initial weights, always the same; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return TimmBackbone(name, image_size), head.build() if head else nn.Identity()


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
    backbone, _ = initialised(name, image_size, None)
    tensors, facts = tensors_of(state), facts or Facts()
    expected = [key for key in backbone.net.state_dict() if not key.endswith(COUNTER)]
    prefixes = prefixes_of(expected, tensors)
    if not prefixes:
        raise without_network(tensors, source, skipped, name)
    facts.recognise(Contents(tensors, hints_of(state), model=name))
    prefix = choose_branch(prefixes, facts, source)
    parts = {key.partition(".")[0] for key in expected}
    keys = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
    keys = {own: key for own, key in keys.items() if own.partition(".")[0] in parts and not own.startswith(backbone.classifiers)}
    found = fit(backbone.net, keys, tensors, source)
    lacking = require_whole(found, f"timm's {name} at {where(prefix)}", source, allow_partial=allow_partial)
    inside = set(keys.values())
    head = find_head(tensors, prefix, inside, backbone.dim, facts)
    backbone, projector = initialised(name, image_size, head)
    backbone.net.load_state_dict(found.values, strict=False)
    if head:
        projector.load_state_dict(head.fit(tensors, source).values, strict=False)
    report = (
        f"layout: {facts.layout.name}",
        f"backbone: {where(prefix)}, {name}, D = {backbone.dim}",
        f"projector: {head_words(head)}",
        *lacking,
        *left_out(tensors, prefix, inside, head, skipped),
    )
    return Found("timm", name, backbone, projector, lambda: initialised(name, image_size, head), report)


def prefixes_of(expected: list[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Behind which prefixes names of the model stand, the one to evaluate first."""
    anchors = expected[:: max(1, len(expected) // ANCHORS)]
    ends = [(key, anchor) for anchor in anchors for key in tensors if key == anchor or key.endswith(f".{anchor}")]
    counts = Counter(key.removesuffix(anchor) for key, anchor in ends)
    return preferred(prefix for prefix, count in counts.items() if count == max(counts.values()))
