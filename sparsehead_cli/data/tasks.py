"""A data set as a sequence of tasks: shares of its classes, other data sets in turn, or stretches of a stream."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.seeds import stable_seed

Classes = tuple[int, ...]


def class_groups(classes: int, tasks: int, seed: int) -> tuple[Classes, ...]:
    """The classes of each task, as evenly as they go, in an order drawn from the seed.

    Raises: SparseheadError for one class, one task, and for more than there are classes.
    """
    if classes < 2:
        raise SparseheadError("tasks share the classes, and this data set has only one. Choose another, or leave --tasks out.")
    if not 1 < tasks <= classes:
        raise SparseheadError(f"tasks must be from 2 to the {classes} classes that there are, given {tasks}.")
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(stable_seed("tasks", seed)))
    return tuple(tuple(sorted(group.tolist())) for group in order.tensor_split(tasks))


def of_classes(labels: Tensor, classes: Classes) -> Tensor:
    """The places of the labels [N] that are of some classes, int64 [n]."""
    return torch.isin(labels, torch.tensor(classes, device=labels.device)).nonzero().flatten()


def stretches(count: int, tasks: int) -> list[Tensor]:
    """The places of so many inputs in equal stretches, int64 [n] each."""
    return list(torch.arange(count).tensor_split(tasks))


def with_replay(parts: Sequence[Tensor], replay: int, seed: int) -> list[Tensor]:
    """The places of each task's inputs, and of `replay` inputs of the tasks before it, as many of each, drawn from the seed."""
    result = []
    for number, own in enumerate(parts):
        kept = [own]
        for earlier, places in enumerate(parts[:number]):
            share = replay // number + (earlier < replay % number)
            draw = torch.Generator().manual_seed(stable_seed("replay", seed, number, earlier))
            kept.append(places[torch.randperm(len(places), generator=draw)[:share].to(places.device)])
        result.append(torch.cat(kept))
    return result


def chained(sources: Sequence[Source], names: Sequence[str]) -> tuple[Memory, tuple[Classes, ...]]:
    """Sets in memory, of inputs of one kind, one behind the other; and the classes of each, which are different ones.

    Raises: SparseheadError for sets that stream, and for inputs that are not of the same size and channels.
    """
    tensors = [getattr(source, "inputs", None) for source in sources]
    if any(not isinstance(x, Tensor) or x.shape[1:] != tensors[0].shape[1:] for x in tensors):
        raise SparseheadError(
            f"tasks {','.join(names)}: data sets in turn must be images in memory, all of one size and with as many channels."
        )
    groups, labels, first = [], [], 0
    for source in sources:
        count = len(source.spec.classes)
        groups.append(tuple(range(first, first + count)))
        labels.append(torch.where(source.labels >= 0, source.labels + first, source.labels))
        first += count
    return Memory(torch.cat(tensors), torch.cat(labels), sources[0].spec), tuple(groups)
