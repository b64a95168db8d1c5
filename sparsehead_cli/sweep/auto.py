"""`--lams auto`: the λ between "nothing changes" and "too sparse", read off the initial weights and the learning rates alone.

λ acts through the learning rate: after steps with rates η_t a penalty alone has moved a group by λ · Σ η_t. So what matters is that
shrink against the size of the groups. Measured on SimCLR, BYOL and Barlow Twins for 4 to 26 epochs (docs/sweep.md), groups begin to
die where the two are about equal, whatever the length of the run, and are nearly all dead at three times that.
"""

import torch

from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.sparse.sparse_head import SparseHead

AUTO = "auto"
STEPS = (-3, -2, -1, 0, 1, 2)  # half decades around the λ whose shrink equals the initial size


def auto_lams(config: Config) -> tuple[float, ...]:
    """0, and a λ each half decade from a thirtieth to ten times the critical one, rounded to two digits.

    Raises: SparseheadError where the settings make no run, or a projector without weights to penalise.
    """
    run = build(config)
    critical = size(run.sparse) / sum(run.lr(step) for step in range(run.total_steps))
    return (0.0, *(float(f"{critical * 10 ** (step / 2):.1e}") for step in STEPS))


def size(sparse: SparseHead) -> float:
    """How far the penalty P has to move its weights to be rid of them: Σ P(W) / Σ ‖∇P(W)‖² over the penalised layers.

    That is the time in which the flow dW/dt = -∇P(W) would end if it kept its speed. For l21 it is the mean norm of a
    group, for l1 the mean |w|, for nuclear the mean singular value, for l2 (whose flow only halves in equal times) 1/2.
    """
    value, squares = 0.0, 0.0
    for weight in sparse.weights():
        leaf = weight.detach().clone().requires_grad_()
        with torch.enable_grad():
            penalty = PENALTIES[sparse.penalty_name].value(leaf, sparse.groups)
            (gradient,) = torch.autograd.grad(penalty, leaf)
        value, squares = value + penalty.item(), squares + gradient.square().sum().item()
    return value / squares
