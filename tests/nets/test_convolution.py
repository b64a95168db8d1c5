"""Quicker arithmetic is the same arithmetic: each way to convolve against torch's own, or against float64 where that errs."""

import pytest
import torch
from torch import nn

from sparsehead_cli.nets import convolution
from sparsehead_cli.nets.convolution import Conv2d

MAPS = [(1, 1), (2, 2), (1, 3), (3, 2), (4, 4), (5, 7)]


@pytest.fixture
def always(monkeypatch):
    """The products place by place are taken whatever the shape, not where they are quicker."""
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 1)


def both(ours: Conv2d, x: torch.Tensor, precision: torch.dtype = torch.float64) -> list[list[torch.Tensor]]:
    """Outputs, and gradients of inputs and weights, of ours and of torch's convolution in `precision`."""
    theirs = nn.Conv2d(*ours.weight.shape[1::-1], ours.kernel_size, ours.stride, ours.padding, bias=False)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer, at in ((ours, x), (theirs.to(precision), x.to(precision))):
        at = at.detach().requires_grad_()
        y = layer(at)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        results.append([y, *torch.autograd.grad(y, (at, layer.weight), grad)])
    return results


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_shape_agrees_with_torch(kernel, stride, dtype):
    count = 0
    for padding in range(kernel // 2 + 2):
        for height, width in MAPS:
            if min(height, width) + 2 * padding >= kernel:
                layer = Conv2d(6, 10, kernel, stride, padding).to(dtype)
                x = torch.randn(4, 6, height, width, dtype=dtype).to(memory_format=torch.channels_last)
                for mine, theirs in zip(*both(layer, x), strict=True):
                    torch.testing.assert_close(mine.double(), theirs, atol=1e-4, rtol=1e-5)
                count += 1
    assert count >= 9


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "channels", "way"),
    [
        (3, 1, 2, 128, "as_linear"),  # the last block of the default network
        (3, 2, 4, 128, "weight_gradient"),  # the convolution before it
        (3, 1, 4, 128, "weight_gradient"),  # the last stage of ResNet-18 at 32x32
        (3, 1, 16, 128, ""),
        (3, 1, 4, 64, ""),
        (1, 2, 4, 128, ""),
    ],
)
def test_the_way_follows_the_shape_and_only_in_training(monkeypatch, kernel, stride, size, channels, way):
    called = []
    for name in ("as_linear", "weight_gradient"):
        inner = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *args, name=name, inner=inner: called.append(name) or inner(*args))
    layer = Conv2d(3, channels, kernel, stride, kernel // 2)
    x = torch.randn(2, 3, size, size)
    layer(x).sum().backward()
    assert called == ([way] if way else [])
    called.clear()
    with torch.no_grad():
        layer(x)
    layer.eval()(x)
    layer.train().requires_grad_(False)(x)
    assert not called


def test_stride_without_a_window_is_right_for_few_channels():
    # torch's own gave other numbers at each call here: oneDNN wrote beyond its memory
    for channels in (1, 3, 4, 7):
        layer = Conv2d(channels, 8, 1, 2).to(memory_format=torch.channels_last)
        x = torch.randn(16, channels, 8, 8).to(memory_format=torch.channels_last)
        for mine, theirs in zip(*both(layer, x), strict=True):
            torch.testing.assert_close(mine.double(), theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_under_autocast_it_rounds_as_torch_does(size):
    layer = Conv2d(16, 128, 3, 1, 1)
    x = torch.randn(8, 16, size, size).to(memory_format=torch.channels_last)
    exact = both(layer, x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = both(layer, x, torch.float32)
    assert mine[0].dtype == theirs[0].dtype == torch.bfloat16
    assert mine[2].dtype == torch.float32
    for a, b, c in zip(mine, theirs, exact, strict=True):
        assert (a.double() - c).norm() <= 1.5 * (b.double() - c).norm()


def test_gradients_of_the_weights_lie_in_memory_as_the_weights_do():
    # otherwise each step copies them once more into the order of the weights
    layer = Conv2d(16, 128, 3, 2, 1).to(memory_format=torch.channels_last)
    layer(torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_traced_into_one_graph_it_is_the_same(size):
    """As the compiler traces it, forward and backward; that graphs become code is the compiler's matter, and takes a minute."""
    layer = Conv2d(16, 128, 3, 1, 1)
    x = torch.randn(8, 16, size, size)
    grads = []
    for convolve in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        layer.weight.grad = None
        convolve(x).square().sum().backward()
        grads.append(layer.weight.grad)
    torch.testing.assert_close(*grads)
