"""Digests that are kept: what has been measured is found again without reading a single image.

The digest of images in files is a hash of all that is in them, and so is that of whatever was made of them. It is kept beside the
tables, under a name that says what it is of, and for images that is what the file system says of each of them.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.folders import Folder
from sparsehead_cli.machine.files import make_folder, read_regular, replace_file
from sparsehead_cli.measure.features import locked

# Seconds that an image must have been left alone before its digest is kept. The times of a file come in steps, of up to two
# seconds: one that changes twice within a step would look unchanged.
SETTLED = 5


class Digests:
    """Digests in the files of a folder. One that is lost or damaged is computed anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, source: Source) -> str:
        """The digest of a source. Its images are read only where one of them is new, or was touched, since it was kept."""
        if not isinstance(source, Folder):
            return source.digest()
        began = time.time_ns()
        state, changed = state_of(source)
        if not state:
            return source.digest()

        def is_final() -> bool:
            return changed + SETTLED * 10**9 < began and state_of(source)[0] == state

        return self.kept(state, source.digest, is_final)

    def kept(self, name: str, make: Callable[[], str], is_final: Callable[[], bool] = lambda: True) -> str:
        """The digest of this name, or else what `make` returns, which is then kept where it `is_final`.

        The name is a hash of all that the digest depends on. Of several processes one computes it, and the others wait.
        """
        path = self.folder / f"{name}.digest"
        make_folder(self.folder)
        with locked(path.with_suffix(".lock")):
            try:
                text = read_regular(path).decode("ascii")
            except (OSError, UnicodeDecodeError):
                text = ""
            digest = text.partition(" ")[0]
            if not text or text != line_of(name, digest):
                digest = make()
                if is_final():
                    replace_file(path, line_of(name, digest).encode())
        return digest


def line_of(name: str, digest: str) -> str:
    """What a file holds: the digest, and a checksum of name and digest."""
    return f"{digest} {hashlib.blake2b(f'{name} {digest}'.encode(), digest_size=8).hexdigest()}\n"


def state_of(images: Folder) -> tuple[str, int]:
    """A hash of names, labels, and what the file system says of their files, and when the last of them changed, in nanoseconds.

    Whoever changes a file can set its modification time back, but not the time of its change of status, nor keep its number when
    another is put in its place. The hash is "" where a file is not there or may not be read.
    """
    state, changed = hashlib.blake2b(repr(images.skip_bad_images).encode(), digest_size=16), 0
    for i in images.index:
        state.update(repr((images.listing.name(i), int(images.listing.labels[i]))).encode())
    for path in images.listing.files(images.index):
        try:
            file = os.stat(path)
        except OSError:
            return "", 0
        changed = max(changed, file.st_mtime_ns, file.st_ctime_ns)
        state.update(repr((file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)).encode())
    return state.hexdigest(), changed
