"""`--lams auto`: the λ between "nothing changes" and "too sparse", read off the initial weights and the learning rates alone.

λ acts through the learning rate: after steps with rates η_t a penalty alone has moved a group by λ · Σ η_t. So what matters is that
shrink against the size of the groups. Measured on SimCLR, BYOL and Barlow Twins for 4 to 26 epochs (docs/sweep.md), groups begin to
die where the two are about equal, whatever the length of the run, and are nearly all dead at three times that.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.machine.plugins import named
from sparsehead_cli.nets.optim import lr_at
from sparsehead_cli.runs.build import (
    as_read,
    build_method,
    build_sparse_head,
    check_batch,
    check_labels,
    make_views,
    require_buildable,
    spec_of_views,
)
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.settled import check_names
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.sparse.sparse_head import SparseHead

STEPS = (-3, -2, -1, 0, 1, 2)  # half decades around the λ whose shrink equals the initial size


def read_tasks(dataset: str, data_dir: Path, split: str = "pretrain") -> list[Source]:
    """A split of each task of a pretraining, of which there is mostly one. Only their numbers and labels matter here."""
    source = load_split(dataset, split, data_dir, cache="none")
    return source if isinstance(source, list) else [source]


def auto_lams(config: Config, read: Callable[[str, Path], list[Source]] = read_tasks) -> tuple[float, ...]:
    """0, and a λ each half decade from a thirtieth to ten times the critical one, rounded to two digits.

    The weights are made on the CPU: a sweep leaves the GPUs to its trials. `read` may remember what it has read.

    Raises: SparseheadError where the settings make no run, or a projector without weights to penalise.
    """
    check_names(config)
    tasks = as_read(config, read(config.dataset, config.data_dir))
    for train in tasks:
        check_labels(config, train)
        check_batch(config, train)
    spec = spec_of_views(tasks[0].spec, config)
    require_buildable(config, spec, make_views(config, spec), torch.device("cpu"))
    sparse = build_sparse_head(config, build_method(config, spec).projector)
    critical = size(sparse) / sum_lr(config, [len(train) // config.batch_size for train in tasks])
    return (0.0, *(float(f"{critical * 10 ** (step / 2):.1e}") for step in STEPS))


def sum_lr(config: Config, steps_per_epoch: list[int]) -> float:
    """Σ η_t over the steps of a run whose tasks have so many."""
    total, warmup = config.epochs * sum(steps_per_epoch), round(config.warmup_epochs * steps_per_epoch[0])
    return sum(lr_at(step, total=total, warmup=warmup, lr=config.lr) for step in range(total))


def size(sparse: SparseHead) -> float:
    """How far the penalty P has to move its weights to be rid of them: Σ P(W) / Σ ‖∇P(W)‖² over the penalised layers.

    That is the time in which the flow dW/dt = -∇P(W) would end if it kept its speed. For l21 it is the mean norm of a
    group, for l1 the mean |w|, for nuclear the mean singular value, for l2 (whose flow only halves in equal times) 1/2.
    """
    value, squares = 0.0, 0.0
    for weight in sparse.weights():
        leaf = weight.detach().clone().requires_grad_()
        with torch.enable_grad():
            penalty = named("penalty", sparse.penalty_name, PENALTIES).value(leaf, sparse.groups)
            (gradient,) = torch.autograd.grad(penalty, leaf)
        value, squares = value + penalty.item(), squares + gradient.square().sum().item()
    return value / squares
