"""An image file -> RGB pixels. No file, whatever it holds, ends the process, keeps it waiting or fills its memory.

What a file is, its first bytes say and not its name. A JPEG is decoded by torchvision, which takes two thirds of Pillow's time.
Everything else is decoded by Pillow: torchvision's PNG decoder ends the process by SIGSEGV where a single bit is wrong.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from sparsehead_cli.data.listing import read_file

PIXELS = 8192 * 6144  # the most that are decoded: a camera's 50 megapixels; the process stays below 2 GB for every kind of file
KINDS = {  # how a file begins -> what Pillow opens it with
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
}
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # a JPEG's markers of a start of frame; these three mean other things
FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # EXIF's orientation -> the axes to flip after a transposition


def decode(path: str | Path, *, upright: bool = True) -> Tensor:
    """An image file as RGB, uint8 [3, H, W]: alpha is dropped, 16 bits are rounded to 8.

    `upright` images are turned as their EXIF orientation says, the others are as they are stored.

    Raises: ValueError for an animation and for more than PIXELS pixels; whatever its decoder raises for a file that is damaged
    or of another kind.
    """
    return decode_bytes(read_file(path), upright=upright)


def decode_bytes(data: np.ndarray, *, upright: bool = True) -> Tensor:
    """The same of a file's bytes, uint8 [n]."""
    size = jpeg_size(data)
    if size is None:  # no JPEG, or one that Pillow may still understand
        with warnings.catch_warnings(action="ignore"):  # remarks on files that can be read
            return _by_pillow(data, upright)
    _require_few(size)
    from torchvision.io import ImageReadMode, decode_jpeg  # two seconds, which commands that decode no JPEG do not wait for

    return decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB, apply_exif_orientation=upright)


def jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """Width and height that a JPEG states, read before anything is decoded; None where the file is no JPEG or its header is odd.

    Source: ITU-T T.81, annex B. A header is segments, each a marker (FF and its kind), 2 bytes of length, and content. That of
    the first start of frame is 1 byte of precision, 2 of height and 2 of width.
    """
    octets = memoryview(data)
    if octets[:2] != b"\xff\xd8":
        return None
    start = 2
    while start + 9 <= len(octets) and octets[start] == 0xFF:
        if octets[start + 1] in FRAMES:
            height, width = int.from_bytes(octets[start + 5 : start + 7]), int.from_bytes(octets[start + 7 : start + 9])
            return width, height
        start += 2 + int.from_bytes(octets[start + 2 : start + 4])  # the length counts itself, but not the marker
    return None


def _require_few(size: tuple[int, int]) -> None:
    """Raises: ValueError for more than PIXELS pixels."""
    width, height = size
    if width * height > PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and more than {PIXELS:,} are not decoded")


def _by_pillow(data: np.ndarray, upright: bool) -> Tensor:
    """The bytes of a PNG, WebP, GIF, BMP or unusual JPEG -> uint8 [3, H, W]."""
    content = data.tobytes()
    kind = kind_of(content)
    image = kind(io.BytesIO(content))
    _require_few(image.size)
    if getattr(image, "is_animated", False):
        raise ValueError("it is an animation")
    if kind is PngImageFile:
        kind(io.BytesIO(content)).verify()  # its checksums, of which a decoder does not compare all
    image.info.pop("transparency", None)  # alpha is dropped
    layout = image.tile[0].args if kind is PngImageFile else ""  # of its bytes, such as "RGB;16B"
    if str(layout).endswith(";16B"):
        pixels = _sixteen_bits(image, kind(io.BytesIO(content)))
    else:
        pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    return _turned(torch.from_numpy(pixels), _orientation(image) if upright else 1).contiguous()


def kind_of(content: bytes) -> type[ImageFile]:
    """Pillow's class for a file that begins like `content`. Raises: ValueError for a file of another kind."""
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError("it is no JPEG, PNG, WebP, GIF or BMP file")
    return kind


def _sixteen_bits(image: ImageFile, again: ImageFile) -> np.ndarray:
    """A PNG of 16 bits a channel, opened as `image` and `again` -> uint8 [3, H, W], rounded.

    Pillow keeps 16 bits of grey alone; of colours it keeps the high byte of each number. So Pillow is told of another layout:
    for grey with alpha, that the four bytes of a pixel are four channels; for colours, in `again`, that the bytes of a number
    are swapped ("16L"), so that it keeps the low one.
    """
    tile = image.tile[0]
    if image.mode == "I;16":
        value = np.asarray(image)[None]
        high, low = (value >> 8).astype(np.uint8), value.astype(np.uint8)
    elif tile.args == "LA;16B":
        image.tile = [tile._replace(args="RGBA")]
        high, low = np.asarray(image).transpose(2, 0, 1)[:2, None]  # the grey's two bytes, without alpha's
    else:
        again.tile = [tile._replace(args=tile.args.removesuffix("16B") + "16L")]
        high = np.asarray(image).transpose(2, 0, 1)[:3]
        image.close()  # before the other is decoded: both together need much memory
        low = np.asarray(again).transpose(2, 0, 1)[:3]
        again.close()
    channels = np.stack([_rounded(*both) for both in zip(high, low, strict=True)])
    return channels if len(channels) == 3 else channels.repeat(3, axis=0)


def _rounded(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(256 · high + low) / 257, rounded, of uint8 [H, W]: that is high + (low - high) / 257, of which the second is -1, 0 or 1."""
    difference = low.astype(np.int16) - high
    return high + (difference > 128) - (difference < -128)


def _orientation(image: ImageFile) -> int:
    """EXIF's orientation, 1 to 8; where none can be read 1, which leaves an image as it is stored."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF raises many kinds, and the pixels may be sound
        return 1


def _turned(image: Tensor, orientation: int) -> Tensor:
    """An image turned upright: [3, H, W] -> [3, H, W], or [3, W, H] for the orientations 5 to 8, which lie on their side."""
    image = image.transpose(1, 2) if 5 <= orientation <= 8 else image
    return image.flip(FLIPS.get(orientation, ()))
