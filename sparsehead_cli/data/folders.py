"""A split whose images stream from a listing: decoded, resized and cropped by reading processes, a batch by one of them.

The memory that this takes does not depend on the number of images: names are kept as bytes, and never more than a few batches
a reading process are on their way. What a batch contains depends on its number and its order alone, neither on the number of
processes nor on which batch was read before it.
"""

import hashlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparsehead_cli.data.augment import Crops
from sparsehead_cli.data.contract import Batch, ImageSpec, each
from sparsehead_cli.data.listing import Listing, fingerprint, reason_of
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.cores import cores

if TYPE_CHECKING:
    from sparsehead_cli.data.reading import Reader

DEATHS, MOST_DEATHS = 3, 10  # of reading processes over one image, and over one batch, that are no chance
WORKERS = 4  # reading processes, at most, unless it is said how many
END_SECONDS = 5  # in which a process has ended whose connection is broken
STOPPING = (signal.SIGINT, signal.SIGTERM)
CPU = torch.device("cpu")
STREAM = "Images in memory are all of one size: resize it, or let all of them stream, pretrain --set cache=none."


class Died(SparseheadError):
    """A reading process is no more; `images` were open then, in it or in another."""

    def __init__(self, message: str, images: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.images = frozenset(images)


class Folder:
    """The images of `listing` at `index` int64 [N], of `size` pixels, in as many channels as `spec` says; without one RGB.

    An `exact` one takes images of this very size alone. `skipped` counts, over all passes so far, the images that were left out
    (or, in training, replaced) as unreadable.
    """

    streams = True

    def __init__(
        self,
        listing: Listing,
        index: np.ndarray,
        size: int,
        *,
        spec: ImageSpec | None = None,
        skip_bad_images: bool = False,
        workers: int | None = None,
        device: torch.device = CPU,
        exact: bool = False,
    ) -> None:
        self.listing, self.index, self.size, self.spec = listing, index, size, spec
        self.skip_bad_images, self.workers, self.device, self.exact = skip_bad_images, workers, device, exact
        self.labels = torch.from_numpy(listing.labels[index]).to(device)
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> "Folder":
        """The same images, whose batches will be on `device`."""
        return self._with(self.index, device)

    def take(self, indices: Tensor) -> "Folder":
        """The images at `indices` int64 [n], in that order."""
        return self._with(self.index[indices.cpu().numpy()], self.device)

    def _with(self, index: np.ndarray, device: torch.device) -> "Folder":
        kept = {"spec": self.spec, "skip_bad_images": self.skip_bad_images, "workers": self.workers, "exact": self.exact}
        return Folder(self.listing, index, self.size, **kept, device=device)

    def batches(self, size: int, *, order: Tensor | None = None, start: int = 0, read: Crops | None = None) -> Iterator[Batch]:
        """Batches of `size` images from batch `start` on, uint8 [B, C, s, s]: short side resized, middle cut out.

        With crops to `read` uint8 [B, V, C, s, s]: V random resized crops of each image (by the name of their size, where they
        have several). With an `order` (indices) only whole batches,
        an unreadable image replaced by the next readable one; without one all images as they are listed, unreadable ones left out.

        Raises: SparseheadError for an unreadable image, unless they are to be skipped, and for a reading process that died.
        """
        from sparsehead_cli.data.reading import IN_A_ROW  # torchvision: a second that only these images need

        places = np.arange(len(self)) if order is None else order.cpu().numpy()
        end = -(-len(places) // size) if order is None else len(places) // size
        reader = self._reader(places, size, read, replace=order is not None)
        count = 0
        with closing(self._read_on(reader, range(start, end))) as batches:  # an error ends the reading processes, too
            for images, labels, index, bad, skipped in batches:
                for one in bad:
                    if one.strange:
                        raise SparseheadError(f"{self.listing.where(self.index[one.place])}: {one.reason}. {STREAM}")
                if bad and not self.skip_bad_images:
                    raise self._unreadable(self.index[bad[0].place], bad[0].reason)
                if order is not None and len(labels) < size:
                    more = f", nor are the {min(IN_A_ROW, len(self)) - 1:,} images after it readable"
                    raise self._unreadable(self.index[bad[0].place], bad[0].reason + more)
                self.skipped += skipped
                count += len(labels)
                if len(labels):
                    images, labels, index = (each(self._sent, inputs) for inputs in (images, labels, index))
                    yield Batch(images, labels, index, skipped)
        if not count and end > start:
            raise SparseheadError(f"not one of the {len(places):,} images below {self.listing.root} can be read.")

    def _reader(self, places: np.ndarray, size: int, crops: Crops | None, *, replace: bool) -> "Reader":
        """What reads batches of `size` of the images at these places."""
        from sparsehead_cli.data.reading import Reader

        channels = getattr(self.spec, "channels", 3)
        kept = {"replace": replace, "channels": channels, "exact": self.exact}
        return Reader(self.listing, self.index, self.size, places, size, crops, self.skip_bad_images, **kept)

    def _read_on(self, reader: "Reader", numbers: range) -> Iterator[tuple]:
        """What `reader` makes of each batch's number, in order. A reading process that dies is replaced by another, which reads
        the same. Where DEATHS of them die over one image, or MOST_DEATHS over one batch, it is not chance.

        Raises: SparseheadError for reading processes that die again and again.
        """
        done, deaths, suspects = 0, 0, frozenset()
        while True:
            with closing(self._read(reader, numbers[done:])) as batches:
                try:
                    for batch in batches:
                        yield batch
                        done, deaths = done + 1, 0
                    return
                except Died as error:
                    suspects = suspects & error.images if deaths else error.images
                    deaths += 1
                    if (deaths >= DEATHS and suspects) or deaths == MOST_DEATHS:
                        raise SparseheadError(str(error)) from None
                    reader.opened.fill_(-1)

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _read(self, reader: "Reader", numbers: range) -> Iterator[tuple]:
        """What `reader` makes of each batch's number, in order. Raises: Died for a reading process that died."""
        workers = min(own_workers() if self.workers is None else self.workers, len(numbers))
        loader = DataLoader(
            reader,
            batch_size=None,  # a batch is read by one process, whole
            sampler=numbers,
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=_begin,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed, and the global generator must not notice
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
        readers: list[BaseProcess] = []
        end = multiprocessing.util.Finalize(None, _kill, (readers,), exitpriority=0)  # with this process at the latest
        try:
            yield from _without_its_signal(loader, readers)
        except (RuntimeError, ConnectionError, EOFError) as error:
            codes = _exit_codes(readers, wait=not isinstance(error, RuntimeError))
            if not codes and "DataLoader worker" not in str(error):
                raise
            raise died(codes[0] if codes else None, reader.unfinished()) from None
        finally:
            end()

    def _unreadable(self, i: int, reason: str) -> SparseheadError:
        """The error for the i-th file of the listing."""
        return SparseheadError(
            f"cannot read the image {self.listing.where(i)}: {reason}. Replace or remove it. "
            "Or leave such images out by --skip-bad-images: pretrain then trains without them, as a new run."
        )

    def fingerprint(self) -> str:
        """A hash of names, sizes and labels, in hexadecimals; the same wherever the folder lies, and no image is read for it."""
        return fingerprint(self.listing, self.index)

    def digest(self) -> str:
        """A hash of names, contents and labels, in hexadecimals; the same on every machine, wherever the folder lies."""
        found = hashlib.blake2b(digest_size=16)
        with ThreadPoolExecutor(WORKERS) as pool:
            for i in range(0, len(self), 1000):  # so many tasks wait at most
                for part in pool.map(self._digest_of, self.index[i : i + 1000]):
                    found.update(part)
        return found.hexdigest()

    def _digest_of(self, i: int) -> bytes:
        try:
            content = self.listing.read(i)
        except (OSError, ValueError) as error:
            if not self.skip_bad_images:
                raise self._unreadable(i, reason_of(error)) from None
            content = b""
        found = hashlib.blake2b(content, digest_size=16)
        found.update(repr((self.listing.name(i), len(content), int(self.listing.labels[i]))).encode())
        return found.digest()


def own_workers() -> int:
    """How many reading processes there are unless it is said: one a core that this process may use, at most WORKERS."""
    return min(WORKERS, cores())


def _exit_codes(readers: list[BaseProcess], *, wait: bool) -> list[int]:
    """Those of the reading processes that failed; with `wait` it gives them seconds to do so.

    The connections of a process that is killed are closed before its parent can learn that it has ended.
    """
    if wait:
        ending = multiprocessing.connection.wait([process.sentinel for process in readers], timeout=END_SECONDS)
        for process in (process for process in readers if process.sentinel in ending):
            process.join(END_SECONDS)  # its sentinel is such a connection, too
    return [process.exitcode for process in readers if process.exitcode]


def died(exit_code: int | None, unfinished: list[str]) -> Died:
    """The error for a reading process that died while it, or another one, had the `unfinished` files open."""
    how = signal.Signals(-exit_code).name if exit_code and exit_code < 0 else f"exit code {exit_code}"
    named = " or ".join(unfinished[:WORKERS])
    advice = ADVICE.get(how, "Remove the image, or try it alone. With --workers 0 images are read without such processes.")
    return Died(f"a process that reads images died ({how}){f' while it read {named}' if named else ''}. {advice}", unfinished)


def _as_it_is(batch: object) -> object:
    return batch


def _begin(worker: int) -> None:
    """A reading process: one thread; stops when the main process wants it, not when a terminal or scheduler signals to all."""
    torch.set_num_threads(1)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoder's remarks on files that it could read


def _without_its_signal(loader: DataLoader, readers: list[BaseProcess]) -> Iterator:
    """The loader's batches; its processes go into `readers`. One that dies is noticed when its batch is waited for, within seconds.

    By itself the loader would raise in a signal handler, wherever the main process happens to be.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main else None
    others = set(multiprocessing.active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the new processes inherit it, and are safe until `_begin`
    try:
        batches = iter(loader)
        readers += set(multiprocessing.active_children()) - others
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    yield from batches


def _kill(readers: list[BaseProcess]) -> None:
    """An error that keeps its frames keeps the loader, whose processes ignore the signal by which Python ends them: it would
    wait for them for ever.
    """
    for process in readers:
        process.kill()


ADVICE = {
    "SIGKILL": "Where nobody killed it, the memory was too small: choose fewer --workers or a smaller batch.",
    "SIGBUS": "Most often /dev/shm was too small: choose fewer --workers or a smaller batch, or --workers 0.",
}
