"""Which network of torchvision or timm computes what an encoder computes, and the Python that makes it.

Both have the ResNets of He et al. 2016 under the names of our own parts. What they have not is a stem for small images: there a
convolution is put in the place of theirs, as everybody does on CIFAR. Networks of other widths or depths have no counterpart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.networks import bare
from sparsehead_cli.foreign.resnets import DEPTHS
from sparsehead_cli.foreign.timm_models import TimmBackbone, require_timm
from sparsehead_cli.nets.backbones import Bottleneck, ResNet

WIDTHS = (64, 128, 256, 512)  # of the published ResNets
OF_IMAGENET = (3, (7, 7), (2, 2), (3, 3))  # channels, kernel, stride and padding of their first convolution
EITHER = "--to onnx holds the network itself, --to safetensors is read back by sparsehead_cli.load"


@dataclass
class Counterpart:
    """Somebody else's network: the module, and the lines of Python that make it, as `model`."""

    model: nn.Module
    lines: list[str] = field(default_factory=list)

    def put(self, name: str, module: nn.Module, text: str) -> None:
        """Put a module in the place of one of the model's, in the network and in the lines."""
        setattr(self.model, name, module)
        self.lines.append(f"model.{name} = {text}")


def torchvision_counterpart(backbone: nn.Module, name: str) -> Counterpart:
    """torchvision's ResNet that computes what `backbone` does, its weights not yet in it; `name` is what it is called for people.

    Raises: SparseheadError that says what torchvision lacks.
    """
    if not isinstance(backbone, ResNet):
        instead = "--to timm" if isinstance(backbone, TimmBackbone) else "--to safetensors or --to onnx"
        raise SparseheadError(f"{name} is no ResNet, and torchvision has no network of these names. Export it {instead}.")
    published = published_name(backbone, name, "torchvision")
    import torchvision.models  # takes a second

    counterpart = Counterpart(getattr(torchvision.models, published)(), [f"model = torchvision.models.{published}()"])
    counterpart.put("fc", nn.Identity(), "torch.nn.Identity()")
    change_stem(counterpart, backbone, relu="relu")
    return counterpart


def timm_counterpart(backbone: nn.Module, name: str) -> Counterpart:
    """timm's model that computes what `backbone` does, without a classifier. Raises: SparseheadError that says what timm lacks."""
    if isinstance(backbone, TimmBackbone):
        timm = require_timm()
        arguments = ", ".join(f"{key}={value!r}" for key, value in backbone.made_with.items())
        model = timm.create_model(backbone.name, **backbone.made_with)
        return Counterpart(model, [f'model = timm.create_model("{backbone.name}", {arguments})'])
    if not isinstance(backbone, ResNet):
        raise SparseheadError(f"{name} is neither a ResNet nor one of timm's models. {EITHER}.")
    published = published_name(backbone, name, "timm")
    try:
        timm = require_timm()
    except SparseheadError:
        raise SparseheadError(
            f"--to timm makes timm's {published} to compare with, and timm is not installed: pip install 'sparsehead[timm]'. "
            "Without it, --to torchvision has the same names."
        ) from None
    model = timm.create_model(published, num_classes=0)
    counterpart = Counterpart(model, [f'model = timm.create_model("{published}", num_classes=0)'])
    change_stem(counterpart, backbone, relu="act1")
    return counterpart


def published_name(backbone: ResNet, name: str, package: str) -> str:
    """What the ResNet is called in a package: resnet18. Raises: SparseheadError that says why it has none."""
    stages = [getattr(backbone, stage) for stage in backbone.layers]
    block, blocks = type(stages[0][0]), tuple(len(stage) for stage in stages)
    widths = tuple(stage[0].conv1.out_channels for stage in stages)
    published = DEPTHS.get((block, blocks), "")
    if widths != WIDTHS or published in ("", "resnet9"):
        named = ", ".join(f"{known} {' '.join(map(str, depths))}" for (_, depths), known in DEPTHS.items() if known != "resnet9")
        raise SparseheadError(
            f"{package} has no network like {name}: its stages have {', '.join(map(str, blocks))} blocks of "
            f"{', '.join(map(str, widths))} channels, and those of {package}'s ResNets have {', '.join(map(str, WIDTHS))} channels "
            f"and {named} blocks. {EITHER}."
        )
    if block is Bottleneck and any(stage[0].conv1.stride != (1, 1) for stage in stages):
        raise SparseheadError(f"{package}'s {published} strides in the 3x3 convolutions, and {name} in the 1x1 ones. {EITHER}.")
    return published


def change_stem(counterpart: Counterpart, backbone: ResNet, *, relu: str) -> None:
    """Give a published ResNet the stem of `backbone`, where that is not the one for ImageNet."""
    conv = backbone.conv1
    if (conv.in_channels, conv.kernel_size, conv.stride, conv.padding) != OF_IMAGENET:
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0])
        made = nn.Conv2d(*sizes, bias=False)
        text = "torch.nn.Conv2d({}, {}, {}, stride={}, padding={}, bias=False)".format(*sizes)
        counterpart.put("conv1", made, text)
    if isinstance(backbone.maxpool, nn.Identity):
        counterpart.put("maxpool", nn.Identity(), "torch.nn.Identity()")
    if isinstance(backbone.relu, nn.Identity):
        counterpart.put(relu, nn.Identity(), "torch.nn.Identity()")


@torch.no_grad()
def require_equal(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], image: tuple[int, ...], what: str) -> float:
    """The relative difference of two encoders' r of random images, |a - b| / |a|, which rounding leaves.

    Raises: SparseheadError where it is more than rounding: the file would be of another network.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for count in (1, 3):
        images = torch.randn(count, *image, generator=generator)
        expected, given = ours(images).double(), theirs(images).double()
        difference = float((expected - given).norm() / expected.norm().clamp(min=1e-12)) if given.shape == expected.shape else 1.0
        worst = max(worst, difference)
    if not worst <= ROUNDING:
        raise SparseheadError(f"{what} gives another r than the encoder (relative difference {worst:.1e}). Nothing was written.")
    return worst


def plain_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights by the names that torchvision or timm have for them, on the CPU, each with its own numbers."""
    return {name: value.detach().cpu().contiguous() for name, value in bare(backbone).state_dict().items()}


ROUNDING = 1e-5  # what the sums of a deep network may differ by in float32, relative to their size
