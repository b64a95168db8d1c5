"""A run's data as a sequence of tasks: `--tasks 5`, shares of the classes, or `--tasks fashion10k,mnist`, data sets in turn."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.tasks import Classes, chained, class_groups, of_classes, stretches, with_replay
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import Config

# against forgetting: nothing, distillation, or all tasks at once
REMEDIES = ("none", "cassle", "joint")
BETWEEN = ("keep", "new-head", "new-optimizer")


class Tasks(NamedTuple):
    """What is measured after each task: the `classes` of each, all training and held-out inputs, and how many classes there are.

    Stretches of a stream without labels have no classes.
    """

    classes: tuple[Classes, ...]
    sources: tuple[Source, Source]
    count: int


def in_tasks(
    config: Config, load: Callable[[Config, str], Source | list[Source]], sources: list[Source | list[Source]]
) -> tuple[list[list[Source]], Tasks | None]:
    """The sources to train on and those held out, one a task each, and what is measured of them; None where there are no tasks.

    Raises: SparseheadError for tasks that the data have not got.
    """
    if not config.tasks:
        require_none(config)
        return [source if isinstance(source, list) else [source] for source in sources], None
    if any(isinstance(source, list) for source in sources):
        raise SparseheadError(f"{config.dataset} is a sequence of tasks already. Leave --tasks out.")
    groups: tuple[Classes, ...] = ()
    if not config.tasks.isdigit():
        names = [name.strip() for name in config.tasks.split(",")]
        if names[0] != config.dataset or len(names) < 2:
            raise SparseheadError(
                f"tasks {config.tasks}: data sets in turn are two or more, of which --dataset ({config.dataset}) is the first. "
                "Leave --dataset out."
            )
        others = [[load(replace(config, dataset=name), split) for name in names[1:]] for split in ("pretrain", "val")]
        chains = [chained([source, *more], names) for source, more in zip(sources, others, strict=True)]
        sources, groups = [source for source, _ in chains], chains[0][1]
    elif (sources[0].labels >= 0).all():
        groups = class_groups(len(sources[0].spec.classes), int(config.tasks), config.seed)
    train, held_out = sources
    parts = [of_classes(train.labels, group) for group in groups] or stretches(len(train), int(config.tasks))
    kept = [of_classes(held_out.labels, group) for group in groups] or [torch.arange(len(held_out))] * len(parts)
    count = 1 + max((number for group in groups for number in group), default=0)
    tasks = Tasks(groups, (train, held_out), count)
    if config.continual == "joint":
        return [[train], [held_out]], tasks
    trained = [train.take(places) for places in with_replay(parts, config.replay, config.seed)]
    return [trained, [held_out.take(places) for places in kept]], tasks


def require_none(config: Config) -> None:
    """Raises: SparseheadError for settings that are of tasks, where there are none."""
    given = [
        name for name, value in (("continual", "none"), ("replay", 0), ("between_tasks", "keep")) if getattr(config, name) != value
    ]
    if given:
        raise SparseheadError(f"{', '.join(given)}: that is of a sequence of tasks. Say of which: --tasks 5.")
