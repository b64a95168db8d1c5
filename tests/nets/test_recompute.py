"""Activations that are computed again: the same gradient and draws, and buffers that move once."""

import copy

import pytest
import torch
from torch import nn

from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.recompute import in_parts, recomputed, update_once


class Tokens(nn.Module):
    """Inputs by name -> r."""

    def forward(self, inputs):
        return inputs["a"] * inputs["b"].sum(dim=1, keepdim=True)


def small(*more):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), *more, nn.Linear(64, 5))
    return net, torch.randn(8, 1, 6, 6)


def result(net, passed):
    """What a pass makes, all gradients, and all buffers afterwards."""
    torch.manual_seed(1)
    r = passed()
    r.square().sum().backward()
    return [r.detach(), *(p.grad for p in net.parameters()), *net.buffers()]


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_second_pass_sees_what_the_first_saw_and_leaves_no_trace(bfloat16):
    """Dropout draws the same, a spectral norm begins at the same vector, running statistics move once; under autocast as well."""
    more = nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))
    (net, x), (again, _) = small(*more), small(*copy.deepcopy(more))

    def within(call):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return call()

    expected = result(net, lambda: within(lambda: net(x)).float())
    assert_equal(result(again, lambda: within(lambda: recomputed(again, x)).float()), expected)
    assert again[1].num_batches_tracked == 1


def test_running_statistics_move_once_a_part():
    (net, x), (again, _) = small(), small()
    expected = result(net, lambda: torch.stack([net(x[k::4]) for k in range(4)], dim=1).flatten(0, 1))
    assert_equal(result(again, lambda: in_parts(again, x, 4)), expected)
    assert again[1].num_batches_tracked == 4


def test_in_double_precision_parts_have_the_gradient_of_the_batch():
    net, x = small()
    net, x = net.double(), x.double()
    net[1].eval()
    whole = result(net, lambda: net(x))
    whole = [value.clone() for value in whole]
    net.zero_grad()
    for own, expected in zip(result(net, lambda: in_parts(net, x, 4)), whole, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_rows_keep_their_order_and_inputs_may_have_names():
    inputs = {"a": torch.randn(6, 3), "b": torch.randn(6, 2)}
    assert torch.equal(in_parts(Tokens(), inputs, 3), Tokens()(inputs))
    with torch.no_grad():
        assert torch.equal(in_parts(Tokens(), inputs, 2), Tokens()(inputs))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_blocks_are_computed_again_in_parts_as_well(name):
    torch.manual_seed(0)
    net = make_backbone(name, channels=1, image_size=16, widths=(8, 8), blocks=(1, 2))
    again, x = copy.deepcopy(net), torch.randn(4, 1, 16, 16)
    again.set_grad_checkpointing()
    passes = []
    for stage in (again.layer1, again.layer2):
        for block in stage:
            block.conv1.register_forward_hook(lambda *_: passes.append(1))
    assert_equal(result(again, lambda: again(x)), result(net, lambda: net(x)))
    assert len(passes) == 2 * 3
    assert list(again.state_dict()) == list(net.state_dict())
    for one in (net, again):
        one.zero_grad()
    assert_equal(result(again, lambda: in_parts(again, x, 2)), result(net, lambda: in_parts(net, x, 2)))
    passes.clear()
    with torch.no_grad():
        again(x)
    assert len(passes) == 3


def test_networks_that_recompute_by_themselves_move_statistics_once():
    (net, x), (again, _) = small(), small()
    update_once(again)
    expected = result(net, lambda: net(x))
    assert_equal(result(again, lambda: torch.utils.checkpoint.checkpoint(again, x, use_reentrant=False)), expected)
    assert torch.equal(again.eval()(x), net.eval()(x))  # in eval mode nothing is changed by the last backward pass
