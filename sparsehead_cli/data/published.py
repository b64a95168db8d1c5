"""The small published data sets, read whole into memory: (data_dir, train) -> images uint8 [N, C, H, W] or [N, H, W], labels [N].

Each lies below data_dir in its publisher's own files, and is downloaded where it is missing; checksums are compared by torchvision.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from sparsehead_cli.data.idx import FILES, has_idx, packed_or_not, read_idx_pair
from sparsehead_cli.errors import SparseheadError

Arrays = tuple[np.ndarray, np.ndarray]

EMBEDDED = Path(__file__).with_name("fashion10k.npz")
EMBEDDED_SHA256 = "72576a8136b680462690fce5bb7ab884839727a48b1a51ae92f8faea0636e3f0"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_MAY_DOWNLOAD = ContextVar("_MAY_DOWNLOAD", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Within it a data set that is not there is an error, and is neither downloaded nor unpacked."""
    before = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(before)


def read_embedded(data_dir: Path, train: bool) -> Arrays:
    """The images that travel inside the package. Raises: SparseheadError where they were damaged."""
    data = EMBEDDED.read_bytes() if EMBEDDED.exists() else b""
    if hashlib.sha256(data).hexdigest() != EMBEDDED_SHA256:
        state = "is damaged (its SHA-256 is wrong)" if data else "is missing"
        raise SparseheadError(f"the embedded data set {EMBEDDED} {state}. Reinstall sparsehead.")
    part = "train" if train else "test"
    with np.load(io.BytesIO(data)) as arrays:
        return arrays[f"{part}_images"], arrays[f"{part}_labels"]


def read_fashion_mnist(data_dir: Path, train: bool) -> Arrays:
    """From data_dir, data_dir/FashionMNIST/raw or Debian's package."""
    folders = (data_dir, data_dir / "FashionMNIST" / "raw", DEBIAN)
    return _read_idx_set("FashionMNIST", folders, data_dir, train)


def read_mnist(data_dir: Path, train: bool) -> Arrays:
    """From data_dir or data_dir/MNIST/raw."""
    return _read_idx_set("MNIST", (data_dir, data_dir / "MNIST" / "raw"), data_dir, train)


def _read_idx_set(name: str, folders: Sequence[Path], data_dir: Path, train: bool) -> Arrays:
    """The first of `folders` that has such files; both sets name theirs alike, so the other one's are passed over."""
    for folder in folders:
        if has_idx(folder, train=train) and not _is_the_other(name, packed_or_not(folder / FILES[train][1])):
            return read_idx_pair(folder, train=train)
    _torchvision(name, data_dir, train=train)
    return read_idx_pair(data_dir / name / "raw", train=train)


def _is_the_other(name: str, labels: Path) -> bool:
    """Whether a file of labels is that of the set which gives its files the same names, by its published checksum."""
    import torchvision.datasets

    other = torchvision.datasets.MNIST if name == "FashionMNIST" else torchvision.datasets.FashionMNIST
    published = dict(getattr(other, "resources", ()))  # file -> MD5
    if not labels.is_file():
        return False
    with open(labels, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == published.get(labels.name)


def read_cifar10(data_dir: Path, train: bool) -> Arrays:
    """cifar-10-batches-py, the Python version, in data_dir or as data_dir itself."""
    return _read_cifar("cifar10", data_dir, train)


def read_cifar100(data_dir: Path, train: bool) -> Arrays:
    """cifar-100-python, in data_dir or as data_dir itself; its hundred fine labels."""
    return _read_cifar("cifar100", data_dir, train)


def _read_cifar(known: str, data_dir: Path, train: bool) -> Arrays:
    if is_cifar(data_dir, known):
        return read_cifar_at(known, data_dir, train)
    return _arrays_of(_torchvision(known.upper(), data_dir, train=train))


def _arrays_of(data: object) -> Arrays:
    return data.data.transpose(0, 3, 1, 2), np.array(data.targets)


def cifar_below(path: Path) -> tuple[str, Path] | None:
    """Our name and the folder of the CIFAR set that a folder is or holds, in its publisher's files; None where it has none.

    Raises: SparseheadError where it holds both.
    """
    inside = {known: path / folder for known, (folder, _) in CIFARS.items()}
    found = [known for known, folder in inside.items() if folder.is_dir() or is_cifar(path, known)]
    if len(found) > 1:
        names = " or ".join(str(inside[known]) for known in found)
        raise SparseheadError(f"{path} holds {' and '.join(found)}: give one of them, {names}.")
    return next(((known, path if is_cifar(path, known) else inside[known]) for known in found), None)


def is_cifar(path: Path, known: str) -> bool:
    """Whether a folder itself holds a CIFAR set's files, all or not; an image folder has no two of these files."""
    return sum((path / file).is_file() for file in CIFARS[known][1]) > 1


def read_cifar_at(known: str, folder: Path, train: bool) -> Arrays:
    """A CIFAR set in the very folder of its files, which is somebody's own: nothing is downloaded to beside it.

    Raises: SparseheadError with the files that are missing or damaged.
    """
    import torchvision.datasets
    from torchvision.datasets.utils import check_integrity

    place, published = folder.resolve(), getattr(torchvision.datasets, known.upper())
    try:
        reader = type(published.__name__, (published,), {"base_folder": place.name})  # it looks for the folder in another
        return _arrays_of(reader(str(place.parent), train=train))
    except Exception as error:  # what is no pickle, or a pickle of something else, fails in many ways
        files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
        bad = [name for name, md5 in files if not check_integrity(place / name, md5)]
        what = f"{', '.join(bad)} missing or damaged" if bad else str(error)
        raise SparseheadError(f"{known} is not complete in {folder} ({what}). Put all files of {published.url} there.") from None


def read_svhn(data_dir: Path, train: bool) -> Arrays:
    """train_32x32.mat or test_32x32.mat; the digit 0, which the files call 10, has label 0."""
    data = _torchvision("SVHN", data_dir, split="train" if train else "test")
    return data.data, data.labels


def read_stl10(data_dir: Path, train: bool) -> Arrays:
    """The labelled images of stl10_binary."""
    data = _torchvision("STL10", data_dir, split="train" if train else "test")
    return data.data, data.labels


def read_stl10_unlabelled(data_dir: Path) -> np.ndarray:
    """Its 100,000 images without a label, uint8 [N, 3, 96, 96]."""
    return _torchvision("STL10", data_dir, split="unlabeled").data


def _torchvision(name: str, data_dir: Path, **chosen: object) -> object:
    """torchvision's reader of a data set, which compares checksums, loads nothing that fails, and downloads what is missing.

    Raises: SparseheadError for files that are missing, partial or damaged and cannot be downloaded.
    """
    import torchvision.datasets

    reader = getattr(torchvision.datasets, name)
    places = (data_dir / name / "raw", data_dir / name, data_dir, *data_dir.parents)  # torchvision makes them to download into
    missing = [place for place in places if not place.exists()]
    try:
        return reader(str(data_dir), download=_MAY_DOWNLOAD.get(), **chosen)
    except Exception as error:  # a download fails in as many ways as there are networks
        ours, what = SOURCES[name]
        if not _MAY_DOWNLOAD.get():
            raise SparseheadError(
                f"{ours} is not complete or not unpacked in {data_dir}, and a dry run fetches nothing. Without --dry-run it is "
                f"downloaded. {what}"
            ) from None
        raise SparseheadError(f"{ours} is not complete in {data_dir} and cannot be downloaded ({error}). {what}") from None
    finally:
        _remove_empty(missing)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove those that are there and empty, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


# torchvision's name -> ours, and how to get it by hand
SOURCES = {
    "FashionMNIST": (
        "fashion-mnist",
        "Put its four .gz files from https://github.com/zalandoresearch/fashion-mnist into that folder, "
        "or: apt-get install dataset-fashion-mnist",
    ),
    "MNIST": ("mnist", "Put its four .gz files from https://ossci-datasets.s3.amazonaws.com/mnist/ into its folder MNIST/raw."),
    "CIFAR10": ("cifar10", "Put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into that folder."),
    "CIFAR100": ("cifar100", "Put cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into that folder."),
    "STL10": ("stl10", "Put stl10_binary.tar.gz from https://cs.stanford.edu/~acoates/stl10/ into that folder."),
    "SVHN": (
        "svhn",
        "Put train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ into that folder.",
    ),
}

# our name -> the folder that the publisher's archive has, and the files in it
CIFARS = {
    "cifar10": ("cifar-10-batches-py", ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")),
    "cifar100": ("cifar-100-python", ("meta", "train", "test")),
}
