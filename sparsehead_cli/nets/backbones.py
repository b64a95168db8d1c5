"""Images -> representation r. Residual networks with torchvision's state_dict keys, so weights go both ways."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.nets.convolution import Conv2d
from sparsehead_cli.nets.recompute import recomputed


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He et al. 2016, figure 5 left."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, width, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides), 1x1 to four times the width. Source: He et al. 2016; stride as in torchvision's v1.5."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, stride, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = Conv2d(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The projection on the shortcut, or None where the identity has the right shape."""
    if stride == 1 and channels_in == channels_out:
        return None
    conv = Conv2d(channels_in, channels_out, 1, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Images [B, C, h, w] -> representation [B, D], D = `dim`: the globally averaged last stage.

    `image` is the (C, h, w) that it is made for; other sizes pass as well. `stem` is "imagenet" (7x7 stride 2, max-pool),
    "small" (3x3 stride 1) or "strided" (3x3 stride 2).
    Stage i has `blocks[i]` blocks of `widths[i]` channels; every stage but the first halves the map.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "small",
        image: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        kernel, stride = STEMS[stem]
        self.image = image
        self.conv1 = Conv2d(image[0], widths[0], kernel, stride, padding=kernel // 2)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        self.dim = widths[0]
        self.stem = stem
        self.grad_checkpointing = False
        self.layers = [f"layer{i + 1}" for i in range(len(blocks))]
        for name, count, width in zip(self.layers, blocks, widths, strict=True):
            setattr(self, name, self._stage(block, count, width, stride=1 if name == "layer1" else 2))
        init_residual(self)

    def _stage(self, block: type, count: int, width: int, stride: int) -> nn.Sequential:
        layers = []
        for i in range(count):
            layers.append(block(self.dim, width, stride if i == 0 else 1))
            self.dim = width * block.expansion
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean(dim=(2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last stage before it is averaged, [B, C, h, w] -> [B, D, h', w']."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.layers:
            stage = getattr(self, name)
            if self.grad_checkpointing and torch.is_grad_enabled():
                for block in stage:
                    x = recomputed(block, x)
            else:
                x = stage(x)
        return x

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the backward pass computes each residual block again, instead of keeping its activations. As timm's."""
        self.grad_checkpointing = enable

    def stages(self) -> list[nn.Module]:
        """What has weights, from input to output: convolution and norm of the stem, then the stages of blocks."""
        return [self.conv1, self.bn1, *(getattr(self, name) for name in self.layers)]


def init_residual(net: nn.Module) -> None:
    """Kaiming normal (fan out) for convolutions; the last norm of a block starts at zero (Goyal et al. 2017, 5.1)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing no values, torch would import its compiler: 2 s
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in net.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.zeros_(last.weight)


def stem_for(image_size: int) -> str:
    """The ImageNet stem costs ten points on 32x32 images, so the stem follows the image size."""
    return "imagenet" if image_size > 64 else "small"


def make_backbone(
    name: str,
    *,
    channels: int,
    image_size: int,
    widths: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
) -> ResNet:
    """A named backbone for images [B, channels, image_size, image_size]; `widths` and `blocks` override its own.

    Raises: SparseheadError for an unknown name, or where `widths` and `blocks` do not name the same number of stages.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    block, own_blocks, own_widths, stem = BACKBONES[name]
    blocks, widths = blocks or own_blocks, widths or own_widths
    if len(blocks) != len(widths):
        raise SparseheadError(f"blocks {list(blocks)} and widths {list(widths)} must name the same number of stages.")
    return ResNet(block, blocks, widths, stem or stem_for(image_size), (channels, image_size, image_size))


# kernel, stride
STEMS = {"imagenet": (7, 2), "small": (3, 1), "strided": (3, 2)}
# block, blocks of each stage, widths of each stage, stem (None: by image size)
BACKBONES: dict[str, tuple[type, tuple[int, ...], tuple[int, ...], str | None]] = {
    "narrow": (BasicBlock, (1, 1, 1, 1), (16, 32, 64, 256), "strided"),
    "resnet18": (BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), None),
    "resnet34": (BasicBlock, (3, 4, 6, 3), (64, 128, 256, 512), None),
    "resnet50": (Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), None),
}
