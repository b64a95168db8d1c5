"""A network and a split -> features: extracted once, in eval mode, without augmentation, and kept beside the run."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, Inputs, Source
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.archive import Unsound, finite, read_archive
from sparsehead_cli.machine.files import cannot_write, make_folder, write_beside
from sparsehead_cli.sparse.layers import eval_mode

BATCH = 500


@dataclass(frozen=True)
class Features:
    """What a network makes of N images: by name ("r", "z", "pixels") float32 [N, D], and their labels int64 [N].

    `skipped` counts the unreadable images that are missing from all of them, `waiting_share` is the share of the extraction's
    time in which no batch of images was ready.
    """

    by_name: dict[str, Tensor]
    labels: Tensor
    skipped: int = 0
    waiting_share: float = 0.0

    def __getitem__(self, name: str) -> Tensor:
        return self.by_name[name]

    def __len__(self) -> int:
        return len(self.labels)


class EncoderAndHead(nn.Module):
    """A backbone and a projector as a network to measure: one view [B, C, h, w] -> {"r": [B, D], "z": [B, E]}."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, view: Tensor) -> dict[str, Tensor]:
        r = self.backbone(view)
        return {"r": r, "z": self.projector(r)}


class Pixels(nn.Module):
    """The images themselves as features, the base line without any network: one view -> {"pixels": [B, C·h·w]}.

    Images larger than SIDE are averaged down to it: a probe on 150,528 numbers would measure patience.
    """

    SIDE = 32
    names = ("pixels",)

    def forward(self, view: Tensor) -> dict[str, Tensor]:
        if max(view.shape[2:]) > self.SIDE:
            view = nn.functional.adaptive_avg_pool2d(view, self.SIDE)
        return {"pixels": view.flatten(1)}


@torch.no_grad()
def extract(
    network: nn.Module,
    split: Source,
    prepare: Callable[[Inputs], Inputs],
    features_of: Callable[[Inputs], dict[str, Tensor]] | None = None,
) -> Features:
    """The features of every input of a split, on its device; never more in memory than they are. The caller chooses autocast.

    They are what the network returns by name, or else `features_of` the prepared inputs, which it may call.
    """
    features_of = features_of or network
    by_name: dict[str, Tensor] = {}
    labels = torch.empty_like(split.labels)
    skipped_before, done = split.skipped, 0
    clock = Waiting()
    with eval_mode(network):
        for batch in clock.watch(split.batches(BATCH)):
            end = done + len(batch.labels)
            for name, features in features_of(prepare(batch.inputs)).items():
                if name not in by_name:
                    by_name[name] = torch.empty(len(split), features.shape[1], device=features.device)
                by_name[name][done:end] = features
            labels[done:end] = batch.labels
            done = end
    by_name = {name: features[:done] for name, features in by_name.items()}
    return Features(by_name, labels[:done], split.skipped - skipped_before, clock.share())


class Waiting:
    """How much of the time since it was made went by waiting for batches."""

    def __init__(self) -> None:
        self.began, self.waited = time.perf_counter(), 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each takes to come is added up."""
        waiting_since = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - waiting_since
            yield batch
            waiting_since = time.perf_counter()

    def share(self) -> float:
        """In [0, 1], so far."""
        return self.waited / max(1e-9, time.perf_counter() - self.began)


@torch.no_grad()
def widths_of(network: nn.Module, prepare: Prepare, device: torch.device) -> dict[str, int]:
    """The width of each of the features that a network with a size of its own makes, by name."""
    with eval_mode(network):
        features = network(prepare(prepare.example(device)))
    return {name: values.shape[1] for name, values in features.items()}


def features_file(folder: Path, network: str, images: str) -> Path:
    """Where the features of some images, by the digests of network and images, are kept in a folder."""
    return folder / f"{network}-{images}.pt"


def cached(
    path: Path,
    make: Callable[[], Features],
    device: torch.device,
    *,
    labels: Tensor,
    widths: dict[str, int],
    on_damage: Callable[[str], None] = lambda line: None,
) -> Features:
    """The features in the file at `path`, or else what `make` returns, which is then kept there.

    The path must name all that they depend on; `labels` int64 [N] and the `widths` by name are what they must be of. A file that
    is damaged or holds something else is made anew, and `on_damage` is called with a line about it; of several processes one makes
    it, and the others wait.

    Raises: SparseheadError when the folder cannot be written, and for features that are NaN or infinite.
    """
    make_folder(path.parent)
    with locked(path.with_suffix(".lock")):
        if os.path.lexists(path):
            try:
                return kept(path, device, labels, widths)
            except (Unsound, SparseheadError) as reason:
                on_damage(f"the features kept in {path} are damaged ({reason}): they are made anew")
        features = make()
        if not finite(features.by_name.values()):
            raise SparseheadError("the network's features of these images are NaN or infinite: its weights do not fit them.")
        write_beside(path, lambda file: torch.save({"key": path.stem, **vars(features)}, file))
    return features


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it. Raises: SparseheadError when it cannot be written."""
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield
    finally:
        lock.release()


def kept(path: Path, device: torch.device, labels: Tensor, widths: dict[str, int]) -> Features:
    """The features in a file. Raises: Unsound where it is damaged, or they are not features of these widths and labels.

    The file says its own name, so that one that was copied or renamed is not taken for another's; older versions' do not.
    """
    content = read_archive(path, device)
    if isinstance(content, dict) and content.pop("key", path.stem) != path.stem:
        raise Unsound("they are another file's")
    names = {field.name for field in fields(Features)}
    if not (isinstance(content, dict) and {"by_name", "labels"} <= set(content) <= names and isinstance(content["by_name"], dict)):
        raise Unsound("it holds something else")
    features = Features(**content)
    skipped, rows = features.skipped, features.labels
    if not (type(skipped) is int and 0 <= skipped <= len(labels) and type(features.waiting_share) is float):
        raise Unsound("its counts are none")
    if not (type(rows) is Tensor and rows.dtype == labels.dtype and _is_rest(rows, labels, skipped)):
        raise Unsound("its labels are of other images")
    if set(features.by_name) != set(widths):
        raise Unsound("it holds other features")
    for name, values in features.by_name.items():
        if not (type(values) is Tensor and values.dtype == torch.float32 and values.shape == (len(rows), widths[name])):
            raise Unsound(f"its {name} has another shape or type")
    if not finite(features.by_name.values()):
        raise Unsound("some of its numbers are NaN or infinite")
    return features


def _is_rest(rows: Tensor, labels: Tensor, skipped: int) -> bool:
    """Whether `rows` [N - skipped] are the labels of all images but the skipped ones, which may be any, in order."""
    if rows.shape != (len(labels) - skipped,):
        return False
    if not skipped:
        return torch.equal(rows, labels)
    rest = iter(labels.tolist())
    return all(label in rest for label in rows.tolist())
