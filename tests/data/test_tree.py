"""Folders of images with symbolic links in them, and what is no image at all: each file counts once."""

import os

import pytest

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.data.tree import images_below
from sparsehead_cli.errors import SparseheadError


def names(root, split="train+val"):
    listing = load_split(str(root), split, root, workers=0).listing
    return [listing.name(i).decode() for i in range(len(listing))]


def link(path, target):
    path.symlink_to(target, target_is_directory=True)


@pytest.mark.parametrize("targets", [["."], [".", "."], ["loop1", "loop0"], ["../bird", "more"], ["{root}/train/bird"]])
def test_a_link_to_a_folder_multiplies_nothing_and_ends(damageable, targets):
    before = names(damageable)
    for i, target in enumerate(targets):
        link(damageable / "train" / "bird" / f"loop{i}", target.format(root=damageable))
    assert names(damageable) == before


def test_a_link_to_a_file_of_the_same_class_multiplies_nothing(damageable):
    before = names(damageable)
    (damageable / "train" / "bird" / "000a.jpg").symlink_to("000.jpg")
    assert names(damageable) == before
    elsewhere = damageable / "elsewhere.jpg"
    (damageable / "train" / "bird" / "001.jpg").rename(elsewhere)
    for name in ("001.jpg", "zzz.jpg"):
        (damageable / "train" / "bird" / name).symlink_to(elsewhere)
    assert names(damageable) == before


def test_classes_parts_and_whole_sets_may_be_links_to_elsewhere(damageable, tmp_path):
    before = names(damageable), names(damageable, "test")
    (damageable / "train" / "bird").rename(tmp_path / "birds")
    link(damageable / "train" / "bird", tmp_path / "birds")
    (damageable / "test").rename(tmp_path / "held out")
    link(damageable / "test", tmp_path / "held out")
    link(tmp_path / "set", damageable)
    assert (names(tmp_path / "set"), names(tmp_path / "set", "test")) == before


def test_a_hard_link_is_a_file_of_its_own(damageable):
    os.link(damageable / "train" / "bird" / "000.jpg", damageable / "train" / "bird" / "zzz.jpg")
    assert len(names(damageable)) == 61


TWICE = {  # what is made, where it leads to, what belongs where, and by which link
    "class of a class": ("train/more", "cat", "train/cat belongs to train/cat", "train/more, to train/more"),
    "file of a class": (
        "train/bird/x.jpg",
        "../cat/000.jpg",
        "cat/000.jpg belongs to train/cat",
        "train/bird/x.jpg, to train/bird",
    ),
    "file of a later class": (
        *("train/dog/x.jpg", "../cat/000.jpg"),
        *("cat/000.jpg belongs to train/cat", "train/dog/x.jpg, to train/dog"),
    ),
    "all classes": ("train/cat/up", "..", "train/bird belongs to train/bird", "train/cat/up, to train/cat"),
    "all classes in the first": ("train/bird/up", "..", "train/cat belongs to train/cat", "train/bird/up, to train/bird"),
    "a class that is all": ("train/back", "../train", "train/bird belongs to train/bird", "train/back, to train/back"),
    "folder of training": ("test/bird/more", "../../train/cat", "train/cat belongs to train", "test/bird/more, to test"),
    "file of training": ("test/bird/x.jpg", "../../train/cat/000.jpg", "cat/000.jpg belongs to train", "test/bird/x.jpg, to test"),
}


@pytest.mark.parametrize("case", TWICE)
def test_an_image_in_two_classes_or_in_training_and_test_is_refused(damageable, case):
    path, target, owner, by = TWICE[case]
    link(damageable / path, target)
    with pytest.raises(SparseheadError, match=rf"{owner} and, by the symbolic link {damageable}/{by}. Remove the link"):
        names(damageable, path.split("/")[0].replace("train", "train+val"))


def test_a_test_set_that_is_the_training_set_is_refused(damageable):
    (damageable / "test").rename(damageable / "val")
    link(damageable / "test", "train")
    with pytest.raises(SparseheadError, match=r"belongs to train and, by the symbolic link .*/test, to test. Remove the link"):
        names(damageable, "test")


def test_links_to_nowhere_are_images_that_cannot_be_read(damageable):
    (damageable / "train" / "bird" / "zzz.jpg").symlink_to("nowhere.jpg")
    (damageable / "train" / "cat" / "self.jpg").symlink_to("self.jpg")
    link(damageable / "train" / "dog" / "self", "self")
    link(damageable / "train" / "self", "self")
    split = load_split(str(damageable), "train+val", damageable, workers=0, image_size=8)
    assert len(split) == 62
    with pytest.raises(SparseheadError, match=r"train/bird/zzz.jpg: it is a symbolic link to nowhere.jpg, which is not there"):
        list(split.batches(62))
    split.skip_bad_images = True
    assert sum(len(batch.labels) for batch in split.batches(62)) == 60


def test_pipes_and_devices_are_named_and_not_waited_for(damageable):
    os.mkfifo(damageable / "train" / "bird" / "zzz.jpg")
    (damageable / "train" / "dog" / "zzz.jpg").symlink_to("/dev/zero")
    split = load_split(str(damageable), "train+val", damageable, workers=0, image_size=8)
    for reading in (lambda: list(split.batches(62)), split.digest):
        with pytest.raises(SparseheadError, match=r"train/bird/zzz.jpg: it is not a file"):
            reading()


def test_a_folder_that_cannot_be_listed_is_named_not_left_out(damageable, monkeypatch):
    real = os.scandir

    def scandir(folder):
        if str(folder).endswith("more"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    (damageable / "train" / "bird" / "more").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SparseheadError, match=r"cannot list the folder .*bird/more: Permission denied"):
        names(damageable)


def test_the_folder_that_one_is_in(photographs, monkeypatch):
    before = names(photographs)
    monkeypatch.chdir(photographs)
    split = load_split(".", "train+val", photographs, workers=0, image_size=8)
    assert [split.listing.name(i).decode() for i in range(60)] == before
    assert sum(len(batch.labels) for batch in split.batches(60)) == 60


def test_a_thousand_folders_and_names_of_any_bytes(tmp_path):
    for i in range(1000):
        (tmp_path / f"{i // 10}" / f"{i}").mkdir(parents=True)
    for name in (b"-rf.jpg", b"a\nb.jpg", b"\xff\xfe.jpg", b" .JPG", "雪.png".encode()):
        (tmp_path / "1" / os.fsdecode(name)).write_bytes(b"")
    assert len(images_below(tmp_path).paths) == 5
