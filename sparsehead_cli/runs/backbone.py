"""The backbone of a run: one of ours, timm's, or what somebody's own `module:Class` makes of the images."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.foreign.timm_models import PREFIX as TIMM
from sparsehead_cli.foreign.timm_models import TimmBackbone
from sparsehead_cli.machine.plugins import load as plugin
from sparsehead_cli.nets.backbones import BACKBONES, make_backbone
from sparsehead_cli.runs.config import Config

T = TypeVar("T")


def build_backbone(config: Config, spec: object) -> nn.Module:
    """A backbone of ours, timm:NAME, or what `module:Class` makes of the spec, its weights drawn from the global generator.

    Raises: SparseheadError for one without `dim`, and for widths or blocks of a network that is not ours.
    """
    sizes = {"widths": config.widths, "blocks": config.blocks}
    given = [f"{name} {','.join(map(str, value))}" for name, value in sizes.items() if value is not None]
    if config.backbone in BACKBONES:
        backbone = make_backbone(config.backbone, channels=spec.channels, image_size=spec.size, **sizes)
    elif given:
        raise SparseheadError(
            f"{' and '.join(given)}: that is of our own networks, and backbone {config.backbone} is none of them."
        )
    elif config.backbone.startswith(TIMM):
        backbone = TimmBackbone(config.backbone.removeprefix(TIMM), spec.size, {"in_chans": spec.channels})
    else:
        backbone = call("backbone", config.backbone, plugin("backbone", config.backbone), spec)
    if type(getattr(backbone, "dim", None)) is not int:
        raise SparseheadError(f"backbone {config.backbone} needs `dim`, the width of its representation, as a whole number.")
    if isinstance(spec, ImageSpec) and not hasattr(backbone, "image"):
        backbone.image = spec.image  # what decoders rebuild
    return backbone


def call(kind: str, name: str, function: Callable[..., T], *arguments: object) -> T:
    """`function(*arguments)`, somebody's own code. Raises: SparseheadError that says what it was, for whatever it raises."""
    try:
        return function(*arguments)
    except SparseheadError:
        raise
    except Exception as error:
        raise SparseheadError(f"{kind} {name} cannot be made: {type(error).__name__}: {one_line(str(error))}.") from error
