"""The objective of methods that rebuild images."""

from torch import Tensor


def reconstruction(decoded: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error over the pixels that `weight` [B, 1, h, w] selects with 1, a number a sample, [B, C, h, w] -> [B]."""
    error = (decoded - target).square().mean(dim=1, keepdim=True)
    return (error * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
