"""What the images of somebody's own data set are like: how large, and whether all are grey. Read off a sample of them.

The sample depends on the number of images alone, so that the same images always give the same answer. What it says of sizes is read
off headers at equal distances. Colours are also looked for at distances without a period, since files often stand in turns: each
photograph beside its depth, say.
"""

import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from sparsehead_cli.data.decoding import decode_bytes, kind_of
from sparsehead_cli.data.listing import Listing

SAMPLE = 256  # images whose headers are read
COLOURED = 32  # of them, at most, that are decoded to see whether they are grey where their header does not say, before SPREAD are
SPREAD = 256  # images without a period that are looked at for a colour
GOLDEN = 0.6180339887498949  # of a whole: its multiples, modulo 1, fill the whole evenly and never repeat
LARGEST = 224  # pixels of a side that a network is made for, unless it is told otherwise
SMALLEST = 8
STEP = 8  # images of several sizes are taken at a multiple of so many pixels
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L")  # Pillow's modes without colour
ALIKE = 2  # levels of 255 by which the channels of a grey image may differ, after its compression

LOOKED_AT: dict[tuple, "Looks"] = {}  # by the names and states of the files that were looked at


@dataclass(frozen=True)
class Looks:
    """The side of the square to take images at, their channels (1 where all are grey, else 3), and the one size of them all.

    `size` is their short side, at most LARGEST: the median, where they differ. `only` is (width, height), None where they differ.
    """

    size: int
    channels: int
    only: tuple[int, int] | None


def look(listing: Listing) -> Looks:
    """Look at a sample of the images, once in a process while their files stay what they are.

    Those that cannot be read are passed over: whoever decodes them will say so.
    """
    chosen, spread = evenly(len(listing)), without_period(len(listing))
    both = np.union1d(chosen, spread)
    state = (tuple(listing.name(i) for i in both), states_of(listing, both))
    if state[1] is None or state not in LOOKED_AT:
        LOOKED_AT[state] = look_at(listing, chosen, spread)
    return LOOKED_AT[state]


def evenly(images: int) -> np.ndarray:
    """The places of at most SAMPLE images, at equal distances."""
    count = min(SAMPLE, images)
    return np.arange(count) * images // max(1, count)


def without_period(images: int) -> np.ndarray:
    """The places of at most SPREAD images, without a common distance; all where they are not more."""
    if images <= SPREAD:
        return np.arange(images)
    return np.unique((np.arange(SPREAD) * GOLDEN % 1 * images).astype(np.int64))


def states_of(listing: Listing, chosen: np.ndarray) -> tuple | None:
    """What the file system says of the files of some images; None where one is not there."""
    try:
        files = [os.stat(path) for path in listing.files(chosen)]
    except OSError:
        return None
    return tuple((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in files)


def look_at(listing: Listing, chosen: np.ndarray, spread: np.ndarray) -> Looks:
    """Look at the chosen images, and for a colour at those of `spread` as well."""
    sizes: list[tuple[int, int]] = []
    unknown: list[int] = []  # images that may have a colour
    for i in chosen.tolist():
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            size, mode = header_of(listing.read(i))
            sizes.append(size)
            if mode not in GREY:
                unknown.append(i)
    if not sizes:
        return Looks(LARGEST, 3, None)
    shortest = sorted(min(size) for size in sizes)
    median = shortest[(len(shortest) - 1) // 2]
    size = median if len(set(shortest)) == 1 else median // STEP * STEP
    first = unknown[:: -(-len(unknown) // COLOURED) or 1]
    channels = 3 if has_colour(listing, first) or has_colour(listing, np.setdiff1d(spread, first).tolist()) else 1
    return Looks(min(LARGEST, max(SMALLEST, size)), channels, sizes[0] if len(set(sizes)) == 1 else None)


def header_of(content: np.ndarray) -> tuple[tuple[int, int], str]:
    """The size, (width, height), and Pillow's mode of an image."""
    data = content.tobytes()
    image = kind_of(data)(io.BytesIO(data))
    return image.size, image.mode


def has_colour(listing: Listing, images: list[int]) -> bool:
    """Whether one of some images has a colour. Decoded are those whose header does not say that they are grey."""
    for i in images:
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            content = listing.read(i)
            if header_of(content)[1] in GREY:
                continue
            pixels = decode_bytes(content).int()
            if (pixels.amax(dim=0) - pixels.amin(dim=0)).max() > ALIKE:
                return True
    return False
