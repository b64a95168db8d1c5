"""A projector as a chain of modules that act one after the other, and which of them a smaller copy can pass."""

from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import FirstFeatures
from sparsehead_cli.nets.norms import JOINED
from sparsehead_cli.sparse.layers import CONVOLUTIONS, RawMatrices, unwrap
from sparsehead_cli.sparse.select import SelectFeatures


class Chain(NamedTuple):
    """`core` from the first to the last layer that is pruned; what lies `before` and `after` is kept as it is."""

    before: list[nn.Module]
    core: list[nn.Module]
    after: list[nn.Module]


def chain_of(projector: nn.Module) -> Chain:
    """The modules of a projector, nested Sequentials laid flat.

    The core starts with the elementwise modules and batch norms right before the first layer (or with the selection of a
    pruned head). Only what runs torch's own forward is passed: a module that inherits but computes something else, or that
    a hook changes, would become another one in a smaller copy.

    Raises: SparseheadError for a module in the core that is neither layer, batch norm nor elementwise, for one outside of it
    that has weights, and where there is nothing to prune.
    """
    parts = _flat("", projector)
    layers = [i for i, (_, module) in enumerate(parts) if is_layer(module)]
    if isinstance(projector, RawMatrices):
        raise SparseheadError(
            "matrices without a module cannot be pruned: nobody knows what reads them. Give SparseHead the module."
        )
    if not layers:
        for name, module in parts:
            _require(_passable(module), name, module)
        return Chain([], [], [module for _, module in parts])
    first, last = layers[0], layers[-1] + 1
    while first > 0 and _passable(parts[first - 1][1]):
        first -= 1
        if isinstance(parts[first][1], SelectFeatures):
            break
    for i, (name, module) in enumerate(parts):
        if first <= i < last:
            passed = is_layer(module) or (_passable(module) and (i == first or not isinstance(module, SelectFeatures)))
        else:
            passed = all(p.dim() < 2 for p in module.parameters())
        _require(passed, name, module)
    modules = [module for _, module in parts]
    kinds = {next(kind for kind in LAYERS if isinstance(modules[i], kind)).__name__ for i in layers}
    if len(kinds) > 1:
        raise SparseheadError(
            f"cannot prune a mixture of {' and '.join(sorted(kinds))}: prune each part of the projector by itself."
        )
    return Chain(modules[:first], modules[first:last], modules[last:])


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a matrix that can be made smaller: Linear, or a 1x1 convolution without groups and padding."""
    convolution = isinstance(module, CONVOLUTIONS)
    if convolution and not (set(module.kernel_size) == {1} and module.groups == 1 and module.padding in ("same", "valid", *ZERO)):
        return False
    return _runs_forward_of(module, LAYERS) and not _foreign_hooks(module)


def is_elementwise(projector: nn.Module) -> bool:
    """Whether each number that a projector in eval mode puts out is made of the one in its place alone."""
    kinds = (FirstFeatures, *BATCH_NORMS, *ELEMENTWISE)
    return all(_runs_forward_of(part, kinds) and not _foreign_hooks(part) for _, part in _flat("", projector))


def _passable(module: nn.Module) -> bool:
    if isinstance(module, BATCH_NORMS) and module.running_mean is None:
        raise SparseheadError("cannot prune past a batch norm without running statistics; use track_running_stats=True.")
    plain = _runs_forward_of(module, (*BATCH_NORMS, *ELEMENTWISE, SelectFeatures))
    return plain and not _foreign_hooks(module) and not is_parametrized(module)


def _flat(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of what acts one after the other."""
    module = unwrap(module)
    if not (_runs_forward_of(module, (nn.Sequential,)) and not _foreign_hooks(module)):
        return [(name, module)]
    # not named_children(), which gives a module that stands in two places only once
    return [part for key, inner in module._modules.items() for part in _flat(f"{name}.{key}".lstrip("."), inner)]


def _runs_forward_of(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Whether a call of the module does what a call of one of these classes does, though it may inherit from it."""
    own = type(module)
    untouched = own.__call__ is nn.Module.__call__ and "forward" not in vars(module)
    return untouched and any(isinstance(module, kind) and own.forward is kind.forward for kind in kinds)


def _foreign_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks that a copy would lose; those that compute its weight are known."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        name = {WeightNorm: "name", SpectralNorm: "name"}.get(type(hook), "_tensor_name")
        known = isinstance(hook, WeightNorm | SpectralNorm | BasePruningMethod)
        if not (known and getattr(hook, name) == "weight"):
            return True
    return False


def _require(passed: bool, name: str, module: nn.Module) -> None:
    """Raises: SparseheadError that says why a module is not passed, and what to do."""
    if passed:
        return
    kind, base = type(module).__name__, _base(module)
    where = f'{kind} "{name}"' if name else kind
    if _foreign_hooks(module):
        reason = "it has a forward hook, which a smaller copy would lose: remove the hook first"
    elif base:
        reason = f"it inherits from {base} but has a forward of its own, which a smaller copy would lose"
    elif parts := _prunable_parts(module):
        inside = " or ".join(f"SparseHead(head.{part}, lam=0).prune()" for part in parts)
        reason = f"its forward may do more than its parts; where it only calls one of them, prune that one: {inside}"
    else:
        reason = "it is neither elementwise nor a layer whose copy can be made smaller"
    raise SparseheadError(
        f"cannot prune past {where}: {reason}. A projector to prune is a Linear or a Sequential of Linear (or 1x1 convolutions), "
        "BatchNorm and elementwise activations; modules without weights may come before and after."
    )


def _base(module: nn.Module) -> str | None:
    """The name of the class of torch's whose forward a module has replaced."""
    kinds = (nn.Sequential, *LAYERS, *BATCH_NORMS, *ELEMENTWISE)
    base = next((kind for kind in kinds if isinstance(module, kind)), None)
    return None if base is None or _runs_forward_of(module, (base,)) else base.__name__


def _prunable_parts(module: nn.Module) -> list[str]:
    parts = [(name, _flat("", inner)) for name, inner in module.named_children()]
    return [name for name, flat in parts if any(is_layer(inner) for _, inner in flat)][:2]


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ZERO = ((0,), (0, 0), (0, 0, 0))
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *JOINED.values())  # the last: of several processes
ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.LogSigmoid,
    nn.Sigmoid,
    nn.Dropout,
    nn.Identity,
)
