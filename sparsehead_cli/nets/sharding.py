"""The linear layers of heads in parts, one a process (FSDP): weights, gradients and what the optimizer keeps of them."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsehead_cli.machine import distributed

T = TypeVar("T")


def shardable(method: nn.Module, dim: int) -> dict[str, nn.Linear]:
    """The linear layers outside of the backbone and its copies whose weights' dimension `dim` the processes divide evenly, by name.

    Those of projector and predictor, and of a teacher's projector.
    """
    inside = {m for network in method.modules() if type(network) is type(method.backbone) for m in network.modules()}
    layers = {name: m for name, m in method.named_modules() if isinstance(m, nn.Linear) and m not in inside}
    return {name: layer for name, layer in layers.items() if layer.weight.shape[dim] % distributed.world() == 0}


def shard_heads(method: nn.Module, dim: int) -> None:
    """Let each process keep a part of every shardable layer, in place; names stay, and a whole layer is there while it is used.

    Weights are cut along `dim`: along that which counts the groups, a group lies in one process, and the penalty and its proximal
    map need no other. To be done before an optimizer is made and before `synchronised`.
    Source: fully_shard of torch.distributed.fsdp, after Zhao et al. 2023 (arXiv 2304.11277).
    """
    from torch.distributed.device_mesh import init_device_mesh  # not above: these take a second to import
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh(next(method.parameters()).device.type, (distributed.world(),))
    for layer in shardable(method, dim).values():
        # each by itself: the head as one unit would be whole from its forward pass on to its backward pass
        fully_shard(
            layer,
            mesh=mesh,
            reshard_after_forward=True,
            shard_placement_fn=lambda weight: Shard(dim if weight.ndim > 1 else 0),
        )


def synchronised(method: nn.Module) -> nn.Module:
    """The method, wrapped where several processes train together; what is sharded, and what is `alike`, keeps itself in step."""
    if distributed.world() == 1:
        return method
    sharded = [name for name, parameter in method.named_parameters() if distributed.is_sharded(parameter)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, [*sharded, *getattr(method, "alike", ())])
    return DistributedDataParallel(method, gradient_as_bucket_view=True)  # without it the gradients lie in memory twice


def with_whole_layers(given: T, module: nn.Module) -> T:
    """A copy of what holds `module`, such as its SparseHead, in which every sharded layer is whole; `given` where none is sharded.

    All processes have to call it. The copy is plain: to measure it no process needs another.
    """
    sharded = [layer for layer in module.modules() if any(map(distributed.is_sharded, layer.parameters(recurse=False)))]
    if not sharded:
        return given
    copied = {}
    for layer in sharded:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        state = {name: distributed.whole(parameter.detach()) for name, parameter in layer.named_parameters()}
        plain.load_state_dict(state, assign=True)
        copied[id(layer)] = plain.train(layer.training).requires_grad_(layer.weight.requires_grad)
    return copy.deepcopy(given, copied)  # which takes what is in `copied` for already copied
