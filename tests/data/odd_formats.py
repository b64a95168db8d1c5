"""Photographs in every format that people have, in shards: made of the garments of the embedded set, coloured and enlarged."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sparsehead_cli.data.datasets import load_split
from tests.data.test_shards import write_shard

ORIENTATION = 0x0112  # EXIF's


def encoded(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def rotated(image, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, "JPEG", quality=90, exif=exif)


def sixteen(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


FORMATS = {
    "baseline.jpg": lambda image: encoded(image, "JPEG", quality=90),
    "progressive.jpg": lambda image: encoded(image, "JPEG", quality=80, progressive=True),
    "full-chroma.jpeg": lambda image: encoded(image, "JPEG", quality=95, subsampling=0),
    "grey.jpg": lambda image: encoded(image.convert("L"), "JPEG"),
    "cmyk.jpg": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "upside-down.jpg": lambda image: rotated(image, 3),
    "on-its-side.JPG": lambda image: rotated(image, 6),
    "mirrored.jpg": lambda image: rotated(image, 5),
    "rgb.png": lambda image: encoded(image, "PNG"),
    "palette.png": lambda image: encoded(image.quantize(64), "PNG"),
    "alpha.png": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "grey-alpha.png": lambda image: encoded(image.convert("LA"), "PNG"),
    "one-bit.png": lambda image: encoded(image.convert("1"), "PNG"),
    "sixteen-bits.png": lambda image: encoded(sixteen(image), "PNG"),
    "lossy.webp": lambda image: encoded(image, "WEBP", quality=80),
    "lossless.webp": lambda image: encoded(image, "WEBP", lossless=True),
    "still.gif": lambda image: encoded(image.quantize(128), "GIF"),
    "rgb.bmp": lambda image: encoded(image, "BMP"),
    "grey.bmp": lambda image: encoded(image.convert("L"), "BMP"),
    "really-a-png.jpg": lambda image: encoded(image, "PNG"),
}


def photograph(garment, rng):
    """A garment [28, 28] in a colour, on another, of a size of its own."""
    width, height = (int(n) for n in rng.integers(40, 120, 2))
    light, dark = (tuple(int(n) for n in colour) for colour in (rng.integers(128, 256, 3), rng.integers(0, 100, 3)))
    grey = Image.fromarray(garment).resize((width, height), Image.Resampling.BICUBIC)
    return ImageOps.colorize(grey, dark, light)


def write_odd_shards(root: Path, *, images: int, shards: int) -> list[str]:
    """Shards of photographs without labels, every format in turn; what the formats are called."""
    garments = load_split("fashion10k", "train+val", Path("data")).inputs[:, 0].numpy()
    rng, names = np.random.default_rng(0), list(FORMATS)
    samples = []
    for i in range(images):
        name = names[i % len(names)]
        stem, _, ending = name.partition(".")
        samples.append((f"{i:05}-{stem}", {ending: FORMATS[name](photograph(garments[i % len(garments)], rng))}))
    for number in range(shards):
        write_shard(root / f"photos-{number:03}.tar", samples[number * images // shards : (number + 1) * images // shards])
    return names
