"""Optimizers, parameter groups, and the learning rate as a pure function of the step."""

import inspect
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import unknown
from sparsehead_cli.machine.distributed import is_sharded, norms, own_part


def lr_at(step: int, *, total: int, warmup: int, lr: float) -> float:
    """Learning rate of step 0 … total - 1: a linear rise over `warmup` steps to `lr`, then half a cosine down to 0.

    The first step has lr / warmup, not 0; 0 itself would be reached at `total`. Source: Goyal et al. 2017; Loshchilov 2017.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def parameter_groups(module: nn.Module, weight_decay: float, constant_lr: Iterable[nn.Parameter] = ()) -> list[dict]:
    """Trainable parameters in groups: weights decay; biases and norm layers (one dimension or none) do not.

    Each group says whether LARS adapts its learning rate (adapt: weights only) and whether it follows the schedule
    (constant_lr: the parameters given as such do not). A group without parameters is left out.
    """
    constant = {id(p) for p in constant_lr}
    groups = []
    for stays in (False, True):
        chosen = [p for p in module.parameters() if p.requires_grad and (id(p) in constant) == stays]
        for decays in (True, False):
            params = [p for p in chosen if (p.ndim > 1) == decays]
            decay = weight_decay if decays else 0.0
            if params:
                groups.append({"params": params, "weight_decay": decay, "adapt": decays, "constant_lr": stays})
    return groups


def make_optimizer(name: str, groups: list[dict], lr: float, momentum: float) -> torch.optim.Optimizer:
    """The optimizer of a run; `momentum` is beta 1 for AdamW. One kernel steps many weights, unless some are sharded."""
    whole = not any(is_sharded(p) for group in groups for p in group["params"])
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, fused=whole or None)
    if name == "adamw":
        return AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=whole or None)
    if name in LARS_FORMS:
        return LARS(groups, lr=lr, momentum=momentum, **LARS_FORMS[name])
    raise unknown("optimizer", name, OPTIMIZERS)


class Uncompiled(torch.optim.Optimizer):
    """An optimizer whose methods are torch's without what they do for its compiler: the first call of any imports it, two seconds.

    All that they ask of it is to be left alone, and nobody compiles a step here. Where torch has no such wrapping they are its own.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class SGD(Uncompiled, torch.optim.SGD):
    """torch's."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class AdamW(Uncompiled, torch.optim.AdamW):
    """torch's."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class LARS(Uncompiled):
    """SGD with momentum whose weights' learning rates follow the ratio of their norm to their gradient's, layer by layer.

    With the ratio q = eta · ‖w‖ / (‖g‖ + wd · ‖w‖), 1 where w or g is zero, and u = g + wd · w:

    - published, `clip=False`:  v ← momentum · v + lr · q · u,             w ← w - v
    - clipped, `clip=True`:     v ← momentum · v + min(q / lr, 1) · u,     w ← w - lr · v

    The clip only ever lowers a rate: a layer with q above lr learns as in SGD, and one below with the rate q, whatever the
    schedule says. So learning rates do not carry over between the two. Groups with adapt=False (biases and norm layers) are
    plain SGD with momentum at the rate lr. SparseHead's proximal solver shrinks by lr · λ, not by lr · q · λ.

    Source: You et al. 2017 (arXiv 1708.03888), algorithm 1, as SimCLR, BYOL and Barlow Twins train on ImageNet (the two latter
    multiply by lr after the momentum, which differs while lr changes); the clip is LARC's.
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.9, eta: float = 0.001, clip: bool = False) -> None:
        defaults = {"lr": lr, "momentum": momentum, "eta": eta, "clip": clip, "weight_decay": 0.0, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            if trained := [p for p in group["params"] if p.grad is not None]:
                self._update(trained, group)

    def _update(self, trained: list[Tensor], group: dict) -> None:
        """All weights of a group at once: a device is given a few large pieces of work, not a dozen small ones a weight."""
        for p in trained:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients, velocities = [p.grad for p in trained], [self.state[p]["momentum_buffer"] for p in trained]
        w, g, v = (list(map(own_part, tensors)) for tensors in (trained, gradients, velocities))
        updates, lr = torch._foreach_add(g, w, alpha=group["weight_decay"]), group["lr"]
        outside = lr if group["clip"] or not group["adapt"] else 1.0  # the rate that is multiplied after the momentum
        if group["adapt"]:
            norm_w, norm_g = norms(trained), norms(gradients)
            ratio = group["eta"] * norm_w / (norm_g + group["weight_decay"] * norm_w)
            defined = (norm_w > 0) & (norm_g > 0)
            published = torch.where(defined, ratio, 1.0) * lr
            factors = torch.where(defined, ratio / lr, 1.0).clamp(max=1) if group["clip"] else published
            torch._foreach_mul_(updates, factors.unbind())
        torch._foreach_mul_(v, group["momentum"])
        torch._foreach_add_(v, updates)
        torch._foreach_add_(w, v, alpha=-outside)


def adaptation(name: str) -> dict[str, float]:
    """What a run's identity says of an optimizer beside its name: LARS's eta. Runs from when `lars` was clipped have none."""
    return {"eta": LARS_FORMS[name]["eta"]} if name in LARS_FORMS else {}


LARS_FORMS = {"lars": {"eta": 0.001, "clip": False}, "larc": {"eta": 0.02, "clip": True}}
OPTIMIZERS = ("sgd", "adamw", *LARS_FORMS)
