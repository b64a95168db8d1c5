"""Which patches are hidden: how many, how often each, in what shapes, and the same for any number of processes."""

import pytest
import torch

from sparsehead_cli.ssl import contract, masks

CPU = torch.device("cpu")
DRAWS = {
    "at random": lambda batch: masks.at_random(batch, 7, 7, 0.6, CPU),
    "in units": lambda batch: masks.in_units(batch, 7, 7, 0.6, 2, CPU),
    "blockwise": lambda batch: masks.blockwise(batch, 7, 7, 0.5, (0.1, 0.5), CPU),
    "targets": lambda batch: masks.multi_block(batch, 7, 7, 4, CPU)[0],
    "context": lambda batch: masks.multi_block(batch, 7, 7, 4, CPU)[1],
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sides(mask):
    """The height and the width of what is in each mask [N, R, C], and whether it is a full rectangle."""
    rows, columns = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    gaps = [(line.int().diff(dim=1) == 1).sum(dim=1) + line[:, 0] > 1 for line in (mask.any(dim=2), mask.any(dim=1))]
    return rows, columns, (mask.sum(dim=(1, 2)) == rows * columns) & ~gaps[0] & ~gaps[1]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("processes", [2, 4])
def test_a_rows_mask_is_the_same_however_many_processes_share_the_batch(name, processes, monkeypatch):
    torch.manual_seed(3)
    whole = DRAWS[name](8)
    torch.manual_seed(4)
    assert not torch.equal(DRAWS[name](8), whole)
    monkeypatch.setattr(contract, "world", lambda: processes)
    for rank, part in enumerate(whole.chunk(processes)):
        monkeypatch.setattr(contract, "own_share", lambda x, rank=rank: x.chunk(processes)[rank])
        torch.manual_seed(3)
        assert torch.equal(DRAWS[name](8 // processes), part)


@pytest.mark.parametrize(("share", "count"), [(0.6, 29), (0.001, 1), (0.999, 48)])
def test_at_random_each_place_is_hidden_equally_often(share, count):
    hidden = masks.at_random(4000, 7, 7, share, CPU)
    assert (hidden.sum(dim=(1, 2)) == count).all()
    p = count / 49
    assert ((hidden.float().mean(dim=0) - p).abs() < 5 * (p * (1 - p) / 4000) ** 0.5).all()


def test_units_are_hidden_as_a_whole():
    hidden = masks.in_units(64, 7, 7, 0.6, 2, CPU)
    assert torch.equal(hidden[:, :6, :6], hidden[:, :6:2, :6:2].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert (hidden[:, ::2, ::2].sum(dim=(1, 2)) == round(0.6 * 16)).all()


def test_rectangles_have_the_area_and_the_aspect_and_lie_everywhere():
    area, aspect, place = torch.full((4000,), 12.0), torch.full((4000,), 0.75), torch.rand(4000, 2)
    found = masks.rectangles(area, aspect, place, 7, 6, most=1)
    rows, columns, whole = sides(found)
    assert whole.all()
    assert (rows == 3).all()
    assert (columns == 4).all()
    tops = found.any(dim=2).int().argmax(dim=1)
    assert (torch.bincount(tops, minlength=5) / 4000 - 0.2).abs().max() < 0.03  # 5 places that it has room for
    small, large = (
        masks.rectangles(torch.full((1,), a), torch.ones(1), torch.full((1, 2), 0.99), 7, 6, most=1) for a in (0.01, 99.0)
    )
    assert small.nonzero().tolist() == [[0, 6, 5]]
    assert (large.any(dim=2).sum(), large.any(dim=1).sum()) == (6, 5)


def test_blocks_take_no_more_than_their_share_and_hardly_less():
    hidden = masks.blockwise(4000, 14, 14, 0.5, (0.1, 0.5), CPU)
    share = hidden.float().mean(dim=(1, 2))
    some = share[share > 0]
    assert abs(len(some) / 4000 - 0.5) < 0.04
    assert some.max() <= 0.5
    assert 0.26 < some.mean() < 0.3  # of 0.3 without what does not fit
    quarters = torch.quantile(some, torch.tensor([0.25, 0.5, 0.75]))
    assert ((quarters - torch.tensor([0.2, 0.3, 0.4])).abs() < 0.04).all()
    alone = hidden & ~neighbours(hidden).bool()
    assert alone.sum() < 0.05 * hidden.sum()  # in blocks: nearly all have a neighbour that is hidden, too


def neighbours(mask):
    """1 where a place to the left, right, above or below is in the mask, [N, R, C] -> [N, R, C]."""
    padded = torch.nn.functional.pad(mask.float(), (1, 1, 1, 1))
    return torch.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]).amax(dim=0)


def test_all_or_none_are_hidden_where_the_chance_says_so():
    assert not masks.blockwise(50, 7, 7, 0.0, (0.1, 0.5), CPU).any()
    assert masks.blockwise(50, 7, 7, 1.0, (0.1, 0.5), CPU).any(dim=(1, 2)).all()
    assert masks.blockwise(50, 1, 1, 1.0, (0.1, 0.5), CPU).all()  # one patch is hidden, or none


def test_targets_are_four_blocks_and_the_context_is_the_rest_of_a_large_one():
    targets, context = masks.multi_block(2000, 14, 14, 4, CPU)
    rows, columns, whole = sides(targets.flatten(0, 1))
    assert targets.shape == (2000, 4, 14, 14)
    assert whole.all()
    area, aspect = rows * columns / 196, rows / columns
    assert 0.12 < area.min() < 0.16 < area.float().mean() < 0.19 < area.max() < 0.23
    assert 0.6 < aspect.min() < 0.9 < aspect.float().mean() < 1.3 < aspect.max() < 1.8
    assert not (targets.any(dim=1) & context).any()
    assert context.any(dim=(1, 2)).all()
    blocks = context | targets.any(dim=1)
    assert (blocks.sum(dim=(1, 2)) >= 0.85 * 0.9 * 196).all()


def test_a_context_that_targets_would_cover_stays_whole():
    targets, context = masks.multi_block(4000, 3, 3, 9, CPU)
    covered = (targets.any(dim=1) & context).any(dim=(1, 2))
    assert context.any(dim=(1, 2)).all()
    assert 0 < covered.float().mean() < 1
    assert (sides(context[covered])[2]).all()


def test_hidden_patches_come_first():
    hidden = torch.tensor([[[0, 1], [0, 1]], [[0, 0], [1, 0]]]).bool()
    assert masks.hidden_first(hidden, 3).tolist() == [[1, 3, 0], [2, 0, 1]]
