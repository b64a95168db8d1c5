"""Sequences of tasks: which inputs each has."""

import pytest
import torch

from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.tasks import chained, class_groups, of_classes, stretches, with_replay
from sparsehead_cli.errors import SparseheadError


def test_classes_are_shared_evenly_in_an_order_of_the_seed():
    groups = class_groups(10, 3, seed=1)
    assert sorted(number for group in groups for number in group) == list(range(10))
    assert sorted(map(len, groups)) == [3, 3, 4]
    assert class_groups(10, 3, seed=1) == groups
    assert class_groups(10, 3, seed=2) != groups
    for tasks in (1, 11):
        with pytest.raises(SparseheadError, match=f"tasks must be from 2 to the 10 classes that there are, given {tasks}"):
            class_groups(10, tasks, 0)


def test_places_and_stretches():
    assert of_classes(torch.tensor([0, 2, 1, 2, -1]), (1, 2)).tolist() == [1, 2, 3]
    assert [part.tolist() for part in stretches(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_replay_is_as_many_of_each_earlier_task():
    parts = [torch.arange(100 * i, 100 * (i + 1)) for i in range(4)]
    kept = with_replay(parts, 10, seed=0)
    assert torch.equal(kept[0], parts[0])
    for number, places in enumerate(kept[1:], 1):
        assert torch.equal(places[:100], parts[number])
        replayed = places[100:]
        assert len(replayed.unique()) == 10
        counts = torch.bincount(replayed // 100, minlength=4)
        assert counts[:number].max() - counts[:number].min() <= 1
        assert counts[number:].sum() == 0
    assert all(torch.equal(one, other) for one, other in zip(with_replay(parts, 10, 0), kept, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(with_replay(parts, 0, 0), parts, strict=True))


def images(count, classes, size=4):
    from sparsehead_cli.data.contract import ImageSpec, Normalisation

    spec = ImageSpec(tuple(map(str, range(classes))), 1, size, Normalisation((0.5,), (0.5,)))
    return Memory(torch.zeros(count, 1, size, size, dtype=torch.uint8), torch.arange(count) % classes, spec)


def test_data_sets_in_turn_have_classes_of_their_own():
    joined, groups = chained([images(6, 2), images(6, 3)], ["a", "b"])
    assert groups == ((0, 1), (2, 3, 4))
    assert joined.labels.tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 4, 2, 3, 4]
    with pytest.raises(SparseheadError, match="tasks a,b: data sets in turn must be images in memory, all of one size"):
        chained([images(6, 2), images(6, 3, size=5)], ["a", "b"])
