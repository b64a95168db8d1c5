"""Memory for time: activations that are not kept but computed again in the backward pass, and batches that pass in parts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsehead_cli.data.contract import Inputs, each


def in_parts(network: nn.Module, inputs: Inputs, parts: int) -> Tensor:
    """r [B, D] of a network that the inputs pass in `parts` parts, one after the other, so that the activations of one are kept.

    Each part is recomputed in the backward pass, and the gradient is that of the whole batch: an objective of all B rows needs
    nothing else. Part k has the rows k, k + parts, k + 2 · parts, …, so that the views of an input are in one part, and the part
    does not depend on how many processes share the batch. What the network does between samples, BatchNorm's statistics, it
    does within a part. `parts` must divide B. Source: GradCache (Gao et al. 2021), section 3.
    """
    if parts == 1:
        return network(inputs)
    passed = recomputed if torch.is_grad_enabled() else nn.Module.__call__
    results = [passed(network, each(lambda x, part=part: x[part::parts], inputs)) for part in range(parts)]
    return torch.stack(results, dim=1).flatten(0, 1)


def recomputed(network: nn.Module, inputs: Inputs) -> Tensor:
    """What `network` makes of the inputs; instead of its activations the inputs are kept, from which the backward pass has them.

    The second pass has the buffers, the random draws and the autocast of the first, and changes no buffer, so that running
    statistics move once. Source: Chen et al. 2016 ("Training deep nets with sublinear memory cost").
    """
    return checkpoint(network, inputs, use_reentrant=False, context_fn=partial(passes, network))


def passes(network: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of the first pass and of the second one, where copies stand for the buffers."""
    buffers = [(owner, name, buffer) for owner in network.modules() for name, buffer in owner.named_buffers(recurse=False)]
    copies = [(owner, name, buffer.clone()) for owner, name, buffer in buffers]
    return nullcontext(), in_place_of_buffers(copies)


@contextmanager
def in_place_of_buffers(values: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Within it, other tensors are the buffers; each is given with the module that has it and its name there."""
    own = [(owner, name, owner.get_buffer(name)) for owner, name, _ in values]
    try:
        for owner, name, value in values:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in own:
            setattr(owner, name, value)


def update_once(network: nn.Module) -> None:
    """From now on, BatchNorms of a network that recomputes parts of itself keep their running statistics as it does so."""
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            norm.register_forward_pre_hook(partial(still_in_backward, momentum=norm.momentum))


def still_in_backward(norm: nn.modules.batchnorm._BatchNorm, _: object, *, momentum: float | None) -> None:
    """Before a forward pass: whether it moves running statistics; one within a backward pass is a recomputation, and does not."""
    recomputation = torch._C._current_graph_task_id() != -1  # torch's own checkpoint asks likewise
    norm.momentum = 0.0 if recomputation else momentum
    if recomputation:
        norm.num_batches_tracked.sub_(1)  # which the pass adds
