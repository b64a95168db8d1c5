"""Seeds: what is drawn is a function of names and numbers, and nothing random has a memory."""

import hashlib


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that is the same on every machine and unrelated for different parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
