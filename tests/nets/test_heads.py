import pytest
import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import Decoder, make_projector


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


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_depth(layers):
    head = make_projector(8, [6] * (layers - 1), 4)
    assert sum(isinstance(m, nn.Linear) for m in head) == layers


def test_no_projector_hands_r_through():
    r = torch.randn(3, 8)
    assert torch.equal(make_projector(8, [6], 4, kind="none")(r), r)


def test_direct_is_the_first_features():
    r = torch.randn(3, 8)
    assert torch.equal(make_projector(8, [6], 4, kind="direct")(r), r[:, :4])


def test_orthogonal_keeps_the_length_of_what_it_reads_and_is_never_trained():
    head = make_projector(8, [6], 4, kind="orthogonal")
    torch.testing.assert_close(head.weight @ head.weight.T, torch.eye(4), atol=1e-6, rtol=0)
    assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("kind", ["direct", "orthogonal"])
@pytest.mark.parametrize("out", [0, 9])
def test_a_part_of_r_is_not_wider_than_r(kind, out):
    with pytest.raises(SparseheadError, match=f"between 1 and 8 for projector {kind}, given {out}"):
        make_projector(8, [], out, kind=kind)


def test_unknown_kind():
    with pytest.raises(SparseheadError, match='unknown projector "linear"; known: mlp, none, orthogonal, direct'):
        make_projector(8, [], 4, kind="linear")


@pytest.mark.parametrize("size", [7, 8, 12, 28, 32, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoder_makes_images_of_the_size_asked_for(size, channels):
    decoder = Decoder(5, (channels, size, size))
    assert decoder(torch.randn(2, 5)).shape == (2, channels, size, size)


def test_decoder_can_learn_an_image():
    torch.manual_seed(0)
    decoder, z, image = Decoder(4, (1, 12, 12)), torch.eye(4), torch.randn(4, 1, 12, 12)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (decoder(z) - image).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
