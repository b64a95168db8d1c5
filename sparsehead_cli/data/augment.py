"""An image batch -> views, a whole batch at a time, on the device where the images are.

Every geometric step (crop, resize, flip, blur) is linear and separable, so it is applied as two batched matrix products,
one over rows and one over columns: `out = A_y · image · A_xᵀ` with one pair of matrices a sample. That is exact (the bicubic
weights are those of PIL and of torchvision with antialias=True), needs no loop over samples and no padding, and a flip
costs nothing: it reverses the rows of A_x.

Random numbers come from one CPU generator, in one draw a view: the same views on every device, and nothing to wait for.
Distributions are torchvision's (RandomResizedCrop, ColorJitter, RandomGrayscale, GaussianBlur, RandomSolarize), per sample,
with one exception: the order of the four colour steps is drawn once a batch, not once a sample.
"""

import math
import typing
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.data.colour import blend, luma, shift_hue, solarize
from sparsehead_cli.data.contract import GLOBAL, LOCAL, Inputs, Normalisation, View
from sparsehead_cli.machine.ranges import Range

ATTEMPTS = 10  # boxes tried before the fall-back, as torchvision does


def strength(default: object, help: str, names: str = "", **bounds: object) -> typing.Any:
    """A strength of a view: its default, what it is, and its Range or the table with its names. It is read as a setting is."""
    return field(default=default, metadata={"help": help, "names": names, "bounds": Range(**bounds)})


def probability(default: float, of: str) -> typing.Any:
    """The strength that is the probability of a step."""
    return strength(default, f"Probability of {of}.", least=0, most=1)


@dataclass(frozen=True)
class Augmentation:
    """The strengths of one view, its role and its side. Colour strengths as in torchvision's ColorJitter; `*_p`: probabilities."""

    area: tuple[float, float] = strength((0.08, 1.0), "Share of the image that a crop has.", above=0, most=1, count=2, rising=True)
    ratio: tuple[float, float] = strength((3 / 4, 4 / 3), "Width by height of a crop.", least=0.01, most=100, count=2, rising=True)
    brightness: float = strength(0.8, "Factors from 1 less this to 1 more.", least=0, most=100)
    contrast: float = strength(0.8, "Likewise.", least=0, most=100)
    saturation: float = strength(0.8, "Likewise; of colour images.", least=0, most=100)
    hue: float = strength(0.2, "Turns at most, of the colour circle; of colour images.", least=0, most=0.5)
    jitter_p: float = probability(0.8, "these four, together")
    grey_p: float = probability(0.2, "grey; of colour images")
    blur_p: float = probability(0.0, "blur")
    blur_sigma: tuple[float, float] = strength((0.1, 2.0), "In pixels of the view.", least=0.01, most=100, count=2, rising=True)
    solarize_p: float = probability(0.0, "solarization: what is lighter than half is inverted")
    flip_p: float = probability(0.5, "a flip, left to right")
    role: str = strength(GLOBAL, "{names}: most of an image, or a small part of it.", names="data.contract:ROLES")
    # of the view, as a share of the run's image size: 3/7 makes the 96 of 224 pixels of SwAV and DINO
    side: float = strength(1.0, "Side of the view, as a share of the image size.", above=0, most=1)

    def size_in(self, size: int) -> int:
        """The view's side in pixels where whole views have `size`."""
        return max(1, round(self.side * size))


@dataclass(frozen=True)
class Crops:
    """How a batch of training images is cropped while it is read: one crop a view of `recipe`, in views of
    `size` pixels.

    `step` is the step of batch 0 of the order, `first` the place of a batch's first image in the batch that all processes
    share: with the seed and the place behind it they fix each box.
    """

    recipe: tuple[Augmentation, ...]
    size: int
    seed: int
    step: int = 0
    first: int = 0


@dataclass(frozen=True)
class ImageViews:
    """Images -> the views of a recipe, on the device of the images; a `Views` of the contract.

    `size` is the side of a view whose Augmentation does not say a smaller one. The images may be one of several equal parts
    of a batch: with `part` = (number from 0, of how many) they get the views that they have in the whole batch.
    """

    recipe: tuple[Augmentation, ...]
    normalise: Normalisation
    size: int
    part: tuple[int, int] = (0, 1)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(augmentation.role for augmentation in self.recipe)

    def __call__(self, inputs: Inputs, generator: torch.Generator) -> list[View]:
        """uint8 [B, C, H, W] -> a list of V normalised float32 views [B, C, size, size].

        Crops that were made where the images are read, [B, V, C, size, size] for the views of each size, are only flipped and
        coloured. Consecutive views of equal strengths are made as one batch of their images: fewer, larger steps.
        """
        views: list[View] = []
        used: dict[int, int] = defaultdict(int)  # crops of each size that are views already
        for augmentation, equal in groupby(self.recipe):
            count, size = len(list(equal)), augmentation.size_in(self.size)
            images = inputs[str(size)] if isinstance(inputs, dict) else inputs
            cropped = images.ndim == 5
            if cropped:
                images = images[:, used[size] : used[size] + count].transpose(0, 1).flatten(0, 1)
                used[size] += count
            else:
                images = images.repeat(count, 1, 1, 1)
            made = make_view(images, augmentation, size, generator, cropped=cropped, count=count, part=self.part)
            views += [View(x, augmentation.role) for x in self.normalise(made).chunk(count)]
        return views

    def read(self, seed: int, step: int, first: int) -> Crops:
        """How images that stream from files are cropped where they are read."""
        return Crops(self.recipe, self.size, seed, step, first)


def make_view(
    images: Tensor,
    view: Augmentation,
    size: int,
    generator: torch.Generator,
    *,
    cropped: bool = False,
    count: int = 1,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """uint8 [B, C, H, W] -> one augmented view, float32 in [0, 1], [B, C, size, size]; `cropped`: that was done before.

    B is `count` times the images, one behind the other, of this `part` of the batch.
    """
    draw = Draw(len(images), generator, images.device, count=count, part=part)
    x = flip(images, view, draw) if cropped else random_resized_crop(images, view, size, draw)
    x = jitter(x, view, draw)
    if view.grey_p and x.shape[1] == 3:
        greyed = draw.chosen(view.grey_p)
        x.index_copy_(0, greyed, luma(x[greyed]).expand(-1, 3, -1, -1))
    if view.blur_p:
        blurred, sigma = draw.chosen(view.blur_p), draw.uniform(*view.blur_sigma).flatten()
        x.index_copy_(0, blurred, gaussian_blur(x[blurred], sigma[blurred], view.blur_sigma[1]))
    if view.solarize_p:
        inverted = draw.chosen(view.solarize_p)
        x.index_copy_(0, inverted, solarize(x[inverted]))
    return x


class Draw:
    """The random numbers of one view of a batch: one table [B, COLUMNS] of uniforms, handed out a column at a time.

    `count` views of equal strengths may be drawn as one batch. Of a batch that is shared in equal parts, part (number, of)
    gets the rows that its images have in the whole batch's table.
    """

    COLUMNS = 2 * ATTEMPTS + 16

    def __init__(
        self, batch: int, generator: torch.Generator, device: torch.device, *, count: int = 1, part: tuple[int, int] = (0, 1)
    ) -> None:
        number, of = part
        table = torch.rand(count, of, batch // count, self.COLUMNS, generator=generator)[:, number].flatten(0, 1)
        self.order = torch.randperm(4, generator=generator).tolist()  # of the colour steps; from the CPU: no wait
        self._drawn, self._table, self._next = table, without_waiting(table, device), 0

    def unit(self, columns: int = 1) -> Tensor:
        """Uniform on [0, 1), [B, columns]."""
        self._next += columns
        assert self._next <= self.COLUMNS
        return self._table[:, self._next - columns : self._next]

    def uniform(self, low: float, high: float) -> Tensor:
        """Uniform on [low, high), [B, 1, 1, 1]."""
        return (low + (high - low) * self.unit())[:, :, None, None]

    def chosen(self, p: float) -> Tensor:
        """The rows to which it happens, each with probability p, int64 [n]. A step is done for these alone."""
        self.unit()
        rows = np.flatnonzero(self._drawn[:, self._next - 1].numpy() < p)  # on the processor, so that a device is not waited for
        return without_waiting(torch.from_numpy(rows), self._table.device)


def without_waiting(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor, copied to a device which gets there when it does."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


# ---------------------------------------------------------------------------------------------- geometry


def random_resized_crop(images: Tensor, view: Augmentation, size: int, draw: Draw) -> Tensor:
    """uint8 [B, C, H, W] -> bicubic crops, flipped with probability flip_p, float32 in [0, 1], [B, C, size, size]."""
    batch, channels, height, width = images.shape
    top, left, rows, columns = random_boxes(view, height, width, draw)
    if height == width:  # both matrices in one go
        starts, lengths = torch.cat([top, left]), torch.cat([rows, columns])
        a_y, a_x = resize_weights(starts, lengths, height, size).chunk(2)
    else:
        a_y, a_x = resize_weights(top, rows, height, size), resize_weights(left, columns, width, size)
    flipped = draw.chosen(view.flip_p)
    a_x.index_copy_(0, flipped, a_x[flipped].flip(1))
    x = images.reshape(batch, channels * height, width).float().mul_(1 / 255)
    return separable(x.view_as(images), a_y, a_x).clamp_(0, 1)  # bicubic overshoots


def flip(crops: Tensor, view: Augmentation, draw: Draw) -> Tensor:
    """uint8 [B, C, h, w] -> the same, each flipped with probability flip_p, float32 in [0, 1]."""
    x = crops.float().mul_(1 / 255)
    flipped = draw.chosen(view.flip_p)
    return x.index_copy_(0, flipped, x[flipped].flip(3))


def random_boxes(view: Augmentation, height: int, width: int, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (top, left, rows, columns), whole numbers as float32, each [B]; torchvision's RandomResizedCrop.

    Area uniform in `view.area`, aspect ratio log-uniform in `view.ratio`; the first of ten attempts that fits is taken,
    and where none does the largest centred box whose ratio is allowed.
    """
    low, high = view.ratio
    area = (view.area[0] + (view.area[1] - view.area[0]) * draw.unit(ATTEMPTS)) * (height * width)
    ratio = torch.exp(math.log(low) + math.log(high / low) * draw.unit(ATTEMPTS))
    columns, rows = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    rows = torch.where(found, rows.gather(1, first).squeeze(1), min(height, round(width / low)))
    columns = torch.where(found, columns.gather(1, first).squeeze(1), min(width, round(height * high)))
    top = torch.where(found, (draw.unit().squeeze(1) * (height - rows + 1)).floor(), ((height - rows) / 2).floor())
    left = torch.where(found, (draw.unit().squeeze(1) * (width - columns + 1)).floor(), ((width - columns) / 2).floor())
    return top, left, rows, columns


def resize_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """The matrix that cuts [start, start + length) out of size_in pixels and resizes it, [B] -> [B, size_out, size_in].

    Antialiased bicubic (a = -0.5), rows sum to 1, nothing is read outside the box: what torchvision's
    `resized_crop(..., BICUBIC, antialias=True)` computes.
    """
    taps = math.ceil(4 * max(1, size_in / size_out)) + 1  # the filter reaches over two pixels to each side, of the wider kind
    scale = (length / size_out)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size_out, device=start.device) + 0.5)[:, None] * scale
    reach = scale.clamp(min=1)  # shrinking widens the filter, enlarging does not narrow it
    pixel = (centre - 2 * reach - 0.5).floor() + torch.arange(taps, device=start.device)
    weight = cubic((pixel + 0.5).sub_(centre).div_(reach).abs_())
    weight *= (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight.div_(weight.sum(dim=2, keepdim=True))
    matrix = torch.zeros(len(start), size_out, size_in, device=start.device)
    return matrix.scatter_add_(2, pixel.clamp_(0, size_in - 1).long(), weight)  # beyond the box the weights are zeros


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel of x >= 0, elementwise, with a = -0.5.

    The two pieces of Keys 1981, eq. 15, as one sum without a branch: ½p²(p - 1) + q²(1 - 2q), p = (2 - x)₊, q = (1 - x)₊.
    """
    p, q = (2 - x).clamp_(min=0), (1 - x).clamp_(min=0)
    return (p * p).mul_(p.sub_(1)).mul_(0.5).addcmul_(q * q, 1 - 2 * q)


def gaussian_blur(x: Tensor, sigma: Tensor, sigma_max: float) -> Tensor:
    """Blur each image with its own sigma [B], borders reflected, [B, C, h, w] -> [B, C, h, w].

    The kernel reaches to 3 * sigma_max (at most the image's side less one) and sums to 1, as torchvision's with that size.
    """
    height, width = x.shape[2:]
    a_y = blur_weights(sigma, height, sigma_max)
    return separable(x, a_y, a_y if height == width else blur_weights(sigma, width, sigma_max))


def blur_weights(sigma: Tensor, size: int, sigma_max: float) -> Tensor:
    """[B] -> [B, size, size]; reflection folds the kernel's part beyond a border back inside."""
    radius = min(int(3 * sigma_max + 0.5), size - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    source = (torch.arange(size, device=sigma.device)[:, None] + offset).abs()
    source = (size - 1) - ((size - 1) - source).abs()
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None, :].expand(-1, size, -1))


def separable(x: Tensor, a_y: Tensor, a_x: Tensor) -> Tensor:
    """A_y · x · A_xᵀ for every sample and channel, [B, C, H, W], [B, h, H], [B, w, W] -> [B, C, h, w]."""
    batch, channels, height, width = x.shape
    x = torch.bmm(x.reshape(batch, channels * height, width), a_x.transpose(1, 2))  # all channels of an image at once
    return a_y[:, None].matmul(x.view(batch, channels, height, a_x.shape[1]))


# ---------------------------------------------------------------------------------------------- colour


def jitter(x: Tensor, view: Augmentation, draw: Draw) -> Tensor:
    """Brightness, contrast, saturation and hue with probability jitter_p, in a random order and in place; [B, C, h, w] in [0, 1].

    Saturation and hue do nothing to a one-channel image and are skipped. Factors are uniform on
    [max(0, 1 - strength), 1 + strength], hue shifts on [-hue, hue] of the colour circle.
    """
    chosen = draw.chosen(view.jitter_p)
    strengths = (view.brightness, view.contrast, view.saturation)
    # a step that does nothing has its draws nevertheless, so that those of the others stay what they are
    *factors, shift = [
        draw.uniform(low, high)[chosen] for low, high in [*((max(0.0, 1 - s), 1 + s) for s in strengths), (-view.hue, view.hue)]
    ]
    images, x = x, x[chosen]
    for step in draw.order:
        if step == 0 and view.brightness:
            x = (x * factors[0]).clamp_(0, 1)
        elif step == 1 and view.contrast:
            x = blend(x, luma(x).mean(dim=(1, 2, 3), keepdim=True), factors[1])
        elif step == 2 and view.saturation and x.shape[1] == 3:
            x = blend(x, luma(x), factors[2])
        elif step == 3 and view.hue and x.shape[1] == 3:
            x = shift_hue(x, shift)
    return images.index_copy_(0, chosen, x)


# The strengths live here and nowhere else. One-channel images: a colour step that cannot act is left out.
_SYMMETRIC = Augmentation(blur_p=0.5)
_WEAK = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
_ASYMMETRIC = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
_LARGE = Augmentation(area=(0.2, 1.0), blur_p=0.5)
_SMALL = replace(_WEAK, area=(0.2, 1.0))
_CROP = Augmentation(area=(0.2, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey_p=0.0)
_GENTLE = Augmentation(area=(0.6, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey_p=0.0)
_SHIFT = Augmentation(area=(0.9, 1.0), ratio=(1, 1), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey_p=0.0)
_PUBLISHED = Augmentation(area=(0.08, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey_p=0.0)
_GREY = Augmentation(area=(0.2, 1.0), saturation=0.0, hue=0.0, grey_p=0.0, blur_p=0.5, blur_sigma=(0.1, 1.0), solarize_p=0.1)
_GREY_LARGE = replace(_GREY, area=(0.08, 1.0), blur_sigma=(0.1, 2.0), solarize_p=0.0)
_GLOBAL = replace(_SYMMETRIC, area=(0.14, 1.0))
_LOCAL = replace(_SYMMETRIC, area=(0.05, 0.14), role=LOCAL, side=3 / 7)
_GREY_GLOBAL = replace(_GREY, area=(0.14, 1.0))
_GREY_LOCAL = replace(_GREY, area=(0.05, 0.14), role=LOCAL, side=3 / 7)

RECIPES: dict[str, tuple[Augmentation, ...]] = {
    "symmetric": (_SYMMETRIC, _SYMMETRIC),
    "weak": (_WEAK, _WEAK),
    "asymmetric": (_ASYMMETRIC, replace(_ASYMMETRIC, solarize_p=0.2)),
    "asymmetric-blur": (replace(_ASYMMETRIC, blur_p=1.0), replace(_ASYMMETRIC, blur_p=0.1, solarize_p=0.2)),  # BYOL, table 6
    "symmetric-large": (_LARGE, _LARGE),
    "grey-small": (_GREY, _GREY),
    "grey-large": (_GREY_LARGE, _GREY_LARGE),
    "colour-small": (_SMALL, _SMALL),
    # SwAV's and DINO's multi-crop: two global views and six local ones. Source: Caron et al. 2020, section 3.3; 2021, 3.1
    "multi-crop": (*(_GLOBAL,) * 2, *(_LOCAL,) * 6),
    "grey-multi-crop": (*(_GREY_GLOBAL,) * 2, *(_GREY_LOCAL,) * 4),
    "crop": (_CROP,),  # one view, its colours as they are: for the generative methods
    "gentle-crop": (_GENTLE,),  # for fine-tuning on small images, of which a twelfth shows too little
    "shift": (_SHIFT,),  # for linear layers on them: a frozen backbone sees enlarged ones as something else
    "published-crop": (_PUBLISHED,),  # for both on large images, as on ImageNet
}
