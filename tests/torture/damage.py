"""What can happen to a file on a disk: functions (path, generator) that damage it in place."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path


def flip_bits(path: Path, draw: random.Random) -> None:
    """One to eight bits somewhere."""
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 1, 2, 8]) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, draw: random.Random) -> None:
    """Only a part from the beginning is left, perhaps none."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.choice([0, draw.randrange(len(data) + 1), max(0, len(data) - 1)])])


def zero_a_block(path: Path, draw: random.Random) -> None:
    """A block of zeros, as after a power cut."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data) + 1)
    block = data[start : start + draw.choice([1, 16, 512, 4096])]
    data[start : start + len(block)] = bytes(len(block))
    path.write_bytes(data)


def lose_a_piece(path: Path, draw: random.Random) -> None:
    """A piece in the middle is gone: of text, a line."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        del lines[draw.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def repeat_a_piece(path: Path, draw: random.Random) -> None:
    """A line twice."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        at = draw.randrange(len(lines))
        lines.insert(at, lines[at])
    path.write_bytes(b"".join(lines))


def insert_bytes(path: Path, draw: random.Random) -> None:
    """Random bytes somewhere, or what editors leave."""
    data = path.read_bytes()
    at = draw.choice([0, len(data), draw.randrange(len(data) + 1)])
    new = draw.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\0" * 8, b'"', b"\n", b"," * 3, draw.randbytes(5), b"9" * 200_000])
    path.write_bytes(data[:at] + new + data[at:])


def become_a_folder(path: Path, draw: random.Random) -> None:
    """A folder stands in its place."""
    path.unlink()
    path.mkdir()


def become_another(path: Path, draw: random.Random) -> None:
    """Another file of the same folder stands in its place."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
    if others:
        shutil.copyfile(draw.choice(others), path)


def dangle(path: Path, draw: random.Random) -> None:
    """A symbolic link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped bits": flip_bits,
    "cut short": cut_short,
    "a block of zeros": zero_a_block,
    "a piece lost": lose_a_piece,
    "a piece twice": repeat_a_piece,
    "bytes inserted": insert_bytes,
    "a folder": become_a_folder,
    "another file": become_another,
    "a dangling link": dangle,
}
