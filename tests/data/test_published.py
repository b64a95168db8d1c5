"""The published small sets, each in exactly its publisher's bytes, whole and damaged; checksums are those of the small files."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, STL10, SVHN

from sparsehead_cli.data import published
from sparsehead_cli.data.datasets import DATASETS, load_split
from sparsehead_cli.data.idx import FILES
from sparsehead_cli.errors import SparseheadError
from tests.data.test_datasets import write_idx

SPLITS = ("pretrain", "train", "val", "train+val", "test")


def no_network(*arguments, **keywords):
    raise OSError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for reader in (CIFAR10, STL10, SVHN, MNIST):  # CIFAR100 is a CIFAR10
        monkeypatch.setattr(reader, "download", no_network_if_incomplete(reader))


def no_network_if_incomplete(reader):
    def download(self):
        complete = self._check_exists() if reader is MNIST else self._check_integrity()
        if not complete:
            no_network()

    return download


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    def part(name, count):
        fine = [i % 100 for i in range(count)]
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        names = [f"{name}_{i}.png" for i in range(count)]
        return write(name, {"filenames": names, "fine_labels": fine, "coarse_labels": [i // 5 for i in fine], "data": data})

    monkeypatch.setattr(CIFAR100, "train_list", [part("train", 1000)])
    monkeypatch.setattr(CIFAR100, "test_list", [part("test", 100)])
    name, digest = write("meta", {"fine_label_names": list(DATASETS["cifar100"].classes), "coarse_label_names": []})
    monkeypatch.setattr(CIFAR100, "meta", {"filename": name, "key": "fine_label_names", "md5": digest})
    return tmp_path


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """Labels 1 to 10 in bytes; images channel by channel, each column by column; 7 images without a label."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def part(name, count, labelled=True):
        image = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        image[:, 0, 5, 60] = 255  # red, row 5, column 60
        image[:, 0, 60, 5] = 0
        (folder / f"{name}_X.bin").write_bytes(image.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(count)))
        return [[f"{name}_{kind}.bin", md5(folder / f"{name}_{kind}.bin")] for kind in ("X", "y")[: 1 + labelled]]

    monkeypatch.setattr(STL10, "train_list", part("train", 100) + part("unlabeled", 7, labelled=False))
    monkeypatch.setattr(STL10, "test_list", part("test", 20))
    (folder / "class_names.txt").write_text("\n".join(DATASETS["stl10"].classes))
    return tmp_path


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """MATLAB's arrays: X [32, 32, 3, N], y [N, 1] with 10 for the digit 0."""
    rng = np.random.default_rng(0)
    lists = {}
    for part, count in (("train", 100), ("test", 20)):
        path = tmp_path / f"{part}_32x32.mat"
        x = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        x[5, 20, 0] = 255
        labels = np.arange(count, dtype=np.uint8) % 10
        scipy.io.savemat(path, {"X": x, "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)})
        lists[part] = ["http://nowhere", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", lists)
    return tmp_path


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for (images, labels), count in zip(FILES.values(), (100, 20), strict=True):
        write_idx(folder / images, rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / labels, np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "lengths", "shape"),
    [
        ("mnist", [90, 90, 10, 100, 20], (1, 28, 28)),
        ("cifar100", [900, 900, 100, 1000, 100], (3, 32, 32)),
        ("stl10", [97, 90, 10, 100, 20], (3, 96, 96)),
        ("svhn", [90, 90, 10, 100, 20], (3, 32, 32)),
    ],
)
def test_splits(request, name, lengths, shape):
    folder = request.getfixturevalue(name)
    splits = [load_split(name, split, folder) for split in SPLITS]
    assert [len(split) for split in splits] == lengths
    assert all((s.inputs.dtype, s.inputs.shape[1:], s.labels.dtype) == (torch.uint8, shape, torch.int64) for s in splits)
    both = splits[3].labels.tolist()
    assert both == [i % len(DATASETS[name].classes) for i in range(len(both))]


def test_cifar100_has_fine_labels_and_planes_of_colour(cifar100):
    split = load_split("cifar100", "train+val", cifar100)
    raw = pickle.loads((cifar100 / "cifar-100-python" / "train").read_bytes())
    assert split.labels.tolist() == raw["fine_labels"]
    assert torch.equal(split.inputs.flatten(1), torch.from_numpy(raw["data"]))
    assert len(DATASETS["cifar100"].classes) == 100


def test_stl10_stands_upright_and_has_images_without_a_label(stl10):
    split = load_split("stl10", "pretrain", stl10)
    assert split.labels[90:].tolist() == [-1] * 7
    assert split.labels[:90].min() == 0
    assert (split.inputs[:, 0, 5, 60] == 255).all()
    assert (split.inputs[:, 0, 60, 5] == 0).all()
    assert split.inputs.is_contiguous()


def test_svhn_calls_the_digit_0_by_label_0(svhn):
    split = load_split("svhn", "test", svhn)
    assert split.labels.tolist() == list(range(10)) * 2
    assert (split.inputs[:, 0, 5, 20] == 255).all()


def test_mnist_and_fashion_mnist_are_not_taken_for_each_other(mnist, monkeypatch):
    """Both publish files of the same names; in a folder of all data sets one must not be read as the other."""
    folder = mnist / "MNIST" / "raw"
    monkeypatch.setattr(MNIST, "resources", [(path.name, md5(path)) for path in folder.iterdir()])
    monkeypatch.setattr(published, "DEBIAN", mnist / "nowhere")
    assert len(load_split("mnist", "train+val", folder)) == 100
    with pytest.raises(SparseheadError, match="fashion-mnist is not complete in"):
        load_split("fashion-mnist", "train+val", folder)


def test_unpacked_idx_files_are_read_as_well(mnist):
    before = load_split("mnist", "train", mnist).digest()
    for path in list((mnist / "MNIST" / "raw").iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load_split("mnist", "train", mnist).digest() == before


HELP = {
    "cifar10": "Put cifar-10-python.tar.gz from https://www.cs.toronto.edu",
    "cifar100": "Put cifar-100-python.tar.gz from https://www.cs.toronto.edu",
    "stl10": "Put stl10_binary.tar.gz from https://cs.stanford.edu",
    "svhn": "Put train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu",
    "mnist": "Put its four .gz files from https://ossci-datasets",
}


@pytest.mark.parametrize("name", HELP)
def test_a_missing_set_says_how_to_get_it(name, tmp_path):
    with pytest.raises(SparseheadError) as error:
        load_split(name, "train", tmp_path)
    assert f"{name} is not complete in {tmp_path} and cannot be downloaded (no route to host)." in str(error.value)
    assert HELP[name] in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar100", "cifar-100-python/train"),
        ("cifar100", "cifar-100-python/meta"),
        ("stl10", "stl10_binary/train_X.bin"),
        ("stl10", "stl10_binary/train_y.bin"),
        ("stl10", "stl10_binary/unlabeled_X.bin"),
        ("svhn", "train_32x32.mat"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte.gz"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one bit"])
def test_damaged_files_are_never_read(request, name, file, damage):
    path = request.getfixturevalue(name) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "one bit": data}[damage])
    with pytest.raises(SparseheadError, match=r"is not complete in|is damaged|does not exist"):
        load_split(name, "pretrain", path.parents[len(file.split("/")) - 1])


def test_fewer_labels_than_images_and_labels_without_a_class(stl10, monkeypatch):
    """Files that agree with their checksums and yet not with each other."""
    path = stl10 / "stl10_binary" / "train_y.bin"
    whole = path.read_bytes()
    for data, words in ((whole[:-1], "stl10 is damaged: 100 images but 99 labels"), (whole[:-1] + b"\x0b", "labels from 0 to 10")):
        path.write_bytes(data)
        files = [[file, md5(path) if file == path.name else digest] for file, digest in STL10.train_list]
        monkeypatch.setattr(STL10, "train_list", files)
        with pytest.raises(SparseheadError, match=words):
            load_split("stl10", "train", stl10)
