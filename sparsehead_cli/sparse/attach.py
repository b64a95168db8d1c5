"""What ties a proximal SparseHead to optimizers: whose step is followed, with which learning rate, and only once a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.sparse.layers import Matrix, overlap
from sparsehead_cli.sparse.numbers import plain_number

if TYPE_CHECKING:
    from sparsehead_cli.sparse.sparse_head import SparseHead


class Attachment:
    """What SparseHead.attach() returns: remove() ends it, as does leaving a `with` block."""

    def __init__(self, handles: list[torch.utils.hooks.RemovableHandle]) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def is_alive(self) -> bool:
        """Whether an optimizer that it follows is still there and calls it."""
        return any(handle.id in (handle.hooks_dict_ref() or ()) for handle in self.handles)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class ShrinkAfterStep:
    """The hook that an optimizer runs after its step(). Other SparseHeads find it there, so that no weight shrinks twice."""

    def __init__(self, sparse: SparseHead, optimizers: list[Optimizer]) -> None:
        self.sparse, self.optimizers = sparse, optimizers

    def __call__(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self.sparse.lam > 0:
            rates = learning_rates(self.sparse.matrices(), self.optimizers)
            trained = _trained(optimizer)
            if here := [(each, rate) for each, rate in rates if id(each.stored) in trained]:
                self.sparse.shrink_weights(here)


def attach(sparse: SparseHead, optimizers: Sequence[object]) -> Attachment:
    """Let `sparse` shrink its weights after each step of the optimizers. Raises: SparseheadError as SparseHead.attach()."""
    inner = require_optimizers(optimizers)
    learning_rates(sparse.matrices(), inner)
    hook, handles = ShrinkAfterStep(sparse, inner), []
    parameters = {id(p) for p in sparse.projector.parameters()}
    # the others may step while the whole projector is frozen, as when two optimizers take turns
    followed = [optimizer for optimizer in inner if parameters & _trained(optimizer)] or inner
    for optimizer in followed:
        handle = optimizer.register_step_post_hook(hook)
        handles.append(handle)
        others = [other for other in handle.hooks_dict_ref().values() if isinstance(other, ShrinkAfterStep) and other is not hook]
        if twice := _shrunk_by(others, sparse, optimizer):
            Attachment(handles).remove()
            raise SparseheadError(
                f"a SparseHead is attached to this optimizer already and shrinks the same weights ({twice}), which would shrink "
                "twice a step; call remove() on what its attach() returned, or make the optimizer anew (in a notebook: run its "
                "cell again)."
            )
    return Attachment(handles)


def require_optimizers(given: Sequence[object]) -> list[Optimizer]:
    """The optimizers whose step() moves the weights, out of their wrappers, each once.

    Raises: SparseheadError for anything else, and for a class whose step() runs no hooks.
    """
    found: list[Optimizer] = []
    for optimizer in map(_inside, given):
        if not isinstance(optimizer, Optimizer):
            raise SparseheadError(f"attach() takes the torch.optim.Optimizer that trains the projector, given {shown(optimizer)}.")
        if not any(optimizer is other for other in found):
            found.append(optimizer)
    if not found:
        raise SparseheadError("attach() takes the torch.optim.Optimizer that trains the projector, given none.")
    return found


def learning_rates(weights: list[Matrix], optimizers: list[Optimizer]) -> list[tuple[Matrix, float | Tensor]]:
    """Each matrix with the current learning rate of its parameter group.

    Raises: SparseheadError for a matrix that is computed from others, that no optimizer trains, or whose group has no rate.
    """
    group_of = {id(p): group for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for each in weights:
        if not isinstance(each.stored, nn.Parameter):
            raise SparseheadError(
                f'the weight of layer "{each.name}" is computed by a parametrization (such as weight_norm) and cannot be shrunk: '
                'remove the parametrization, or use solver="subgradient" and add penalty() to the loss.'
            )
    if missing := ", ".join(each.name for each in weights if id(each.stored) not in group_of):
        raise SparseheadError(
            f"the optimizer does not train every penalised weight of the projector (not: {missing}); give it them all, or attach "
            "all optimizers that share them at once: attach(first, second)."
        )
    return [(each, _rate(each.name, group_of[id(each.stored)])) for each in weights]


def _rate(name: str, group: dict) -> float | Tensor:
    if isinstance(rate := group.get("lr"), Tensor):
        return rate  # to look into it would wait for the device
    if rate is None:
        raise SparseheadError(
            f'the optimizer has no learning rate "lr" for the weight of layer "{name}" (given None), and the proximal step is '
            'lr · lam: set one, or use solver="subgradient" and add penalty() to the loss.'
        )
    number = plain_number(rate)
    if number is None or number < 0:
        raise SparseheadError(
            f'the learning rate "lr" of the weight of layer "{name}" must be a finite number of at least 0, given {shown(rate)}: '
            "the proximal step shrinks by lr · lam."
        )
    return number


def _shrunk_by(others: list[ShrinkAfterStep], sparse: SparseHead, optimizer: Optimizer) -> str:
    """The names of the layers, "a, b", that `others` and `sparse` both shrink after a step of `optimizer`."""
    trained = _trained(optimizer)
    shrunk = [p for other in others for p in other.sparse.parameters() if id(p) in trained]
    own = [each for each in sparse.matrices() if id(each.stored) in trained]
    return ", ".join(each.name for each in own if any(each.stored is p or overlap([each.stored, p]) for p in shrunk))


def _trained(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters that an optimizer trains."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _inside(optimizer: object) -> object:
    """The optimizer in a wrapper that hands step() on and has no hooks: accelerate's (Hugging Face's Trainer) and Lightning's."""
    while any(kind.__module__.split(".")[0] in WRAPPERS for kind in type(optimizer).__mro__):
        optimizer = optimizer.optimizer
    if isinstance(optimizer, Optimizer) and not getattr(type(optimizer).step, "hooked", False):
        name = type(optimizer).__name__
        raise SparseheadError(
            f"{name}.step() does not run torch's hooks, so attach() would never act; give the torch.optim.Optimizer inside it to "
            "sparse.shrink() after each step()."
        )
    return optimizer


WRAPPERS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")
