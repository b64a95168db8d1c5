"""Optimizers, parameter groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import unknown


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
    """The optimizer of a run; `momentum` is beta 1 for AdamW."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    if name == "lars":
        return LARS(groups, lr=lr, momentum=momentum)
    raise unknown("optimizer", name, OPTIMIZERS)


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose weights' learning rates follow the ratio ‖w‖ / ‖gradient‖, layer by layer.

    g ← g + wd·w, then g ← g · min(eta·‖w‖ / (‖g‖ + wd·‖w‖) / lr, 1) for groups with adapt=True (the "clip" form: the
    ratio only ever lowers the rate), then v ← momentum·v + g, w ← w - lr·v. A zero weight or gradient keeps ratio 1.
    Source: You et al. 2017 (arXiv 1708.03888), with the clip of LARC.
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.9, eta: float = 0.02) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: Tensor, group: dict) -> None:
        grad = p.grad.add(p, alpha=group["weight_decay"])
        if group["adapt"]:
            norm_w, norm_g = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
            rate = group["eta"] * norm_w / (norm_g + group["weight_decay"] * norm_w) / group["lr"]
            grad = grad * torch.where((norm_w > 0) & (norm_g > 0), rate, 1.0).clamp(max=1)
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        p.add_(velocity, alpha=-group["lr"])


OPTIMIZERS = ("sgd", "adamw", "lars")
