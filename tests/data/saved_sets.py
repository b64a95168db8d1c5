"""Data sets as other people's programs save them: CIFAR-10's publisher, and Hugging Face's library."""

import hashlib
import pickle

import numpy as np
import torchvision.datasets

CLASSES = ["bird", "cat", "dog"]


def part(datasets, photographs, name, label=True):
    """A part of the photographs as a Dataset of the library `datasets`."""
    paths = sorted(photographs.glob(f"{name}/*/*.jpg"))
    columns = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths]}
    kinds = {"image": datasets.Image()}
    if label:
        columns["kind"] = [CLASSES.index(path.parent.name) for path in paths]
        kinds["kind"] = datasets.ClassLabel(names=CLASSES)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def write_cifar(folder, monkeypatch):
    """CIFAR-10's files of eleven images a batch, with checksums that fit."""
    folder.mkdir(parents=True)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name):
        rng = np.random.default_rng(len(name))
        return write(name, {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]})

    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(cifar, "test_list", [batch("test_batch")])
    names = {"label_names": ["airplane"] * 10}
    monkeypatch.setattr(cifar, "meta", dict(zip(("filename", "md5"), write("batches.meta", names), strict=True), key="label_names"))
