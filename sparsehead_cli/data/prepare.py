"""Images as they are measured: not augmented, of the size, the channels and the statistics that a network was trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.augment import resize_weights, separable
from sparsehead_cli.data.colour import luma
from sparsehead_cli.data.contract import Normalisation


@dataclass(frozen=True)
class Prepare:
    """uint8 images of any data set -> the view [B, C, h, w] that a network made for `image` = (C, h, w) expects.

    Grey becomes three equal channels, colour its luma; other sizes are resized (antialiased bicubic). Normalised with the
    statistics of the data that the network was trained on, whatever it is evaluated on. Without an `image` they stay as they are.
    """

    image: tuple[int, int, int] | None
    normalise: Normalisation

    def __call__(self, images: Tensor) -> Tensor:
        channels, *size = self.image or images.shape[1:]
        x = resize(with_channels(images, channels).float().div_(255), tuple(size))
        return laid_out(self.normalise(x))

    def for_views(self, images: Tensor) -> Tensor:
        """What the views of a run are made of: images with the network's channels."""
        return with_channels(images, self.image[0])

    def example(self, device: torch.device) -> Tensor:
        """One image of the network's size, black."""
        return torch.zeros(1, *self.image, dtype=torch.uint8, device=device)


def laid_out(inputs: Tensor) -> Tensor:
    """Images [B, C, h, w] as networks take them, channels last in memory; anything else as it is."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, channels, H, W]; C and `channels` are 1 or 3. Luma is rounded."""
    if images.shape[1] == channels:
        return images
    return images.expand(-1, 3, -1, -1) if channels == 3 else luma(images.float()).round_().to(torch.uint8)


def for_channels(normalise: Normalisation, channels: int) -> Normalisation:
    """The normalisation of colour images for grey ones, by the weights of the luma, or of grey ones for three equal channels."""
    if len(normalise.mean) == channels:
        return normalise
    if channels == 3:
        return Normalisation(normalise.mean * 3, normalise.std * 3)
    grey = [luma(torch.tensor(values)[None, :, None, None]).item() for values in (normalise.mean, normalise.std)]
    return Normalisation((grey[0],), (grey[1],))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, H, W] in [0, 1] -> [B, C, *size], antialiased bicubic; the same tensor where the size fits already."""
    if tuple(x.shape[2:]) == size:
        return x
    weights = []
    for old, new in zip(x.shape[2:], size, strict=True):
        whole = torch.tensor([float(old)], device=x.device)
        weights.append(resize_weights(torch.zeros_like(whole), whole, old, new).expand(len(x), -1, -1))
    return separable(x, *weights).clamp_(0, 1)  # bicubic overshoots
