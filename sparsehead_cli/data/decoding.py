"""An image file -> RGB pixels. Whatever a file holds, it neither ends the process nor keeps it waiting nor fills the memory.

What a file is, its first bytes say. A JPEG is decoded by torchvision, which takes two thirds of Pillow's time. Everything else is
decoded by Pillow: torchvision's PNG decoder ends the process by SIGSEGV where a single bit is wrong.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from sparsehead_cli.data.layouts import read_file

PIXELS = 8192 * 6144  # of a camera's 50 megapixels; the whole process stays below 2 GB, whatever the kind


def decode(path: str | Path, *, upright: bool = True) -> Tensor:
    """An image file as RGB, uint8 [3, H, W]: alpha is dropped, 16 bits are rounded to 8.

    `upright` images are turned as their EXIF orientation says, the others are as they are stored.

    Raises whatever is wrong: for a file that is damaged or of another kind, an animation, and more than PIXELS pixels.
    """
    data = read_file(path)
    size = jpeg_size(data)
    if size is None:
        with warnings.catch_warnings(action="ignore"):  # remarks on files that can be read
            return _by_pillow(data, upright)
    _require_few(size)
    return decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB, apply_exif_orientation=upright)


def jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """Width and height of a JPEG as its frame header says them, before anything is decoded; None for what is not plainly one.

    Source: ITU-T T.81, annex B: segments of a marker and a length, up to the first start of frame.
    """
    octets = memoryview(data)
    if octets[:2] != b"\xff\xd8":
        return None
    start = 2
    while start + 9 <= len(octets) and octets[start] == 0xFF:
        if octets[start + 1] in FRAMES:
            return 256 * octets[start + 7] + octets[start + 8], 256 * octets[start + 5] + octets[start + 6]
        start += 2 + 256 * octets[start + 2] + octets[start + 3]
    return None


def _require_few(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and more than {PIXELS:,} are not decoded")


def _by_pillow(data: np.ndarray, upright: bool) -> Tensor:
    """The bytes of a PNG, WebP, GIF or unusual JPEG -> uint8 [3, H, W]."""
    content = data.tobytes()
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError("it is no JPEG, PNG, WebP or GIF file")
    image = kind(io.BytesIO(content))
    _require_few(image.size)
    if getattr(image, "is_animated", False):
        raise ValueError("it is an animation")
    if kind is PngImageFile:
        kind(io.BytesIO(content)).verify()  # its checksums, of which a decoder does not compare all
    image.info.pop("transparency", None)  # alpha is dropped
    depth = image.tile[0].args if kind is PngImageFile else ""
    if str(depth).endswith(";16B"):
        pixels = _sixteen_bits(image, kind(io.BytesIO(content)))
    else:
        pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    return _turned(torch.from_numpy(pixels), _orientation(image) if upright else 1).contiguous()


def _sixteen_bits(image: ImageFile, again: ImageFile) -> np.ndarray:
    """A PNG of 16 bits, opened twice -> uint8 [3, H, W], rounded.

    Pillow gives 16 bits of a grey image only: of the others the high bytes, and the low ones where it is told that bytes are
    swapped. A grey and an alpha channel together are read as if each of their four bytes were a channel.
    """
    tile = image.tile[0]
    if image.mode == "I;16":
        value = np.asarray(image)[None]
        high, low = (value >> 8).astype(np.uint8), value.astype(np.uint8)
    elif tile.args == "LA;16B":
        image.tile = [tile._replace(args="RGBA")]
        high, low = np.asarray(image).transpose(2, 0, 1)[:2, None]
    else:
        again.tile = [tile._replace(args=tile.args.removesuffix("16B") + "16L")]
        high = np.asarray(image).transpose(2, 0, 1)[:3]
        image.close()  # its memory: it is large enough to matter
        low = np.asarray(again).transpose(2, 0, 1)[:3]
        again.close()
    rounded = np.stack([_rounded(*each) for each in zip(high, low, strict=True)])
    return rounded if len(rounded) == 3 else rounded.repeat(3, axis=0)


def _rounded(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(256 · high + low) / 257, rounded, of uint8 [H, W]."""
    difference = low.astype(np.int16) - high
    return high + (difference > 128) - (difference < -128)


def _orientation(image: ImageFile) -> int:
    """1 to 8 as in EXIF; 1, as it is stored, where there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF is damaged in many ways, and the pixels are sound
        return 1


def _turned(image: Tensor, orientation: int) -> Tensor:
    """[3, H, W] -> [3, H, W], or [3, W, H] for the orientations that lie on their side."""
    image = image.transpose(1, 2) if 5 <= orientation <= 8 else image
    return image.flip(FLIPS.get(orientation, ()))


KINDS = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
    b"\xff\xd8": JpegImageFile,
}
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the others are tables
FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # EXIF's orientation -> the axes, after the transposition
