"""Files of torch.save, believed only after their bytes were verified: the one way in for every binary file that is read back.

torch.load trusts the sizes in a zip archive and compares no checksum, so that a flipped bit becomes another weight without a
word. Here every entry is read to its end and compared with the CRC-32 that torch.save wrote beside it, before anything is made
of it. No code in a file is ever run.
"""

import errno
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sparsehead_cli.errors import SparseheadError, missing
from sparsehead_cli.machine.files import open_regular

CHUNK = 2**20  # bytes that are held at once while an entry is compared with its checksum
FOLDER = 0x10  # the bit that marks a folder in a zip entry's attributes
END = 22  # bytes of the record that ends a zip file without a comment


class Unsound(Exception):
    """A file that is not, or no longer, what torch.save wrote. The text is the reason, for the caller's own sentence."""


def read_archive(path: Path, device: torch.device | str = "cpu") -> object:
    """What `torch.save` was given, tensors on `device`, from an archive whose every entry bears its checksum.

    The file is opened once. What is loaded are the bytes that were verified: our files are never changed in place, and a
    new one that is moved to `path` meanwhile is another file.

    Raises: Unsound for a file that is damaged, claims more than it holds, or holds more than tensors and plain values;
    SparseheadError for one that is not there or cannot be opened.
    """
    with open_file(path) as file:
        require_sound(file)
        file.seek(0)
        try:
            value = torch.load(file, map_location=device, weights_only=True)
        except pickle.UnpicklingError:
            raise Unsound("it holds more than tensors and plain values") from None
        except Exception:  # an odd pickle raises whatever its bytes lead to
            raise Unsound("it cannot be read to its end") from None
    for tensor in tensors_in(value):
        require_plain(tensor)
    return value


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; whatever else may stand at a path is refused, and never waited for.

    Raises: Unsound for a folder, pipe or device; SparseheadError for what is not there or cannot be opened.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        where = f"{path} is a link to {os.readlink(path)}, which is not there" if path.is_symlink() else missing(path)
        below = sorted(path.parent.glob(f"*/{path.name}"))  # of a folder of runs, where one of them was meant
        raise SparseheadError(f"{where}.{f' Did you mean {below[0]}?' if below else ''}") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unsound(error.strerror) from None
        raise SparseheadError(f"cannot read {path}: {error.strerror}.") from None
    with file:
        yield file


@contextmanager
def zip_of(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """The zip archive in an open file. Raises: Unsound for whatever is found to be wrong with it."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (Unsound, SparseheadError):
        raise
    except Exception as error:  # of zipfile, struct, unicode, the disk …
        raise Unsound(" ".join(str(error).split())[:120] or type(error).__name__) from None


def require_sound(file: BinaryIO, *, checksums: bool = True) -> None:
    """Raises: Unsound for a file that is not a zip archive all of whose entries are what was written.

    Its entries are stored as they are, claim no more bytes than there are, and have each a name of its own and its checksum;
    nothing stands before the first and behind the last record. Without `checksums` an entry may lack its own, as other
    people's may: torch.save can be told to leave them out.
    """
    size = os.fstat(file.fileno()).st_size
    with zip_of(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        stored = all(e.compress_type == zipfile.ZIP_STORED and e.compress_size == e.file_size for e in entries)
        if not stored or sum(entry.file_size for entry in entries) > size:
            raise Unsound("its zip entries claim more bytes than it has, or are compressed")
        if archive.comment or not ends_with_record(file) or min((e.header_offset for e in entries), default=0):
            raise Unsound("it has bytes before its beginning or after its end")
        if any(
            entry.is_dir() or entry.external_attr & FOLDER for entry in entries
        ):  # torch would read nothing, and call it success
            raise Unsound("one of its zip entries calls itself a folder")
        if len(set(names)) < len(names):
            raise Unsound("two of its zip entries have one name")
        for entry in entries:
            with archive.open(entry) as content:  # compares the name, and at the end the checksum
                while (checksums or entry.CRC) and content.read(CHUNK):
                    pass


def ends_with_record(file: BinaryIO) -> bool:
    """Whether a zip file's last record is its last bytes; zipfile looks for it further up, too, and takes no notice."""
    file.seek(-END, os.SEEK_END)
    record = file.read(END)
    return record.startswith(b"PK\x05\x06") and record.endswith(b"\0\0")


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, each once, however often and deeply it is referred to."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item


def require_plain(tensor: Tensor) -> None:
    """Raises: Unsound for a tensor that is sparse or nested, or that shows one number many times and would grow in a copy."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type == "meta":
        raise Unsound("one of its tensors is sparse, nested or without values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Unsound("one of its tensors claims more numbers than it holds")


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number in them is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def pickle_start(path: Path, count: int = 200) -> bytes:
    """The first bytes of what says which values an archive holds; b"" where it cannot be found. Nothing is made of it."""
    try:
        with open_file(path) as file, zip_of(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as content:
                return content.read(count)
    except (Unsound, SparseheadError):  # whatever it is, it is none of ours; the reader of other people's files says so
        return b""
