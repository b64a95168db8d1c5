"""ResNets and heads as papers and repositories define them, written anew and apart from the package: for comparing numbers.

Names of parts are those of the published files. A network here is a dict of tensors and a function of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {"basic": (2, 2, 2, 2), "bottleneck": (3, 4, 6, 3)}
WIDTHS = (4, 6, 8, 10)


def normal(shape, generator, gain=1.0):
    return gain * torch.randn(shape, generator=generator)


def norm(state, name, width, generator):
    """A BatchNorm that has been trained for a while."""
    state[f"{name}.weight"] = 1 + normal(width, generator, 0.1)
    state[f"{name}.bias"] = normal(width, generator, 0.1)
    state[f"{name}.running_mean"] = normal(width, generator, 0.1)
    state[f"{name}.running_var"] = 1 + 0.5 * torch.rand(width, generator=generator)
    state[f"{name}.num_batches_tracked"] = torch.tensor(700)


def conv(state, name, inputs, outputs, kernel, generator):
    state[f"{name}.weight"] = normal((outputs, inputs, kernel, kernel), generator, (2 / (inputs * kernel**2)) ** 0.5)


def resnet_state(seed: int, block: str = "basic", kernel: int = 7) -> dict[str, Tensor]:
    """The tensors of a narrow ResNet-18 or -50 by torchvision's names, without fc."""
    generator, state = torch.Generator().manual_seed(seed), {}
    conv(state, "conv1", 3, WIDTHS[0], kernel, generator)
    norm(state, "bn1", WIDTHS[0], generator)
    channels = WIDTHS[0]
    for stage, (count, width) in enumerate(zip(BLOCKS[block], WIDTHS, strict=True), 1):
        out = width if block == "basic" else 4 * width
        for i in range(count):
            name = f"layer{stage}.{i}"
            kernels = (3, 3) if block == "basic" else (1, 3, 1)
            ins, outs = (channels, *[width] * (len(kernels) - 1)), (*[width] * (len(kernels) - 1), out)
            for j, (k, a, b) in enumerate(zip(kernels, ins, outs, strict=True), 1):
                conv(state, f"{name}.conv{j}", a, b, k, generator)
                norm(state, f"{name}.bn{j}", b, generator)
            if i == 0 and (stage > 1 or channels != out):
                conv(state, f"{name}.downsample.0", channels, out, 1, generator)
                norm(state, f"{name}.downsample.1", out, generator)
            channels = out
    return state


def batch_norm(state, name, x):
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), training=False)


def resnet(state, x, *, padding, stem_stride, pool, stride="3x3"):
    """Images -> r as He et al. 2016 define it, with the stem and the place of a bottleneck's stride as they are given."""
    x = F.conv2d(x, state["conv1.weight"], stride=stem_stride, padding=padding)
    x = F.relu(batch_norm(state, "bn1", x))
    if pool:
        x = F.max_pool2d(x, 3, 2, 1)
    bottleneck = "layer1.0.conv3.weight" in state
    for stage in (1, 2, 3, 4):
        for i in range(BLOCKS["bottleneck" if bottleneck else "basic"][stage - 1]):
            name, halves = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            where = {"1x1": 1, "3x3": 2}[stride] if bottleneck else 1
            y = x
            for j in (1, 2, 3) if bottleneck else (1, 2):
                weight = state[f"{name}.conv{j}.weight"]
                y = F.conv2d(y, weight, stride=halves if j == where else 1, padding=weight.shape[-1] // 2)
                y = batch_norm(state, f"{name}.bn{j}", y)
                y = F.relu(y) if j < (3 if bottleneck else 2) else y
            if f"{name}.downsample.0.weight" in state:
                x = batch_norm(state, f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=halves))
            x = F.relu(x + y)
    return x.mean(dim=(2, 3))


def linear(state, name, inputs, outputs, generator, bias=True):
    state[f"{name}.weight"] = normal((outputs, inputs), generator, (2 / inputs) ** 0.5)
    if bias:
        state[f"{name}.bias"] = normal(outputs, generator, 0.1)


def head_state(seed: int, names: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors of a head. `names`: layers with spaces between; those that end in ":" are norms."""
    generator, state, widths = torch.Generator().manual_seed(100 + seed), {}, list(widths)
    for name in names.split():
        if name.endswith(":"):
            norm(state, name[:-1], widths[0], generator)
        else:
            linear(state, name, widths[0], widths[1], generator)
            widths.pop(0)
    return state


def head(state, names: str, r: Tensor) -> Tensor:
    """r -> z through layers by name; "relu", "gelu" and functions that are given stand between them."""
    for name in names:
        if callable(name):
            r = name(r)
        elif name.endswith(":"):
            r = batch_norm(state, name[:-1], r)
        else:
            r = F.linear(r, state[f"{name}.weight"], state[f"{name}.bias"])
    return r


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}
