"""The backbone of a run: one of ours, timm's, Hugging Face's, or what somebody's own `module:Class` makes of the data."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from sparsehead_cli.data.contract import ImageSpec, Source
from sparsehead_cli.data.text import TEXT, TextSpec, decoded
from sparsehead_cli.data.tokens import train_vocabulary
from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.foreign.berts import PREFIX as HUGGING_FACE
from sparsehead_cli.foreign.berts import is_pretrained, shape_of, vocabulary_text
from sparsehead_cli.foreign.timm_models import PREFIX as TIMM
from sparsehead_cli.foreign.timm_models import TimmBackbone
from sparsehead_cli.machine.plugins import load as plugin
from sparsehead_cli.nets.backbones import BACKBONES, make_backbone
from sparsehead_cli.nets.bert import BERTS, VOCABULARY, Bert, vocabulary_from
from sparsehead_cli.nets.vit import VITS, make_vit
from sparsehead_cli.runs.checkpoint import checkpoint_file, is_checkpoint, load_checkpoint
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.encoder_file import is_encoder_file, load_encoder_file

T = TypeVar("T")


def build_backbone(config: Config, spec: object) -> nn.Module:
    """A backbone of ours, timm:NAME, hf:PATH, or what `module:Class` makes of the spec; its weights are of the global generator.

    Raises: SparseheadError for one without `dim`, for widths or blocks of a network that is not ours, and for a network of images
    where there are sentences, or the other way round.
    """
    require_reading(config, spec)
    sizes = {"widths": config.widths, "blocks": config.blocks}
    given = [f"{name} {','.join(map(str, value))}" for name, value in sizes.items() if value is not None]
    if config.backbone in BACKBONES:
        backbone = make_backbone(config.backbone, channels=spec.channels, image_size=spec.size, **sizes)
    elif config.backbone in VITS:
        backbone = make_vit(config.backbone, channels=spec.channels, image_size=spec.size, pooling=config.pooling, **sizes)
    elif given:
        raise SparseheadError(
            f"{' and '.join(given)}: that is of our own networks, and backbone {config.backbone} is none of them."
        )
    elif isinstance(spec, TextSpec) and not FIELDS["backbone"].is_plug_in(config.backbone):
        backbone = Bert(shape_of(config.backbone, spec.vocabulary), spec.vocabulary, config.pooling)
    elif config.backbone.startswith(TIMM):
        backbone = TimmBackbone(config.backbone.removeprefix(TIMM), spec.size, {"in_chans": spec.channels})
    else:
        backbone = call("backbone", config.backbone, plugin("backbone", config.backbone), spec)
    if type(getattr(backbone, "dim", None)) is not int:
        raise SparseheadError(f"backbone {config.backbone} needs `dim`, the width of its representation, as a whole number.")
    if isinstance(spec, ImageSpec) and not hasattr(backbone, "image"):
        backbone.image = spec.image  # what decoders rebuild
    return backbone


def require_reading(config: Config, spec: object) -> None:
    """Raises: SparseheadError for a backbone that does not read what the data set has."""
    if FIELDS["backbone"].is_plug_in(config.backbone):
        return
    reads_text = config.backbone in BERTS or config.backbone.startswith(HUGGING_FACE)
    if isinstance(spec, TextSpec) and not reads_text:
        raise SparseheadError(
            f"backbone {config.backbone} reads images, and {config.dataset} has sentences. Choose --backbone {', '.join(BERTS)}, "
            "or hf:PATH, a folder of a Hugging Face encoder."
        )
    of_images = {"image_size": config.image_size is not None, "skip_bad_images": config.skip_bad_images}
    if isinstance(spec, TextSpec) and any(of_images.values()):
        given = " and ".join(name for name, is_given in of_images.items() if is_given)
        raise SparseheadError(f"{given}: that is of images, and {config.dataset} has sentences. Leave it out.")
    if reads_text and not isinstance(spec, TextSpec):
        raise SparseheadError(
            f"backbone {config.backbone} reads sentences, and {config.dataset} has none. Choose --dataset wordnet10k."
        )


def vocabulary_of(config: Config, train: Source) -> str:
    """The vocabulary of a run on sentences: of --init, of pretrained weights, or else learnt from the training sentences.

    Of somebody's own backbone it is "": that reads the bytes of the sentences.

    Raises: SparseheadError where files are not there or hold no vocabulary.
    """
    if FIELDS["backbone"].is_plug_in(config.backbone):
        return ""
    require_reading(config, train.spec)
    if config.init is not None:
        return vocabulary_in(checkpoint_file(config.init))
    if is_pretrained(config.backbone):
        return vocabulary_text(config.backbone)
    return train_vocabulary(decoded(train.inputs[TEXT]), BERTS[config.backbone].words)


def vocabulary_in(path: Path) -> str:
    """The vocabulary of a checkpoint of ours. Raises: SparseheadError where it has none."""
    ours = is_checkpoint(path) or is_encoder_file(path)
    read = load_encoder_file if path.suffix == ".safetensors" else load_checkpoint
    weights = read(path)["method"] if ours else {}
    if VOCABULARY not in weights:
        raise SparseheadError(f"--init {path}: it is no network of sentences. Choose another --init, or leave it out.")
    return vocabulary_from(weights[VOCABULARY])


def call(kind: str, name: str, function: Callable[..., T], *arguments: object) -> T:
    """`function(*arguments)`, somebody's own code. Raises: SparseheadError that says what it was, for whatever it raises."""
    try:
        return function(*arguments)
    except SparseheadError:
        raise
    except Exception as error:
        raise SparseheadError(f"{kind} {name} cannot be made: {type(error).__name__}: {one_line(str(error))}.") from error
