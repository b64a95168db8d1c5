"""Which layers of a projector are linear, and what they are called."""

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from sparsehead_cli.errors import SparseheadError


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
    """Whether a module is one matrix: nn.Linear, or an ungrouped 1x1 convolution in 1, 2 or 3 dimensions."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear)


def named_layers(projector: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of all modules inside, without wrappers' prefixes; the projector itself is called "projector"."""
    return [(name or "projector", module) for name, module in unwrap(projector).named_modules()]


def linear_layers(projector: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of every linear layer, trainable or not, in the order of `projector.modules()`.

    Raises: SparseheadError for a lazy layer that has not seen a batch.
    """
    found = [(name, module) for name, module in named_layers(projector) if is_linear(module)]
    for name, module in found:
        if isinstance(module.weight, nn.UninitializedParameter):
            raise SparseheadError(
                f'layer "{name}" ({type(module).__name__}) has no shape yet: run one batch through the projector first.'
            )
    return found


def matrix(layer: nn.Module) -> Tensor:
    """A linear layer's weight as [out, in], sharing memory with the parameter."""
    return layer.weight.flatten(1)


def is_trainable(layer: nn.Module) -> bool:
    """Whether a linear layer's weight is trained. A computed weight (weight_norm) is, when what it is computed from is."""
    if isinstance(layer.weight, nn.Parameter):
        return layer.weight.requires_grad
    return any(p.requires_grad for name, p in layer.named_parameters() if "bias" not in name)
