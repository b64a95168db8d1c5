"""Which parts of a projector are matrices, what they are called, and what they are worth now."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.machine.distributed import is_sharded, own_part

CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d


class RawMatrices(nn.Module):
    """Parameters [out, in] that no layer of ours owns, by name. It has no forward: only SparseHead reads it."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in named.items():
            if not isinstance(parameter, nn.Parameter):
                kind = type(parameter).__name__
                raise SparseheadError(f'the matrix "{name}" must be an nn.Parameter that an optimizer trains, given a {kind}.')
        self.names, self.matrices = list(map(str, named)), nn.ParameterList(named.values())


class Matrix(NamedTuple):
    """A weight of a projector: `values` [out, in], which shares memory with `stored`, the tensor as its layer keeps it."""

    name: str
    stored: Tensor
    values: Tensor


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside torch.compile, DistributedDataParallel and DataParallel wrappers."""
    while True:
        if isinstance(module, DistributedDataParallel | DataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:  # how torch.compile wraps
            module = module._orig_mod
        else:
            return module


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one matrix: nn.Linear, Hugging Face's Conv1D, or an ungrouped 1x1 convolution of 1, 2 or 3 dimensions."""
    if isinstance(module, CONVOLUTIONS):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module keeps its matrix as [in, out]: transformers' Conv1D, of GPT-2, which is not imported to be recognised."""
    return any((kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D") for kind in type(module).__mro__)


def named_layers(projector: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of all modules inside, without wrappers' prefixes; the projector itself is called "projector"."""
    return [(name or "projector", module) for name, module in unwrap(projector).named_modules()]


def linear_layers(projector: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of every linear layer, trainable or not, in the order of `projector.modules()`.

    Raises: SparseheadError for a layer whose weight is no whole matrix: lazy, sharded, or empty.
    """
    found = _linear_layers(projector)
    for name, module in found:
        if is_sharded(module._parameters.get("weight")):
            raise SparseheadError(
                f'layer "{name}" ({type(module).__name__}) has a DTensor for a weight, of which a process holds a part: it can be '
                "penalised, but not measured or pruned. Load its full state_dict into a head that is not sharded."
            )
    return found


def _linear_layers(projector: nn.Module) -> list[tuple[str, nn.Module]]:
    """The same, sharded ones among them."""
    found = [(name, module) for name, module in named_layers(projector) if is_linear(module)]
    for name, module in found:
        _check_matrix(f'layer "{name}" ({type(module).__name__})', module.__dict__.get("weight", module._parameters.get("weight")))
    return found


def matrices(projector: nn.Module) -> list[Matrix]:
    """Every trainable matrix of a projector, in the order of `projector.modules()`; one that two layers share comes once.

    One that is sharded is a DTensor. Raises: SparseheadError for a weight that is no matrix.
    """
    if isinstance(projector, RawMatrices):
        stored = zip(projector.names, projector.matrices, strict=True)
        found = [Matrix(name, weight, _raw(name, weight)) for name, weight in stored if weight.requires_grad]
    else:
        trainable = ((name, layer) for name, layer in _linear_layers(projector) if is_trainable(layer))
        found = [_of_layer(name, layer) for name, layer in trainable]
    once: list[Matrix] = []
    for each in found:
        if not any(each.stored is other.stored for other in once):
            once.append(each)
    return once


def overlap(weights: list[Tensor]) -> tuple[int, int] | None:
    """The places in `weights` of two different tensors that lie over the same memory, such as one and its transpose; or None.

    What lies in turn in one stretch of memory, as two column slices of a matrix do, counts, too.
    """
    spans = sorted(span for i, weight in enumerate(weights) if (span := _span(i, weight)))
    for (device, _, end, i), (other, start, _, j) in pairwise(spans):
        if device == other and start < end:
            return min(i, j), max(i, j)
    return None


def _span(i: int, weight: Tensor) -> tuple[str, int, int, int] | None:
    """(device, first byte, last byte + 1, i) of a tensor; None for one that has no memory."""
    weight = own_part(weight)
    if weight.is_meta or weight.numel() == 0 or weight.untyped_storage().data_ptr() == 0:
        return None
    last = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    return str(weight.device), weight.data_ptr(), weight.data_ptr() + (last + 1) * weight.element_size(), i


def matrix(layer: nn.Module) -> Tensor:
    """A linear layer's weight as [out, in]; it shares memory with the parameter, unless the weight is a computed one."""
    return _of_layer("", layer).values


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that the layer's next forward in eval mode will use, as it keeps it; a parameter, or computed from others.

    Looking changes nothing: no power iteration goes on, no random number is drawn. The hooks of the older
    torch.nn.utils.weight_norm, spectral_norm and prune leave a stale `layer.weight` between two forwards, so theirs is
    computed here.

    Raises: SparseheadError for a tensor that neither is a parameter nor is known to be computed.
    """
    if isinstance(weight := layer._parameters.get("weight"), nn.Parameter):
        return weight
    if is_parametrized(layer, "weight"):
        with eval_mode(computed := layer.parametrizations["weight"]):
            return computed()  # not layer.weight, which parametrize.cached() would keep for the forward in train mode
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return hook.compute_weight(layer)
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            # the next forward writes into u and v, which the gradient still needs
            u, v, weight = layer.weight_u.clone(), layer.weight_v.clone(), layer.weight_orig
            return weight / torch.dot(u, torch.mv(hook.reshape_weight_to_matrix(weight), v))
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
            return hook.apply_mask(layer)
    raise SparseheadError(
        f"the weight of {shown(layer)} is neither a parameter nor computed by torch.nn.utils.parametrize, weight_norm, "
        f"spectral_norm or prune, so nobody knows what trains it. {WHOLE}"
    )


def is_computed(layer: nn.Module) -> bool:
    """Whether a layer's weight is computed from other parameters, as weight_norm's is."""
    return not isinstance(layer._parameters.get("weight"), nn.Parameter)


def is_trainable(layer: nn.Module) -> bool:
    """Whether a linear layer's weight is trained. A computed weight (weight_norm) is, when what it is computed from is."""
    if not is_computed(layer):
        return layer.weight.requires_grad
    return any(p.requires_grad for name, p in layer.named_parameters() if "bias" not in name)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """`module` in eval mode, and every part of it back in its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _of_layer(name: str, layer: nn.Module) -> Matrix:
    weight = weight_of(layer)
    return Matrix(name, weight, weight.t() if is_transposed(layer) else weight.flatten(1))


def _raw(name: str, weight: nn.Parameter) -> Tensor:
    if not isinstance(weight, nn.UninitializedParameter) and weight.dim() != 2:
        count = f"{weight.dim()} dimension{'s' * (weight.dim() != 1)}"
        raise SparseheadError(
            f'the parameter "{name}" has {count}; a matrix [out, in] is needed: leave out what is none, such as a bias.'
        )
    _check_matrix(f'the matrix "{name}"', weight)
    return weight


def _check_matrix(what: str, weight: Tensor | None) -> None:
    if weight is None:
        return  # a computed one
    if isinstance(weight, nn.UninitializedParameter):
        raise SparseheadError(f"{what} has no shape yet: run one batch through the projector first.")
    if weight.dim() < 2:
        shape = tuple(weight.shape)
        raise SparseheadError(f"{what} has a weight of shape {shape}, no matrix, as when FSDP or DeepSpeed shards it. {WHOLE}")
    if weight.numel() == 0:
        raise SparseheadError(
            f"{what} has a weight of shape {tuple(weight.shape)}: nothing to penalise; give it an input and an output."
        )


WHOLE = (
    "SparseHead needs weights that are whole, or DTensors as fully_shard makes them: shard the projector so, or the backbone "
    "alone, and wrap the projector in DistributedDataParallel."
)
