"""Data sets that Hugging Face's library saved: read like the folder whose images they hold."""

import builtins
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsehead_cli.data.datasets import dataset_info, fingerprint_of, load_split
from sparsehead_cli.errors import SparseheadError
from tests.data.saved_sets import CLASSES, part

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def saved(photographs, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    parts = {"train": part(datasets, photographs, "train"), "validation": part(datasets, photographs, "test")}
    datasets.DatasetDict(parts).save_to_disk(root)
    return root


def load(root, split="train+val", **settings):
    return load_split(str(root), split, Path("."), **{"image_size": 16, "workers": 0, **settings})


def images(source, **settings):
    return torch.cat([batch.inputs for batch in source.batches(8, **settings)])


def test_it_is_read_like_the_folder(photographs, saved):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for split in ("pretrain", "train", "val", "train+val", "test"):
        assert torch.equal(load(saved, split).labels, load(photographs, split).labels)
    for workers in (0, 2):
        assert torch.equal(images(load(saved, workers=workers), order=order), images(load(photographs), order=order))
    info = dataset_info(str(saved), Path("."))
    assert (info.classes, info.channels, info.size, info.labelled, info.tested) == (tuple(CLASSES), 3, 40, True, True)
    assert load(saved, "test").listing.where(3).startswith("in row 3 of validation of ")


def test_one_part_without_labels(photographs, tmp_path):
    part(datasets, photographs, "train", label=False).save_to_disk(tmp_path / "one")
    info = dataset_info(str(tmp_path / "one"), Path("."))
    assert (info.labelled, info.tested) == (False, False)
    assert len(load(tmp_path / "one", "pretrain")) == 54
    with pytest.raises(SparseheadError, match="no test images: no part is called test, or validation"):
        load(tmp_path / "one", "test")


def test_parts_have_any_of_their_names_and_one_of_them(photographs, tmp_path):
    parts = {"Training": part(datasets, photographs, "train"), "valid": part(datasets, photographs, "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "one")
    assert [len(load(tmp_path / "one", split)) for split in ("train+val", "test")] == [60, 15]
    datasets.DatasetDict({**parts, "val": parts["valid"]}).save_to_disk(tmp_path / "two")
    with pytest.raises(SparseheadError, match="the parts valid and val both are val. Save it with one of them"):
        load(tmp_path / "two")


def test_without_the_package_and_damaged(photographs, tmp_path, monkeypatch):
    part(datasets, photographs, "test").save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(SparseheadError, match=r"one is damaged or not complete: .*Save it again"):
        load(tmp_path / "one")
    datasets.Dataset.from_dict({"caption": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(SparseheadError, match="has no column of images, and one is needed; its columns are caption"):
        load(tmp_path / "text")
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "datasets")
    monkeypatch.setattr(builtins, "__import__", lambda name, *a, **k: missing() if name == "datasets" else real(name, *a, **k))
    with pytest.raises(SparseheadError, match=r"pip install 'sparsehead\[hf\]'"):
        load(tmp_path / "text")


def missing():
    raise ImportError("No module named datasets")


def test_a_row_with_another_image_makes_another_data_set(photographs, saved, tmp_path):
    other = part(datasets, photographs, "train")
    rows = other.select([0, 0, *range(2, 60)])  # as many rows, with the same labels
    parts = {"train": rows, "validation": part(datasets, photographs, "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "other")
    shutil.copytree(saved, tmp_path / "copy")
    assert fingerprint_of(str(tmp_path / "copy"), tmp_path) == fingerprint_of(str(saved), tmp_path)
    assert fingerprint_of(str(tmp_path / "other"), tmp_path) != fingerprint_of(str(saved), tmp_path)
    assert (load(saved).listing.sizes(np.arange(60)) > 0).all()
