"""Files of images as anybody may hand them in: sound ones give the pixels that they hold, all others an error."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from sparsehead_cli.data.decoding import PIXELS, decode
from sparsehead_cli.data.listing import BYTES

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8))
SMOOTH = Image.fromarray(np.stack([np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)] * 3, axis=2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's kinds: grey, colour, palette, grey and alpha, colour and alpha
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]


@pytest.fixture
def decoded(tmp_path):
    """decoded(data) -> its pixels, out of a file."""

    def read(data, **options):
        (tmp_path / "image").write_bytes(data)
        return decode(tmp_path / "image", **options)

    return read


def encoded(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(kind, depth, width=17, height=23, more=b""):
    """A PNG of random bits and filters, in any kind and depth that there is."""
    row = (width * depth * CHANNELS[kind] + 7) // 8
    rows = b"".join(bytes([RNG.integers(5)]) + RNG.bytes(row) for _ in range(height))
    palette = chunk(b"PLTE", RNG.bytes(3 * 2**depth)) + chunk(b"tRNS", bytes(range(2**depth))) if kind == 3 else b""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    first, *others = [chunk(*part) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + first + palette + more + b"".join(others)


def pixels(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_every_kind_of_png_has_the_pixels_of_the_reference(decoded, kind, depth):
    """torchvision's decoder is the reference; 16 bits are rounded to 8, and Pillow's own way would cut them off."""
    data = png(kind, depth)
    expected = decode_image(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), ImageReadMode.RGB)
    if depth == 16:
        expected = (expected.float() / 257).round().to(torch.uint8)
    with warnings.catch_warnings(action="error"):
        found = decoded(data)
    assert (found.dtype, found.is_contiguous()) == (torch.uint8, True)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_the_other_kinds_have_the_pixels_of_the_reference(decoded, kind):
    data = encoded(NOISE, kind)
    assert torch.equal(decoded(data), decode_image(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), ImageReadMode.RGB))


@pytest.mark.parametrize("image", [NOISE, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_a_flipped_bit_in_a_png_is_noticed(decoded, image, mode):
    """torchvision's decoder ends the process for most of these; and none may give other pixels."""
    sound = encoded(image.convert(mode), "PNG")
    pixels = decoded(sound)
    noticed = 0
    for place in np.linspace(0, 8 * (len(sound) - 12) - 1, 60).astype(int):  # after it comes an empty chunk that ends the file
        data = bytearray(sound)
        data[place // 8] ^= 1 << place % 8
        try:
            found = decoded(bytes(data))
        except Exception:
            noticed += 1
        else:
            assert torch.equal(found, pixels)  # something that is no pixel was hit
    assert noticed >= 58


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_half_a_file_is_refused(decoded, kind):
    data = encoded(SMOOTH, kind)
    for end in (1, 4, 20, len(data) // 2, len(data) - 8):
        with pytest.raises((OSError, ValueError, RuntimeError, SyntaxError)):
            decoded(data[:end])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_stand_upright_as_their_exif_says(decoded, kind):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(SMOOTH.rotate(20), kind, exif=exif)
        stored = Image.open(io.BytesIO(data))
        assert torch.equal(decoded(data), pixels(ImageOps.exif_transpose(stored)))
        assert torch.equal(decoded(data, upright=False), pixels(stored))


def test_a_deep_png_is_turned_too(decoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, stored = (decoded(png(0, 16, 3, 2, chunk(b"eXIf", exif.tobytes()[6:])), upright=upright) for upright in (True, False))
    assert (turned.shape, stored.shape) == ((3, 3, 2), (3, 2, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_turns_nothing(decoded, kind):
    data = encoded(SMOOTH, kind, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(range(256)))
    assert torch.equal(decoded(data), pixels(Image.open(io.BytesIO(data))))


def huge_jpeg(width, height):
    data = bytearray(encoded(NOISE, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


HUGE = {
    "PNG": png(2, 8, 10, 10).replace(struct.pack(">II", 10, 10), struct.pack(">II", 8192, 6145)),
    "too huge for Pillow": png(2, 8, 10, 10).replace(struct.pack(">II", 10, 10), struct.pack(">II", 2**30, 2**30)),
    "JPEG": huge_jpeg(65_500, 65_500),
    "JPEG with an odd start": huge_jpeg(65_500, 65_500).replace(b"\xff\xd8\xff", b"\xff\xd8\xff\xff", 1),
    "GIF": encoded(NOISE, "GIF").replace(struct.pack("<HH", 48, 40), struct.pack("<HH", 60_000, 60_000)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_more_pixels_than_the_limit_are_refused_by_the_header(decoded, kind):
    data = HUGE[kind]
    if kind in ("PNG", "too huge for Pillow"):  # whose header has a checksum
        data = data[:8] + chunk(b"IHDR", data[16:29]) + data[33:]
    with pytest.raises(ValueError, match=rf"it has [\d,]+ x [\d,]+ pixels, and more than {PIXELS:,} are not decoded"):
        decoded(data)


def test_animations_are_refused(decoded):
    for kind in ("GIF", "WEBP", "PNG"):
        with pytest.raises(ValueError, match="it is an animation"):
            decoded(encoded(NOISE, kind, save_all=True, append_images=[SMOOTH]))


def test_unusual_jpegs_are_read(decoded):
    plain = encoded(NOISE, "JPEG")
    fill = plain[:2] + b"\xff\xff" + plain[2:]  # any number of 0xFF may come before a marker
    several = encoded(NOISE, "MPO", save_all=True, append_images=[SMOOTH])  # of cameras with two lenses, and telephones
    assert torch.equal(decoded(fill), decoded(plain))
    assert torch.equal(decoded(several), decoded(plain))


def test_pipes_devices_folders_and_files_without_end_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(ValueError, match="it is not a file"):
            decode(tmp_path / f"{name}.jpg")
    with open(tmp_path / "sparse.jpg", "wb") as f:
        f.truncate(2**40)
    with pytest.raises(ValueError, match=f"more than {BYTES:,} are not read"):
        decode(tmp_path / "sparse.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    with pytest.raises(ValueError, match="it is a symbolic link to nowhere, which is not there"):
        decode(tmp_path / "dangling.jpg")
