"""Files that are either the old one or the new one, never a half: written beside, flushed to the disk, moved into place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sparsehead_cli.errors import SparseheadError


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Put `data` at `path` atomically; at any failure the file that was there stays, and nothing else is left.

    Raises: SparseheadError when the disk is full or the folder cannot be written.
    """
    write_beside(path, lambda file: file.write(data))


def write_beside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`replace_file` with what `write` writes into the open file, for data too large to hold twice."""
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter for a full disk
        beside.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise SparseheadError(f"cannot write {path}: {reason}. Make room, or write elsewhere.") from None


def make_folder(path: Path) -> None:
    """Make a folder where it is not there. Raises: SparseheadError when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SparseheadError(f"cannot make the folder {path}: {error.strerror}. Write elsewhere.") from None


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
