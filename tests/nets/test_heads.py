import pytest
import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import make_projector


def kinds(head):
    return [type(m).__name__ for m in head]


def test_layers():
    assert kinds(make_projector(8, [], 4)) == ["Linear"]
    assert kinds(make_projector(8, [6], 4)) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds(make_projector(8, [6, 5], 4, batch_norm=False)) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_bias_only_where_no_norm_follows():
    with_norm, without = make_projector(8, [6], 4), make_projector(8, [6], 4, batch_norm=False)
    assert [m.bias is None for m in with_norm if isinstance(m, nn.Linear)] == [True, False]
    assert [m.bias is None for m in without if isinstance(m, nn.Linear)] == [False, False]


def test_shape():
    assert make_projector(8, [6, 7], 4)(torch.randn(3, 8)).shape == (3, 4)


def test_impossible_width():
    with pytest.raises(SparseheadError, match="at least 1"):
        make_projector(8, [0], 4)
