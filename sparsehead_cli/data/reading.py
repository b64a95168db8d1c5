"""What a reading process does: files -> decoded and cut images, a batch at a time."""

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from sparsehead_cli.data.augment import Crops, Draw, random_boxes
from sparsehead_cli.data.contract import Inputs, each
from sparsehead_cli.data.decoding import decode_bytes
from sparsehead_cli.data.listing import Listing, reason_of
from sparsehead_cli.data.prepare import with_channels
from sparsehead_cli.machine.seeds import stable_seed

READERS = 256  # reading processes whose images can be named
IN_A_ROW = 100  # images that are tried for one place, until one can be read
CPU = torch.device("cpu")


class Bad(NamedTuple):
    """The place of an image in a Folder that was not taken, and why; a `strange` one could be read, and is not to be skipped."""

    place: int
    reason: str
    strange: bool


class OtherSize(ValueError):
    """An image of another size than those that are kept in memory with it."""


class Reader(Dataset):
    """What a reading process holds: the number of a batch -> its images, labels, what was unreadable, how many were skipped."""

    def __init__(
        self,
        listing: Listing,
        index: np.ndarray,
        size: int,
        places: np.ndarray,
        batch: int,
        crops: Crops | None,
        skip: bool,
        *,
        replace: bool,
        channels: int = 3,
        exact: bool = False,
    ) -> None:
        self.listing, self.index, self.size, self.channels = listing, index, size, channels
        self.places, self.batch, self.crops = places, batch, crops
        self.skip, self.replace, self.exact = skip, replace, exact
        self.opened = torch.full((READERS,), -1).share_memory_()  # by each reading process: which image of the listing it decodes

    def __getitem__(self, number: int) -> tuple[Inputs, Tensor, Tensor, list[Bad], int]:
        places = self.places[number * self.batch : (number + 1) * self.batch]
        images: list[Inputs] = []
        labels, index = [], []
        bad: list[Bad] = []
        skipped = 0
        for turn, place in enumerate(places.tolist()):
            known = len(bad)
            found = self._find(place, number, turn, bad)
            skipped += len(bad) > known
            if found:
                image, label, which = found
                images.append(image)
                labels.append(label)
                index.append(which)
            elif not self.skip:
                break  # the main process will end it
        batch = each(lambda *one: torch.stack(one), *images) if images else torch.empty(0)
        return batch, torch.tensor(labels, dtype=torch.int64), torch.tensor(index, dtype=torch.int64), bad, skipped

    def _find(self, place: int, number: int, turn: int, bad: list[Bad]) -> tuple[Inputs, int, int] | None:
        """The image for a place, cut, its label and which it is: the first candidate that can be read. Others go into `bad`."""
        for candidate in self._candidates(place):
            i = self._note(self.index[candidate])
            try:
                return self._cut(decode_bytes(self.listing.read(i)), number, turn), int(self.listing.labels[i]), candidate
            except Exception as error:  # whatever is wrong with a file, it must not end the process that reads
                bad.append(Bad(candidate, reason_of(error), isinstance(error, OtherSize)))
            finally:
                self._note(-1)
        return None

    def _note(self, i: int) -> int:
        """Let the main process know which image is decoded, so that it can name it if this process dies of it."""
        worker = get_worker_info()
        if worker is not None:
            self.opened[worker.id % READERS] = i
        return i

    def unfinished(self) -> list[str]:
        """The images that reading processes had opened and not finished."""
        return [self.listing.where(i) for i in self.opened.tolist() if i >= 0]

    def _candidates(self, place: int) -> Iterable[int]:
        """The image that is wanted, and those that may stand in for it."""
        count = min(IN_A_ROW, len(self.index)) if self.replace and self.skip else 1
        return ((place + i) % len(self.index) for i in range(count))

    def _cut(self, image: Tensor, number: int, turn: int) -> Inputs:
        """What becomes of an image. Raises: OtherSize where it must be of this size."""
        if self.exact and tuple(image.shape[1:]) != (self.size, self.size):
            raise OtherSize(f"it has {image.shape[2]} x {image.shape[1]} pixels, and others {self.size} x {self.size}")
        if self.crops is None:
            return with_channels((image if self.exact else middle(image, self.size))[None], self.channels)[0]
        return each(lambda crops: with_channels(crops, self.channels), random_crops(image, self.crops, number, turn))


def middle(image: Tensor, size: int) -> Tensor:
    """The short side resized (to 8/7 of `size` where that is above 64, as for ImageNet), the middle cut out; [3, size, size]."""
    short = round(size * 256 / 224) if size > 64 else size
    image = functional.resize(image, [short], InterpolationMode.BICUBIC, antialias=True)
    return functional.center_crop(image, [size, size])


def random_crops(image: Tensor, crops: Crops, number: int, turn: int) -> Inputs:
    """The crops of the image at place `turn` of batch `number`, one a view, [3, H, W] -> [V, 3, size, size].

    Views of several sizes have their crops by the name of the size.
    """
    seed = stable_seed("crops", crops.seed, crops.step + number, crops.first + turn, 0)  # 0: what was the process's number
    generator = torch.Generator().manual_seed(seed)
    by_size: dict[str, list[Tensor]] = {}
    for _, equal in groupby(crops.recipe, key=lambda view: (view.area, view.ratio, view.side)):
        views = list(equal)
        size = views[0].size_in(crops.size)
        boxes = random_boxes(views[0], *image.shape[1:], Draw(len(views), generator, CPU))
        for top, left, rows, columns in torch.stack(boxes, dim=1).int().tolist():
            box = functional.crop(image, top, left, rows, columns)
            cut = functional.resize(box, [size, size], InterpolationMode.BICUBIC, antialias=True)
            by_size.setdefault(str(size), []).append(cut)
    stacked = {name: torch.stack(cut) for name, cut in by_size.items()}
    return stacked if len(stacked) > 1 else next(iter(stacked.values()))
