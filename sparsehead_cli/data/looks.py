"""What the images of somebody's own data set are like: how large, and whether all are grey. Read off a sample of their headers.

The sample is spread evenly over the images in their order, so that the same images always give the same answer.
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
COLOURED = 32  # of them, at most, that are decoded to see whether they are grey where their header does not say
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
    count = min(SAMPLE, len(listing))
    chosen = np.arange(count) * len(listing) // max(1, count)
    state = (tuple(listing.name(i) for i in chosen), states_of(listing, chosen))
    if state[1] is None or state not in LOOKED_AT:
        LOOKED_AT[state] = look_at(listing, chosen)
    return LOOKED_AT[state]


def states_of(listing: Listing, chosen: np.ndarray) -> tuple | None:
    """What the file system says of the files of some images; None where one is not there."""
    try:
        files = [os.stat(path) for path in listing.files(chosen)]
    except OSError:
        return None
    return tuple((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in files)


def look_at(listing: Listing, chosen: np.ndarray) -> Looks:
    """Look at the chosen images."""
    sizes: list[tuple[int, int]] = []
    unknown: list[int] = []  # images that may have a colour
    for i in chosen.tolist():
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            content = listing.read(i).tobytes()
            image = kind_of(content)(io.BytesIO(content))
            sizes.append(image.size)
            if image.mode not in GREY:
                unknown.append(i)
    if not sizes:
        return Looks(LARGEST, 3, None)
    shortest = sorted(min(size) for size in sizes)
    median = shortest[(len(shortest) - 1) // 2]
    size = median if len(set(shortest)) == 1 else median // STEP * STEP
    channels = 3 if has_colour(listing, unknown) else 1
    return Looks(min(LARGEST, max(SMALLEST, size)), channels, sizes[0] if len(set(sizes)) == 1 else None)


def has_colour(listing: Listing, images: list[int]) -> bool:
    """Whether one of some images, of which at most COLOURED are decoded, has a colour."""
    for i in images[:: -(-len(images) // COLOURED) if images else 1]:
        with suppress(Exception):
            pixels = decode_bytes(listing.read(i)).int()
            if (pixels.amax(dim=0) - pixels.amin(dim=0)).max() > ALIKE:
                return True
    return False
