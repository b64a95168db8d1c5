"""A projector among the tensors of a file: the chain of linear layers that begins where the representation ends.

Only the layers with numbers can be seen. What stands between them is a fact (facts.py): the `activation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.assumptions import KNOWN
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.layouts import LAST_LAYER, LAST_LAYERS, ONE_LAYER, OTHER_HEADS
from sparsehead_cli.foreign.tensors import COUNTER, fit, listed, printable, side_of
from sparsehead_cli.sparse.select import SelectFeatures

MOST = 50  # layers of the right width to look around
NORM = {"running_mean", "running_var", COUNTER, "weight", "bias"}
CHOICE = {"index", "width"}  # the features that a head of `SparseHead.prune` reads, and among how many


@dataclass(frozen=True)
class Layer:
    """A linear layer, a BatchNorm1d or a choice of features at `path`; `activated` where an activation stands before it."""

    path: str
    inputs: int
    outputs: int
    linear: bool
    has_bias: bool  # of a norm: has scale and shift
    activated: bool
    chooses: bool = False

    def build(self) -> nn.Linear | nn.BatchNorm1d | SelectFeatures:
        """The layer, newly initialised."""
        if self.chooses:
            return SelectFeatures(torch.zeros(self.outputs, dtype=torch.int64), self.inputs)
        if self.linear:
            return nn.Linear(self.inputs, self.outputs, bias=self.has_bias)
        return nn.BatchNorm1d(self.outputs, affine=self.has_bias)


@dataclass(frozen=True)
class Head:
    """A projector in a file: its layers, and what stands between them: one activation for all places, or one a place."""

    path: str
    layers: tuple[Layer, ...]
    activation: str = "relu"

    @property
    def gaps(self) -> int:
        """In how many places an activation stands."""
        return sum(layer.activated for layer in self.layers)

    @property
    def linears(self) -> list[Layer]:
        """Its linear layers."""
        return [layer for layer in self.layers if layer.linear]

    def build(self) -> nn.Sequential:
        """The same layers, newly initialised, [B, D] -> [B, E]."""
        modules: list[nn.Module] = []
        kinds = self.activation.split(",")
        kinds = kinds * self.gaps if len(kinds) == 1 else kinds
        for layer in self.layers:
            if layer.activated:
                modules.append(activation_of(kinds.pop(0)))
            modules.append(layer.build())
        return nn.Sequential(*modules)

    def values(self, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Its tensors by the names of what `build` returns. Raises: SparseheadError for those that are no finite numbers."""
        with torch.device("meta"):
            network = self.build()
        places = [i for i, module in enumerate(network) if isinstance(module, nn.Linear | nn.BatchNorm1d | SelectFeatures)]
        keys = {}
        for place, layer in zip(places, self.layers, strict=True):
            for leaf in sorted(NORM | CHOICE):
                if f"{layer.path}.{leaf}" in tensors:
                    keys[f"{place}.{leaf}"] = f"{layer.path}.{leaf}"
        return fit(network, keys, tensors, source)[0]

    def words(self) -> str:
        """Its widths, for people."""
        widths = "-".join(str(width) for width in (self.layers[0].inputs, *(layer.outputs for layer in self.linears)))
        read = "".join(f", {layer.outputs} inputs read" for layer in self.layers if layer.chooses)
        return widths + read + ("" if all(layer.linear or layer.chooses for layer in self.layers) else " with BatchNorm")


def find_head(tensors: Mapping[str, Tensor], prefix: str, inside: set[str], dim: int, facts: Facts) -> Head | None:
    """The projector of the backbone at `prefix`, whose own tensors are `inside` and whose representation is `dim` wide.

    It belongs to the same network of the method (trained, momentum, teacher …) and is no predictor, prototypes or
    classifier. Of several, one that is called so, then the longest, then the nearest. None where there is none.
    """
    starts = []
    for name, value in tensors.items():
        path = start_of(name, value, dim)
        if path and name not in inside and side_of(path) == side_of(prefix) and not is_other(path, prefix):
            starts.append(path)
    heads = []
    for start in starts[:MOST]:
        head = widest(tensors, start, inside, prefix, dim, facts.given.get("layers"))
        # one linear layer is a projector where it is called so, or is MoCo v1's fc; else it is a classifier
        if head and (
            len(head.linears) > 1
            or (ONE_LAYER in prefix and head.path.startswith(prefix))
            or "proj" in head.path[shared(head.path, prefix) :].lower()
        ):
            heads.append(head)

    def rank(head: Head) -> tuple:
        return ("proj" not in head.path.lower(), -len(head.linears), -shared(head.path, prefix), head.path)

    return with_facts(min(heads, key=rank), tensors, dim, facts) if heads else None


def start_of(name: str, value: Tensor, dim: int) -> str:
    """Where a head of `dim` inputs may begin, as this tensor says: a linear layer, or the whole of a pruned head; "" if nowhere."""
    module, _, leaf = name.rpartition(".")
    if leaf == "weight" and value.ndim == 2 and value.shape[1] == dim:
        return module
    return module.rpartition(".")[0] if leaf == "width" and is_width(value, dim) else ""


def is_width(value: Tensor, width: int) -> bool:
    """Whether a tensor is the number of features that a choice counts in, which may be anything in a file."""
    return value.ndim == 0 and value.dtype == torch.int64 and value.device.type != "meta" and int(value) == width


def with_facts(head: Head, tensors: Mapping[str, Tensor], dim: int, facts: Facts) -> Head:
    """The same with what its layers do not show: which of its parts are used, and what stands between them.

    Raises: SparseheadError for activations that are not as many as there are places for them.
    """
    parts = list(dict.fromkeys(part_of(layer.path, head.path) for layer in head.layers))
    if "layers" in facts.given:
        given = facts.take("layers")
        if tuple(parts) != given:
            has = f"{printable(head.path)} has {listed(parts)}"
            raise SparseheadError(f"--assume layers={','.join(given)}: no projector is a chain of these parts; {has}.")
    else:
        head = without_idle(head, parts, tensors, dim, facts)
    parent, _, _ = head.path.rpartition(".")
    before_last = bool(parent) and any(name.startswith(f"{parent}.{LAST_LAYER}.") for name in tensors)
    if before_last:
        facts.note("z", LAST_LAYERS["z"], KNOWN)
    if not head.gaps:
        return head
    activation = facts.take("activation", known=LAST_LAYERS["activation"] if before_last else None, guess="relu")
    if activation.count(",") not in (0, head.gaps - 1):
        raise SparseheadError(
            f"--assume activation={activation} names {activation.count(',') + 1} activations, "
            f"and the projector {printable(head.path)} has {head.gaps} places for one."
        )
    return replace(head, activation=activation)


def without_idle(head: Head, parts: list[str], tensors: Mapping[str, Tensor], dim: int, facts: Facts) -> Head:
    """The same without the parts that no batch ever went through: their BatchNorms have counted none, while others have.

    Where parts have names and nothing shows that each is used, that is said to be a guess.
    """
    norms: dict[str, list[bool]] = {part: [] for part in parts}  # whether each has seen a batch
    for layer in head.layers:
        if not layer.linear and not layer.chooses:
            norms[part_of(layer.path, head.path)].append(has_seen(layer.path, tensors))
    seen = [has for part in norms.values() for has in part]
    idle = [part for part, own in norms.items() if own and not any(own)]
    if idle and any(seen):
        rest = [layer.path for layer in head.layers if part_of(layer.path, head.path) not in idle]
        names = [name for name in tensors if name.rpartition(".")[0] in rest]
        if layers := chain(names, tensors, head.path, dim):
            facts.take("layers", read=tuple(part for part in parts if part not in idle))
            return replace(head, layers=tuple(layers))
    if len(head.linears) > 1 and not (seen and all(seen)) and not any(part.isdecimal() for part in parts):
        facts.take("layers", guess=tuple(parts))
    return head


def has_seen(path: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a BatchNorm has seen a batch, by its counter, or else by its statistics."""
    counter = tensors.get(f"{path}.{COUNTER}")
    if counter is not None and counter.numel() == 1 and counter.device.type != "meta":
        return bool(counter > 0)
    mean, var = (tensors[f"{path}.{name}"] for name in ("running_mean", "running_var"))
    return mean.device.type == "meta" or bool((mean != 0).any() or (var != 1).any())


def part_of(path: str, head: str) -> str:
    """The part of the head that a layer belongs to: layer1 of projector.layer1.0; "" for the head itself."""
    return path.removeprefix(head).lstrip(".").partition(".")[0]


def is_other(path: str, prefix: str) -> bool:
    """Whether the part of the path that is not the backbone's names a head of another kind."""
    own = path[shared(path, prefix) :].lower()
    return any(word in own for word in OTHER_HEADS)


def shared(path: str, prefix: str) -> int:
    """How many letters of whole names two paths begin with in common."""
    count = 0
    for a, b in zip(path.split("."), prefix.split("."), strict=False):
        if a != b:
            break
        count += len(a) + 1
    return min(count, len(path))


def widest(
    tensors: Mapping[str, Tensor], first: str, inside: set[str], prefix: str, dim: int, used: tuple[str, ...] | None
) -> Head | None:
    """The largest part of the file around the layer `first` that is one chain of layers and nothing else.

    None where the chain cannot be told: where it goes on in layers that are not understood. Of a part of the file that has all
    the parts `used`, only they are looked at, in their order.
    """
    head, path = None, first
    while path:
        within = [name for name in tensors if name.startswith(f"{path}.")]
        if inside.intersection(within) or any(is_other(name, prefix) for name in within):
            break
        if used and set(used) <= {part_of(name, path) for name in within}:
            within = [name for part in used for name in within if part_of(name, path) == part]
        layers = chain(within, tensors, path, dim)
        if layers:
            head = Head(path, tuple(layers))
        elif first.removeprefix(f"{path}.").isdecimal() or "proj" in path.rpartition(".")[2].lower():
            return None  # a part of a projector is not its output
        else:
            break
        path = path.rpartition(".")[0]
    return head


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
    linear = set(leaves) <= {"weight", "bias"} and weight is not None and weight.ndim == 2
    if set(leaves) == CHOICE:
        fits = before is None and leaves["index"].ndim == 1 and is_width(leaves["width"], width)
        return Layer(path, width, len(leaves["index"]), False, False, False, chooses=True) if fits else None
    if linear:
        outputs, has_bias = weight.shape[0], bias is not None
        fits = weight.shape[1] == width and outputs > 0 and (bias is None or bias.shape == weight.shape[:1])
    elif {"running_mean", "running_var"} <= set(leaves) <= NORM:
        outputs, has_bias = width, weight is not None
        vectors = [value for leaf, value in leaves.items() if leaf != COUNTER]
        fits = all(value.shape == (width,) for value in vectors) and (weight is None) == (bias is None)
    else:
        return None
    activated = before is not None and has_gap(before, path, otherwise=linear)
    return Layer(path, width, outputs, linear, has_bias, activated) if fits else None


def has_gap(before: str, path: str, *, otherwise: bool) -> bool:
    """Whether numbers between two numbered neighbours are left out: an activation has no tensors. `otherwise`: they have names."""
    a, b = before.rpartition("."), path.rpartition(".")
    if a[0] == b[0] and a[2].isdecimal() and b[2].isdecimal():
        return int(b[2]) - int(a[2]) > 1
    return otherwise


def in_order(modules: list[str], path: str) -> list[str]:
    """Modules as they are passed: numbered ones by their numbers, as 10 follows 9; others as in the file."""
    places: dict[str, int] = {}  # of each part by its whole name, in the order in which the file has them
    keys: dict[str, list[int]] = {}
    for module in modules:
        parts, key = module[len(path) :].split("."), []
        for i, part in enumerate(parts, 1):
            place = int(part) if part.isdecimal() else places.setdefault(".".join(parts[:i]), len(places))
            key.append(place)
        keys[module] = key
    return sorted(modules, key=keys.__getitem__)


class GroupSoftmax(nn.Module):
    """[B, L·V] -> the same: a softmax over each `group` of V neighbouring features (None: over all), at a temperature.

    Source: Lavoie et al. 2022, simplicial embeddings.
    """

    def __init__(self, group: int | None, temperature: float) -> None:
        super().__init__()
        self.group, self.temperature = group, temperature

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(1, (-1, self.group or x.shape[1])) / self.temperature).softmax(dim=2).flatten(1)


def activation_of(kind: str) -> nn.Module:
    """The module that --assume activation describes: relu … or softmax:V:T."""
    name, _, rest = kind.partition(":")
    if name == "softmax":
        group, _, temperature = rest.partition(":")
        return GroupSoftmax(int(group) if group else None, float(temperature or 1))
    return ACTIVATIONS[name]()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}
