"""The convolution of the residual networks: torch's, with quicker arithmetic on small maps while it trains on a CPU."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Where the map of outputs has at most as many positions and at least as many channels, matrix products are quicker than
# oneDNN's gradient of the weights; benchmarks/convolution.py measures it. bfloat16's own is worse off only on smaller maps.
MOST_POSITIONS = {torch.float32: 64, torch.float64: 64, torch.bfloat16: 16}
LEAST_CHANNELS = 128


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with the same weights, state and results to rounding; square kernels, zeros around, no groups, no bias.

    In the last stages of a small network few positions meet many channels. There oneDNN's gradient of the weights takes two to
    three times as long as its other two products, and a third of the whole step of the default network. So in training on a CPU:

    - where every output sees the whole map, as 3x3 does on 2x2, the convolution is one linear layer of all positions, with no
      product wasted on the zeros around;
    - on other small maps the gradient of the weights is a matrix product for each place of the kernel.

    Elsewhere (other devices, evaluation, export) it is torch's own.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C_out, h_out, w_out]."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        trains = self.training and self.weight.requires_grad and torch.is_grad_enabled()
        if not trains or x.device.type != "cpu":
            return super().forward(x)
        if kernel == 1 and padding == 0 and stride > 1 and self.in_channels < 16:
            # oneDNN's own gradient is wrong here, in silence, where the channels are fewer than its registers hold (its issue 6035)
            return nn.functional.conv2d(x[:, :, ::stride, ::stride], self.weight)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            precision = torch.get_autocast_dtype("cpu")
            x, weight = x.to(precision), weight.to(precision)
        sizes = x.shape[2:]
        outputs = [(size + 2 * padding - kernel) // stride + 1 for size in sizes]
        if all(sees_all(size, out, kernel, stride, padding) for size, out in zip(sizes, outputs, strict=True)):
            return as_linear(x, weight, outputs, stride, padding)
        if kernel > 1 and self.out_channels >= LEAST_CHANNELS and outputs[0] * outputs[1] <= MOST_POSITIONS.get(x.dtype, 0):
            return _QuickWeightGradient.apply(x, weight, stride, padding)
        return self._conv_forward(x, weight, None)


def sees_all(size: int, outputs: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether each of the outputs along one side sees all `size` inputs of it."""
    return kernel > 1 and stride * (outputs - 1) <= padding and size + padding <= kernel


def as_linear(x: Tensor, weight: Tensor, outputs: Iterable[int], stride: int, padding: int) -> Tensor:
    """A convolution whose outputs all see the whole map: [B, C, h, w] and [C_out, C, k, k] -> [B, C_out, h_out, w_out].

    The output at (i, j) multiplies the input at (a, b) by the kernel at (a + padding - i · stride, b + padding - j · stride).
    """
    (height, width), (rows, columns) = x.shape[2:], outputs
    taps = weight.permute(0, 2, 3, 1)
    parts = [
        taps[:, top : top + height, left : left + width]
        for top in range(padding, padding - rows * stride, -stride)
        for left in range(padding, padding - columns * stride, -stride)
    ]
    dense = torch.stack(parts).flatten(0, 1).flatten(1)  # [positions · C_out, h · w · C]
    y = nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), dense)
    return y.view(-1, rows, columns, weight.shape[0]).permute(0, 3, 1, 2)


class _QuickWeightGradient(torch.autograd.Function):
    """A convolution whose gradient of the weights is `weight_gradient`; the rest is torch's."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        return nn.functional.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = nn.grad.conv2d_input(x.shape, weight, grad, stride=ctx.stride, padding=ctx.padding)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad, weight.shape[2], ctx.stride, ctx.padding)
        return grad_x, grad_weight, None, None


def weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient [C_out, C, k, k] of a convolution's weights from its inputs [B, C, h, w] and outputs' gradients.

    Each place of the kernel is one product over all inputs that it meets: the zeros around the map are left out.
    """
    inputs, outputs = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # channels last, as they lie in memory
    result = x.new_empty(outputs.shape[3], kernel, kernel, inputs.shape[3])
    for i in range(kernel):
        out_rows, in_rows = meeting(i - padding, stride, inputs.shape[1], outputs.shape[1])
        for j in range(kernel):
            out_columns, in_columns = meeting(j - padding, stride, inputs.shape[2], outputs.shape[2])
            met = inputs[:, in_rows, in_columns].flatten(0, 2)
            result[:, i, j] = outputs[:, out_rows, out_columns].flatten(0, 2).T @ met
    return result.permute(0, 3, 1, 2)


def meeting(offset: int, stride: int, inputs: int, outputs: int) -> tuple[slice, slice]:
    """Along one side, the outputs whose input stands `offset` from stride · output within the map; and those inputs."""
    first = max(0, -(offset // stride))  # the least with stride · output + offset >= 0
    last = min(outputs, (inputs - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    start = stride * first + offset
    return slice(first, last), slice(start, start + stride * (last - first - 1) + 1, stride)
