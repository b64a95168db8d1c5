"""Images whose factors are known: one figure on a ground, with a shape, a texture, a colour, a place and a size, drawn by chance.

So that what a representation keeps of each factor can be measured, and compared with what the views left of it. They are rendered
from a seed whenever they are asked for; there is no file. Every operation is one that IEEE 754 rounds exactly, so that they are the
same bytes on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from sparsehead_cli.data.augment import Augmentation

SIZE = 32  # pixels of a side
COUNTS = {True: 22_000, False: 4_000}  # training and test images
SEED = 20_260_000  # of the training images; the test images have the next one
SHAPES = ("disc", "ring", "square", "diamond", "cross")
TEXTURES = ("plain", "upright stripes", "level stripes", "checks")
RENDERED = 2_000  # images at a time
CLASSES = {"shape": SHAPES, "texture": TEXTURES}  # the factors that are classes
DARK = 0.4  # what a texture multiplies the colour with where it is dark


@dataclass(frozen=True)
class Factors:
    """The factors of N images: classes int64 [N], the others float64 [N]."""

    shape: np.ndarray  # of SHAPES
    texture: np.ndarray  # of TEXTURES
    colour: np.ndarray  # place on the colour circle, in turns, [0, 1)
    x: np.ndarray  # middle of the figure, in pixels
    y: np.ndarray
    size: np.ndarray  # half of its width, in pixels
    ground: np.ndarray  # grey of the ground, in [0, 0.3]


def factors_of(*, train: bool) -> Factors:
    """Those of the training or the test images, in their order."""
    draw, count = np.random.Generator(np.random.PCG64(SEED + (not train))), COUNTS[train]
    return Factors(
        shape=draw.integers(len(SHAPES), size=count),
        texture=draw.integers(len(TEXTURES), size=count),
        colour=draw.random(count),
        x=11 + 10 * draw.random(count),
        y=11 + 10 * draw.random(count),
        size=5.5 + 4 * draw.random(count),
        ground=0.3 * draw.random(count),
    )


def changed_by(views: Sequence[Augmentation]) -> set[str]:
    """The names of the factors that the strengths of views change; the others are kept.

    A crop changes place and size, a flip the place, a turn of the colours, grey and solarization the colour, brightness and
    contrast the ground (and, where they clip, colours a little), a blur the texture. A shape stays, as far as the crop shows it.
    """
    changed = set()
    for view in views:
        changed |= {"x", "y", "size"} if view.area[0] < 1 else set()
        changed |= {"x"} if view.flip_p > 0 else set()
        changed |= {"colour"} if view.grey_p > 0 or (view.jitter_p > 0 and view.hue > 0) or view.solarize_p > 0 else set()
        changed |= {"texture"} if view.blur_p > 0 else set()
        changed |= {"ground"} if view.jitter_p > 0 and (view.brightness > 0 or view.contrast > 0) else set()
    return changed


def code(factors: Factors, names: Sequence[str]) -> np.ndarray:
    """Factors as numbers in which distances mean something, float64 [N, columns]: each factor has a variance of 1 in all."""
    columns = [numbers_of(factors, name) for name in names]
    return np.concatenate([(values - values.mean(0)) / np.sqrt(values.var(0).sum()) for values in columns], axis=1)


def numbers_of(factors: Factors, name: str) -> np.ndarray:
    """One factor as numbers, float64 [N, columns]: a class is a column each, a colour its cosine and sine."""
    values = getattr(factors, name)
    if name in CLASSES:
        return np.eye(len(CLASSES[name]))[values]
    turns = 2 * np.pi * values
    return np.stack([np.cos(turns), np.sin(turns)], axis=1) if name == "colour" else values[:, None]


@cache
def read_factors(*, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 3, 32, 32], labels int64 [N]: their shapes). Rendered once in a process, and not to be written to."""
    factors = factors_of(train=train)
    images = np.empty((len(factors.shape), 3, SIZE, SIZE), dtype=np.uint8)
    for first in range(0, len(images), RENDERED):
        part = Factors(*(values[first : first + RENDERED] for values in vars(factors).values()))
        images[first : first + RENDERED] = rendered(part)
    return images, factors.shape


def rendered(factors: Factors) -> np.ndarray:
    """The images of some factors, uint8 [n, 3, 32, 32]; the edge of a figure is a pixel wide."""
    middle = np.arange(SIZE) + 0.5
    x = middle[None, None, :] - factors.x[:, None, None]
    y = middle[None, :, None] - factors.y[:, None, None]
    size = factors.size[:, None, None]
    distances = distances_of(x, y, size)
    inside = np.clip(0.5 - np.take_along_axis(distances, factors.shape[None, :, None, None], axis=0)[0], 0, 1)
    dark = np.take_along_axis(darkness(x, y, size), factors.texture[None, :, None, None], axis=0)[0]
    lightness = (1 - (1 - DARK) * dark)[:, None]
    colour = colours(factors.colour)[:, :, None, None] * lightness
    ground = factors.ground[:, None, None, None]
    return np.rint(255 * (ground + inside[:, None] * (colour - ground))).astype(np.uint8)


def distances_of(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How far a pixel is outside of a figure of each shape, in pixels, negative inside, [shapes, n, 32, 32].

    Figures of a size have about the same area.
    """
    radius, across, upright = np.sqrt(x * x + y * y), np.abs(x), np.abs(y)
    longest, shortest = np.maximum(across, upright), np.minimum(across, upright)
    return np.stack(
        [
            radius - size,
            np.abs(radius - 0.78 * size) - 0.32 * size,
            longest - 0.88 * size,
            (across + upright - 1.25 * size) * 0.7,
            np.maximum(longest - size, shortest - 0.42 * size),
        ]
    )


def darkness(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Where a figure of each texture is dark, 0 or 1, [textures, n, 32, 32]: bands that grow with it, two and a half across."""
    across, upright = (np.floor(place / (0.4 * size)) % 2 + 0 * (x + y) for place in (x, y))
    return np.stack([np.zeros_like(across), across, upright, (across + upright) % 2])


def colours(turns: np.ndarray) -> np.ndarray:
    """Full colours of the colour circle, [n] -> [n, 3] in [0, 1]: red at 0, green at a third, blue at two thirds."""
    sixths = 6 * turns
    return np.stack([np.clip(np.abs((sixths + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)], axis=1)
