"""A projector among the tensors of a file: the chain of linear layers that begins where the representation ends.

Only the layers with numbers can be seen. What stands between them is a fact of layouts.py: the `activation`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsehead_cli.nets.foreign_tensors import COUNTER, Fit, fit, side_of
from sparsehead_cli.nets.layouts import Facts

# heads that no method calls its projector
OTHERS = ("predict", "prototype", "classif", "probe", "decod", "queue", "logit", "last_layer", "eval")
MOST = 50  # layers of the right width to look around
NORM = {"running_mean", "running_var", COUNTER, "weight", "bias"}


@dataclass(frozen=True)
class Layer:
    """A linear layer or a BatchNorm1d at `path`; `activated` where an activation stands before it."""

    path: str
    inputs: int
    outputs: int
    linear: bool
    has_bias: bool  # of a norm: has scale and shift
    activated: bool


@dataclass(frozen=True)
class Head:
    """A projector that was found: its layers, and which activation stands between them, of ACTIVATIONS."""

    path: str
    layers: tuple[Layer, ...]
    activation: str = "relu"

    @property
    def linears(self) -> list[Layer]:
        """Its linear layers."""
        return [layer for layer in self.layers if layer.linear]

    def build(self) -> nn.Sequential:
        """The same layers, newly initialised, [B, D] -> [B, E]."""
        modules: list[nn.Module] = []
        for layer in self.layers:
            if layer.activated:
                modules.append(ACTIVATIONS[self.activation]())
            if layer.linear:
                modules.append(nn.Linear(layer.inputs, layer.outputs, bias=layer.has_bias))
            else:
                modules.append(nn.BatchNorm1d(layer.outputs, affine=layer.has_bias))
        return nn.Sequential(*modules)

    def fit(self, tensors: Mapping[str, Tensor], source: str) -> Fit:
        """Its tensors by the names of what `build` returns. Raises: SparseheadError for those that are no finite numbers."""
        with torch.device("meta"):
            network = self.build()
        places = [i for i, module in enumerate(network) if isinstance(module, nn.Linear | nn.BatchNorm1d)]
        keys = {
            f"{place}.{leaf}": f"{layer.path}.{leaf}"
            for place, layer in zip(places, self.layers, strict=True)
            for leaf in sorted(NORM)
            if f"{layer.path}.{leaf}" in tensors
        }
        return fit(network, keys, tensors, source)

    def words(self) -> str:
        """Its widths, for people."""
        linears = self.linears
        widths = "-".join(str(width) for width in (linears[0].inputs, *(layer.outputs for layer in linears)))
        norm = "" if all(layer.linear for layer in self.layers) else " with BatchNorm"
        return widths + norm


def find_head(tensors: Mapping[str, Tensor], prefix: str, inside: set[str], dim: int, facts: Facts) -> Head | None:
    """The projector of the backbone at `prefix`, whose own tensors are `inside` and whose representation is `dim` wide.

    It belongs to the same network of the method (trained, momentum, teacher …) and is no predictor, prototypes or
    classifier. Of several, one that is called so, then the longest, then the nearest. None where there is none.
    """
    starts = [
        name.removesuffix(".weight")
        for name, value in tensors.items()
        if name.endswith(".weight") and value.ndim == 2 and value.shape[1] == dim and name not in inside
    ]
    starts = [first for first in starts if side_of(first) == side_of(prefix) and not is_other(first, prefix)]
    found = [widest(tensors, first, inside, prefix, dim) for first in starts[:MOST]]
    heads = [head for head in found if head and (len(head.linears) > 1 or may_be_single(head.path, prefix))]
    head = min(heads, key=lambda head: rank(head, prefix), default=None)
    if head is None or not any(layer.activated for layer in head.layers):
        return head
    known = "gelu" if beside_last_layer(head.path, tensors) else None
    return replace(head, activation=facts.take("activation", known=known, guess="relu"))


def is_other(path: str, prefix: str) -> bool:
    """Whether the part of the path that is not the backbone's names a head of another kind."""
    own = path[shared(path, prefix) :].lower()
    return any(word in own for word in OTHERS)


def may_be_single(path: str, prefix: str) -> bool:
    """One linear layer is a projector where it is called so, or is MoCo v1's fc; else it is a classifier."""
    moco = "encoder_q" in prefix and path.startswith(prefix)
    return moco or "proj" in path[shared(path, prefix) :].lower()


def rank(head: Head, prefix: str) -> tuple:
    """Lower is better."""
    called_so = "proj" in head.path.lower()
    return (not called_so, -len(head.linears), -shared(head.path, prefix), head.path)


def shared(path: str, prefix: str) -> int:
    """How many letters of whole names two paths begin with in common."""
    count = 0
    for a, b in zip(path.split("."), prefix.split("."), strict=False):
        if a != b:
            break
        count += len(a) + 1
    return min(count, len(path))


def widest(tensors: Mapping[str, Tensor], first: str, inside: set[str], prefix: str, dim: int) -> Head | None:
    """The largest part of the file around the layer `first` that is one chain of layers and nothing else.

    None where the chain cannot be told: where it goes on in layers that are not understood.
    """
    found, path = None, first
    while path:
        within = [name for name in tensors if name.startswith(f"{path}.")]
        if inside.intersection(within) or any(is_other(name, prefix) for name in within):
            break
        layers = chain(within, tensors, path, dim)
        if layers:
            found = Head(path, tuple(layers))
        elif first.removeprefix(f"{path}.").isdecimal() or "proj" in path.rpartition(".")[2].lower():
            return None  # a part of a projector is not its output
        else:
            break
        path = path.rpartition(".")[0]
    return found


def beside_last_layer(path: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a `last_layer` follows the chain: that is DINO's head, and only there are activations GELU."""
    parent = path.rpartition(".")[0]
    return bool(parent) and any(name.startswith(f"{parent}.last_layer.") for name in tensors)


def chain(names: list[str], tensors: Mapping[str, Tensor], path: str, dim: int) -> list[Layer] | None:
    """Linear layers and BatchNorms that fit one after another, from `dim` on; None where it is not only that."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensors[name]
    layers: list[Layer] = []
    width, before = dim, None
    for module in in_order(list(modules), path):
        layer = layer_of(module, modules[module], width, before)
        if layer is None:
            return None
        layers.append(layer)
        width, before = layer.outputs, module
    return layers if any(layer.linear for layer in layers) else None


def layer_of(path: str, leaves: Mapping[str, Tensor], width: int, before: str | None) -> Layer | None:
    """The layer that these tensors are, behind one of `width` features at `before`; None where they are none that fits."""
    weight, bias = leaves.get("weight"), leaves.get("bias")
    if set(leaves) <= {"weight", "bias"} and weight is not None and weight.ndim == 2:
        fits = weight.shape[1] == width and weight.shape[0] > 0 and (bias is None or bias.shape == weight.shape[:1])
        activated = before is not None and has_gap(before, path, otherwise=True)
        return Layer(path, width, weight.shape[0], True, bias is not None, activated) if fits else None
    if "running_mean" in leaves and "running_var" in leaves and set(leaves) <= NORM:
        vectors = [value for leaf, value in leaves.items() if leaf != COUNTER]
        fits = all(value.shape == (width,) for value in vectors) and (weight is None) == (bias is None)
        activated = before is not None and has_gap(before, path, otherwise=False)
        return Layer(path, width, width, False, weight is not None, activated) if fits else None
    return None


def has_gap(before: str, path: str, *, otherwise: bool) -> bool:
    """Whether numbers between two numbered neighbours are left out: an activation has no tensors. `otherwise`: they have names."""
    a, b = before.rpartition("."), path.rpartition(".")
    if a[0] == b[0] and a[2].isdecimal() and b[2].isdecimal():
        return int(b[2]) - int(a[2]) > 1
    return otherwise


def in_order(modules: list[str], path: str) -> list[str]:
    """Modules as they are passed: numbered ones by their numbers, as 10 follows 9; others as in the file."""
    place: dict[str, int] = {}

    def key(module: str) -> list[int]:
        parts = re.split(r"\.", module[len(path) :])
        begun = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return [
            int(part) if part.isdecimal() else place.setdefault(start, len(place)) for part, start in zip(parts, begun, strict=True)
        ]

    keys = {module: key(module) for module in modules}
    return sorted(modules, key=keys.__getitem__)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}
