import dataclasses
import gzip
import hashlib
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from sparsehead_cli.data import published
from sparsehead_cli.data.datasets import DATASETS, held_out_mask, load_split
from sparsehead_cli.data.fashion10k import draw
from sparsehead_cli.data.idx import FILES, read_idx, read_idx_pair
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.published import EMBEDDED, EMBEDDED_SHA256
from sparsehead_cli.errors import SparseheadError
from tests.conftest import OF_THE_SYSTEM


def write_idx(path, array, claimed=None):
    header = bytes([0, 0, 8, array.ndim]) + np.array(claimed or array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    """A tiny Fashion-MNIST in the published byte format: 40 images of 4 classes."""
    rng = np.random.default_rng(0)
    for images, labels in FILES.values():
        write_idx(tmp_path / images, rng.integers(0, 256, (40, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / labels, np.arange(40, dtype=np.uint8) % 4)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "train+val"])
def test_images_in_memory_are_copied_once(split, tmp_path, monkeypatch):
    images, labels = np.zeros((20_000, 28, 28), np.uint8), np.arange(20_000) % 10
    images.setflags(write=False)
    info = dataclasses.replace(DATASETS["fashion10k"], read=lambda folder, train: (images, labels))
    monkeypatch.setitem(DATASETS, "large", info)
    tracemalloc.start()
    source = load_split("large", split, tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.3 * source.inputs.nbytes
    source.inputs[0] = 1  # a copy


def test_embedded_set_is_balanced_and_split(tmp_path):
    train, val, both, test = (load_split("fashion10k", s, tmp_path) for s in ("train", "val", "train+val", "test"))
    assert [len(s) for s in (train, val, both, test)] == [9000, 1000, 10000, 2000]
    assert train.inputs.shape[1:] == (1, 28, 28)
    assert train.inputs.dtype == torch.uint8
    assert train.labels.bincount().tolist() == [900] * 10
    assert val.labels.bincount().tolist() == [100] * 10
    assert test.labels.bincount().tolist() == [200] * 10
    assert EMBEDDED.stat().st_size <= 5_500_000


def test_embedded_note_states_the_true_hash_and_licence():
    note = EMBEDDED.with_suffix(".md").read_text()
    assert hashlib.sha256(EMBEDDED.read_bytes()).hexdigest() == EMBEDDED_SHA256
    assert EMBEDDED_SHA256 in note
    assert "Zalando SE" in note


def test_normalisation_is_the_sets_own(tmp_path):
    pixels = load_split("fashion10k", "train+val", tmp_path).inputs.double() / 255
    normalise = DATASETS["fashion10k"].normalise
    assert float(pixels.mean()) == pytest.approx(normalise.mean[0], abs=1e-4)
    assert float(pixels.std()) == pytest.approx(normalise.std[0], abs=1e-4)


def test_held_out_part_is_one_in_ten_of_each_class_and_of_nothing_else():
    labels = np.array([0, 1] * 25 + [2] * 9)
    mask = held_out_mask(labels)
    assert np.bincount(labels[mask], minlength=3).tolist() == [2, 2, 0]
    assert np.flatnonzero(mask[labels == 0]).tolist() == [9, 19]


@pytest.mark.skipif(not OF_THE_SYSTEM.exists(), reason="compares with Debian's dataset-fashion-mnist")
def test_embedded_images_are_the_official_ones():
    images, labels = read_idx_pair(OF_THE_SYSTEM, train=False)
    with np.load(EMBEDDED) as arrays:
        assert np.array_equal(arrays["test_images"], images[arrays["test_index"]])
        assert np.array_equal(arrays["test_labels"], labels[arrays["test_index"]])


def test_draw_is_balanced_and_without_replacement():
    labels = np.arange(200) % 10
    chosen = draw(labels, 7, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 70
    assert np.bincount(labels[chosen]).tolist() == [7] * 10


def test_fashion_mnist_is_read_from_the_data_dir_first(idx_folder):
    assert len(load_split("fashion-mnist", "train+val", idx_folder)) == 40
    assert len(load_split("fashion-mnist", "val", idx_folder)) == 4


def test_fashion_mnist_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(SparseheadError, match=r"cannot be downloaded \(no network\).*apt-get install dataset-fashion-mnist"):
        load_split("fashion-mnist", "train", tmp_path)


def test_damaged_idx_files_are_named(idx_folder):
    path = idx_folder / FILES[True][0]
    whole = path.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-9], b"not gzip at all", gzip.compress(b"abc"), gzip.compress(b"\0\0\x08\x03")):
        path.write_bytes(damaged)
        with pytest.raises(SparseheadError, match=r"train-images.*damaged"):
            read_idx(path)


def test_header_that_claims_more_images_than_there_are(idx_folder):
    path = idx_folder / FILES[True][0]
    write_idx(path, np.zeros((3, 28, 28), np.uint8), claimed=(4, 28, 28))
    with pytest.raises(SparseheadError, match="header does not fit"):
        read_idx(path)


HEADERS = {
    "sides whose product overflows": b"\0\0\x08\x03" + np.array([2**31, 2**31, 4], ">u4").tobytes(),
    "4 GB": b"\0\0\x08\x01" + b"\xff" * 4,
    "255 sides": b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x",
    "no side": b"\0\0\x08\0x",
    "floats": b"\0\0\x0d\x01\0\0\0\1" + b"x" * 4,
    "another kind": b"\x93NUMPY",
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("packed", [True, False])
def test_headers_that_claim_the_impossible_end_in_one_line(tmp_path, header, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(HEADERS[header]) if packed else HEADERS[header])
    with pytest.raises(SparseheadError, match=r"images.* is damaged: [^\n]*Fetch it again\.$"):
        read_idx(path)


def test_a_gz_that_expands_without_end_is_not_unpacked(idx_folder):
    path = idx_folder / FILES[True][0]
    header = b"\0\0\x08\x03" + np.array([40, 28, 28], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(40 * 28 * 28)) + 20 * gzip.compress(bytes(10_000_000)))
    tracemalloc.start()
    with pytest.raises(SparseheadError, match=r"train-images.*does not fit its more than 31,360 bytes"):
        load_split("fashion-mnist", "train", idx_folder)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_pipe_is_no_idx_file(idx_folder):
    path = idx_folder / FILES[True][0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SparseheadError, match="it is not a file"):
        load_split("fashion-mnist", "train", idx_folder)


@pytest.mark.parametrize("shape", [(40, 32, 32), (40, 784), (0, 28, 28)])
def test_images_of_another_shape_are_refused(idx_folder, shape):
    write_idx(idx_folder / FILES[True][0], np.zeros(shape, np.uint8))
    write_idx(idx_folder / FILES[True][1], np.zeros(shape[0], np.uint8))
    with pytest.raises(SparseheadError, match=r"shape|no images"):
        load_split("fashion-mnist", "train", idx_folder)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_a_download_that_fails_leaves_no_empty_folder(tmp_path, monkeypatch, name):
    """torchvision makes the folder before it asks the network."""
    monkeypatch.setattr(published, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    (tmp_path / "kept").mkdir()
    for folder in ("a/data", "kept"):
        with pytest.raises(SparseheadError, match="cannot be downloaded"):
            load_split(published.SOURCES[name][0], "train", tmp_path / folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_pickle_with_code_is_not_run(cifar_folder, tmp_path, monkeypatch):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    monkeypatch.setattr(CIFAR10, "download", lambda self: None)
    for name in ("data_batch_1", "batches.meta"):
        path = cifar_folder / "cifar-10-batches-py" / name
        sound = path.read_bytes()
        path.write_bytes(pickle.dumps(Code()))
        with pytest.raises(SparseheadError, match="is not complete"):
            load_split("cifar10", "train", cifar_folder)
        path.write_bytes(sound)
    assert not (tmp_path / "ran").exists()


def test_fewer_labels_than_images(idx_folder):
    write_idx(idx_folder / FILES[True][1], np.zeros(39, np.uint8))
    with pytest.raises(SparseheadError, match="40 images but 39 labels"):
        read_idx_pair(idx_folder, train=True)


def test_damaged_embedded_file(tmp_path, monkeypatch):
    copy = tmp_path / "fashion10k.npz"
    data = bytearray(EMBEDDED.read_bytes())
    data[1000] ^= 1
    copy.write_bytes(data)
    monkeypatch.setattr(published, "EMBEDDED", copy)
    with pytest.raises(SparseheadError, match="damaged.*Reinstall"):
        load_split("fashion10k", "train", tmp_path)


def test_unknown_name_and_split(tmp_path):
    with pytest.raises(SparseheadError, match='unknown dataset "fashion10".*Did you mean "fashion10k"'):
        load_split("fashion10", "train", tmp_path)
    with pytest.raises(SparseheadError, match='unknown split "tset".*Did you mean "test"'):
        load_split("fashion10k", "tset", tmp_path)


def test_batches_are_whole_and_can_start_in_the_middle():
    split = Memory(torch.arange(10).view(10, 1, 1, 1), 10 * torch.arange(10))
    order = torch.arange(10).flip(0)
    found = list(split.batches(4, order=order))
    assert [b.inputs.flatten().tolist() for b in found] == [[9, 8, 7, 6], [5, 4, 3, 2]]
    assert [b.labels.tolist() for b in found] == [[90, 80, 70, 60], [50, 40, 30, 20]]
    assert [b.inputs.flatten().tolist() for b in split.batches(4, order=order, start=1)] == [[5, 4, 3, 2]]


def test_without_an_order_every_image_comes_once_as_it_lies():
    split = Memory(torch.arange(10).view(10, 1, 1, 1), 10 * torch.arange(10))
    assert [b.labels.tolist() for b in split.batches(4)] == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90]]
    assert [b.inputs.flatten().tolist() for b in split.batches(4, start=2)] == [[8, 9]]
    assert split.take(torch.tensor([3, 1])).labels.tolist() == [30, 10]


def test_digest_is_of_images_and_labels_and_fixed_for_all_machines():
    split = Memory(torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), torch.arange(3))
    assert split.digest() == "4ae8207c38aec3db51f2ca72fdb82404"
    assert split.take(torch.tensor([0, 1, 2])).digest() == split.digest()
    changed = split.inputs.clone()
    changed[2, 0, 1, 1] += 1
    assert len({s.digest() for s in (split, Memory(changed, split.labels), Memory(split.inputs, split.labels.flip(0)))}) == 3
    assert Memory(split.inputs.view(3, 1, 4, 1), split.labels).digest() != split.digest()


def test_pretrain_is_train_where_every_image_has_a_label(tmp_path):
    assert load_split("fashion10k", "pretrain", tmp_path).digest() == load_split("fashion10k", "train", tmp_path).digest()


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """A tiny CIFAR-10 in the published layout, its checksums made known to torchvision."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(name):
        return write(name, {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]})

    monkeypatch.setattr(CIFAR10, "train_list", [part(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [part("test_batch")])
    name, digest = write("batches.meta", {"label_names": list(DATASETS["cifar10"].classes)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return tmp_path


def test_cifar10_in_its_published_layout(cifar_folder):
    train, test = (load_split("cifar10", s, cifar_folder) for s in ("train+val", "test"))
    assert (len(train), len(test)) == (100, 20)
    assert train.inputs.shape[1:] == (3, 32, 32)
    with open(cifar_folder / "cifar-10-batches-py" / "data_batch_2", "rb") as f:
        raw = pickle.load(f)
    assert train.inputs[25].flatten().tolist() == raw["data"][5].tolist()  # planes of red, green, blue, row by row
    assert train.labels[25] == 5


def test_damaged_cifar10_says_how_to_get_it(cifar_folder, monkeypatch):
    def no_network(self):
        raise OSError("no route to host")

    (cifar_folder / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"half")
    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(SparseheadError, match=r"cifar10 is not complete in .*no route to host.*Put cifar-10-python.tar.gz"):
        load_split("cifar10", "train", cifar_folder)
