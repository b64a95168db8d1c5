"""load(checkpoint) -> an encoder, its head and what makes images its input, for anybody's own Python.

model = sparsehead_cli.load("results/quickstart/simclr-…")
r = model.encoder(model.transform(image))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from sparsehead_cli.data.decoding import decode
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.data.reading import middle
from sparsehead_cli.data.text_views import PlainTokens
from sparsehead_cli.data.tokens import tokens_of
from sparsehead_cli.errors import SparseheadError, of_system, one_line, shown
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # of PIL, with 8 bits a channel
GREY = ("1", "L", "LA")


@dataclass(frozen=True)
class Transform:
    """Images -> the batch that an encoder reads, [B, C, h, w], normalised, on its device; just as `sparsehead evaluate` has them.

    An image is a tensor uint8 [C, H, W], a PIL image, a NumPy array uint8 [H, W] or [H, W, C], or the path of a file; several are
    a tensor [B, C, H, W] or a list. Square tensors and arrays are resized, as the images of a data set in memory are, and so are
    square files and PIL images where `squares_whole`, as those of a data set of squares; of all others the short side is resized
    and the middle cut out.

    Raises: SparseheadError for anything else.
    """

    prepare: Prepare
    device: torch.device
    squares_whole: bool = False

    def __call__(self, images: Any) -> Tensor:
        if isinstance(images, Tensor) and images.ndim == 4:
            return self._batch(images)
        if isinstance(images, Sequence) and not isinstance(images, str):
            if not len(images):
                raise SparseheadError("no image was given: the list is empty.")
            return torch.cat([self._batch(self._one(image)) for image in images])
        return self._batch(self._one(images))

    def _batch(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> [B, C, h, w]."""
        if images.dtype != torch.uint8 or images.shape[1] not in (1, 3) or not images.numel():
            given = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise SparseheadError(f"images are uint8 [B, C, H, W] with C 1 or 3, given {given}.")
        if images.shape[2] != images.shape[3]:
            images = middle(images, self.prepare.image[1])
        return self.prepare(images.to(self.device))

    def _one(self, image: Any) -> Tensor:
        """One image -> uint8 [1, C, H, W]."""
        if isinstance(image, str | Path):
            return self._cut(decoded(Path(image)))
        if isinstance(image, Image.Image):
            return self._cut(from_pil(image))
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
                raise SparseheadError(f"an array is uint8 [H, W] or [H, W, C], given {image.dtype} {list(image.shape)}.")
            return torch.from_numpy(image.copy().reshape(*image.shape[:2], -1)).permute(2, 0, 1)[None]
        if isinstance(image, Tensor) and image.ndim == 3:
            return image[None]
        given = f"a tensor {list(image.shape)}" if isinstance(image, Tensor) else shown(image)
        raise SparseheadError(f"an image is a uint8 tensor [C, H, W], a PIL image, a uint8 array or a path, given {given}.")

    def _cut(self, image: Tensor) -> Tensor:
        """uint8 [C, H, W] -> uint8 [1, C, h, w], as a file of `--dataset` is cut."""
        if self.squares_whole and image.shape[1] == image.shape[2]:
            return image[None]
        return middle(image, self.prepare.image[1])[None]


@dataclass(frozen=True)
class SentenceTransform:
    """A sentence, or a list of them -> the tokens that an encoder reads, on its device.

    Raises: SparseheadError for anything else.
    """

    vocabulary: str
    device: torch.device

    def __call__(self, sentences: str | Sequence[str]) -> dict[str, Tensor]:
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        if not sentences or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
            raise SparseheadError(f"a sentence is text, or several are a list of such, given {shown(sentences)}.")
        return PlainTokens()(tokens_of(sentences, self.vocabulary).to(self.device).inputs)


@dataclass(frozen=True)
class Model:
    """A trained encoder, images or sentences -> r [B, D], and its head, r -> z [B, E]; both in eval mode, without gradients.

    `transform` makes images, or sentences, what the encoder reads. `report` has a line for each thing that was found in a file
    of somebody else's, or guessed about it; it is empty for a run of ours.
    """

    name: str
    encoder: nn.Module
    head: nn.Module
    transform: Transform | SentenceTransform
    report: tuple[str, ...] = ()


def load(checkpoint: str | Path, options: LoadOptions) -> Model:
    """The encoder of a run of ours (its folder or checkpoint), of an exported .safetensors, or of anything that `evaluate` reads.

    Train it further after `model.encoder.requires_grad_(True).train()`.

    Raises: SparseheadError as `sparsehead evaluate`.
    """
    subject = load_subject(checkpoint, options)
    network = subject.network
    if subject.vocabulary:
        transform = SentenceTransform(subject.vocabulary, subject.device)
    else:
        transform = Transform(subject.prepare, subject.device, subject.takes_squares_whole)
    return Model(str(subject.columns["run"]), network.backbone, network.projector, transform, subject.report)


def decoded(path: Path) -> Tensor:
    """An image file, uint8 [3, H, W]. Raises: SparseheadError for one that cannot be read."""
    try:
        return decode(path)
    except OSError as error:
        raise of_system(f"cannot read {path}", error, "Give another file.") from None
    except Exception as error:  # whatever its decoder raises
        raise SparseheadError(f"{path} cannot be read as an image: {one_line(str(error))}.") from None


def from_pil(image: Image.Image) -> Tensor:
    """A PIL image, turned as its EXIF orientation says, uint8 [C, H, W]: grey stays grey, alpha is dropped.

    Raises: SparseheadError for more than 8 bits a channel.
    """
    if image.mode not in MODES:
        raise SparseheadError(f"a PIL image of mode {image.mode} has no 8 bits a channel: convert it, image.convert('RGB').")
    turned = ImageOps.exif_transpose(image).convert("L" if image.mode in GREY else "RGB")
    pixels = torch.from_numpy(np.array(turned))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
