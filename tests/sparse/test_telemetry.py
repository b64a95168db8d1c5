import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.sparse.telemetry import active_groups, functional_features, head_sparsity


def test_active_groups_are_those_above_one_percent_of_the_largest():
    weight = torch.diag(torch.tensor([1.0, 0.02, 0.005, 0.0]))
    assert active_groups(weight, "input") == 2
    assert active_groups(torch.zeros(3, 3), "input") == 0


@pytest.mark.parametrize("read", [0, 1, 5, 12])
def test_functional_features_finds_how_many_are_read(read):
    torch.manual_seed(0)
    layer = nn.Linear(12, 6)
    layer.weight.data[:, read:] = 0
    assert functional_features(layer, layer.weight, torch.randn(200, 12)) == read


def test_a_feature_that_never_varies_is_not_needed():
    torch.manual_seed(0)
    layer, r = nn.Linear(6, 4), torch.randn(100, 6)
    r[:, 2] = 3.0
    assert functional_features(layer, layer.weight, r) == 5


def test_batch_norm_cannot_fool_it():
    """Rows of the first weight shrunk a million times: the norm undoes it, the count stays."""
    torch.manual_seed(0)
    head, r = make_projector(10, [8], 4), torch.randn(400, 10)
    head[0].weight.data[:, 7:] = 0
    for _ in range(200):
        head(r)  # running statistics
    head.eval()
    head[1].eps = 0.0
    before = functional_features(head, head[0].weight, r)
    with torch.no_grad():
        head[0].weight *= 1e-6
        head[1].running_mean *= 1e-6
        head[1].running_var *= 1e-12
    assert functional_features(head, head[0].weight, r) == before == 7


def test_columns():
    torch.manual_seed(0)
    head = make_projector(10, [8], 4, batch_norm=False).eval()
    head[0].weight.data[:, 6:] = 0
    row = head_sparsity(SparseHead(head, 0.0), torch.randn(50, 10))
    assert (row["groups"], row["active_groups"]) == (18, 14)
    assert (row["features"], row["active_features"]) == (10, 6)
    assert 0 < row["functional_features"] <= 6
    rows = head_sparsity(SparseHead(head, 0.0, groups="output"), torch.randn(50, 10))
    assert (rows["groups"], rows["active_features"]) == (12, 6)
