"""Damage as disks, networks and people do it: pure functions bytes -> bytes, for every test of what is read back."""

import random


def flip_bit(data: bytes, bit: int) -> bytes:
    """`data` with its bit number `bit` (0 … 8·len - 1) flipped."""
    byte, place = divmod(bit, 8)
    return data[:byte] + bytes([data[byte] ^ 1 << place]) + data[byte + 1 :]


def flip_bits(data: bytes, seed: int, count: int = 1) -> bytes:
    """`data` with `count` of its bits flipped, drawn from `seed`; never the same bit twice."""
    for bit in random.Random(seed).sample(range(8 * len(data)), count):
        data = flip_bit(data, bit)
    return data


def truncate(data: bytes, seed: int) -> bytes:
    """The first bytes of `data`, at least one too few, as many as drawn from `seed`."""
    return data[: random.Random(seed).randrange(len(data))]


def every_nth(data: bytes, step: int, mask: int = 0x40) -> bytes:
    """`data` with the bits of `mask` flipped in one byte of every `step`."""
    return bytes(byte ^ mask if i % step == step - 1 else byte for i, byte in enumerate(data))


def zero_block(data: bytes, seed: int, size: int = 512) -> bytes:
    """`data` with one block of `size` bytes, drawn from `seed`, read as zeros: a lost sector."""
    start = random.Random(seed).randrange(-(-len(data) // size)) * size
    return data[:start] + bytes(len(data[start : start + size])) + data[start + size :]


def append(data: bytes, seed: int, count: int = 16) -> bytes:
    """`data` with `count` random bytes after its end."""
    return data + random.Random(seed).randbytes(count)


def swap(data: bytes, first: bytes, second: bytes) -> bytes:
    """`data` with every `first` where a `second` was, and the other way round; both are of one length."""
    assert len(first) == len(second)
    mark = b"\xff" * len(first)
    assert mark not in data
    return data.replace(first, mark).replace(second, first).replace(mark, second)


def lose_line(data: bytes, seed: int) -> bytes:
    """`data` without one of its lines, drawn from `seed`."""
    lines = data.splitlines(keepends=True)
    del lines[random.Random(seed).randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, seed: int) -> bytes:
    """`data` with one of its lines twice."""
    lines = data.splitlines(keepends=True)
    at = random.Random(seed).randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[at:]])


def insert(data: bytes, seed: int) -> bytes:
    """`data` with random bytes, or what editors and shells leave, somewhere in it."""
    draw = random.Random(seed)
    at = draw.choice([0, len(data), draw.randrange(len(data) + 1)])
    new = draw.choice([b"\xff\xfe", b"\xef\xbb\xbf", bytes(8), b'"', b"\n", b",,,", draw.randbytes(5), b"9" * 200_000])
    return data[:at] + new + data[at:]


DAMAGES = {"flip_bits": flip_bits, "truncate": truncate, "zero_block": zero_block, "append": append}
OF_TEXT = {"lose_line": lose_line, "repeat_line": repeat_line, "insert": insert}
