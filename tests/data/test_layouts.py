"""Folders of images in their published layouts, and every way in which they can be incomplete."""

import shutil

import numpy as np
import pytest
import torch
from torchvision.io import write_jpeg

from sparsehead_cli.data.datasets import DATASETS, dataset_info, load_split
from sparsehead_cli.errors import SparseheadError

WNIDS = ("n02124075", "n01443537", "n04067472")  # not sorted: the order of wnids.txt counts


def write_image(path, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(label).integers(0, 100, (3, 64, 64), dtype=np.uint8)
    image[label] += 150
    write_jpeg(torch.from_numpy(image), str(path))


@pytest.fixture(scope="session")
def tiny_once(tmp_path_factory):
    """A Tiny-ImageNet of 3 classes with 12 training and 2 validation images each, and unlabelled test images."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(WNIDS):
        for i in range(12):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", label)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for i in range(6):
        write_image(root / "val" / "images" / f"val_{i}.JPEG", i % 3)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62\n")
        write_image(root / "test" / "images" / f"test_{i}.JPEG", 0)
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    words = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n04067472": "reel", "n00001740": "entity"}
    (root / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in words.items()))
    return root.parent


@pytest.fixture
def tiny_imagenet(tiny_once, tmp_path):
    return shutil.copytree(tiny_once, tmp_path / "data")


@pytest.fixture
def imagenet(tmp_path):
    """ILSVRC2012 with two classes, 11 training images of one and 3 of the other."""
    for label, (wnid, count) in enumerate((("n01440764", 11), ("n01443537", 3))):
        for i in range(count):
            write_image(tmp_path / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", label)
        write_image(tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_0000000{label}.JPEG", label)
    return tmp_path


def load(name, split, data_dir, **settings):
    return load_split(str(name), split, data_dir, workers=0, **settings)


def test_tiny_imagenet_as_published(tiny_imagenet):
    info = dataset_info("tiny-imagenet", tiny_imagenet)
    assert (info.classes, info.channels, info.size) == (("Egyptian cat", "goldfish", "reel"), 3, 64)
    lengths = [len(load("tiny-imagenet", s, tiny_imagenet)) for s in ("pretrain", "train", "val", "train+val", "test")]
    assert lengths == [33, 33, 3, 36, 6]
    for folder in (tiny_imagenet, tiny_imagenet / "tiny-imagenet-200"):
        for split in ("train+val", "test"):
            (batch,) = load("tiny-imagenet", split, folder).batches(99)
            assert batch.inputs.shape[1:] == (3, 64, 64)
            assert batch.inputs.float().mean(dim=(2, 3)).argmax(dim=1).tolist() == batch.labels.tolist()
            assert sorted(set(batch.labels.tolist())) == [0, 1, 2]


def test_imagenet_as_published(imagenet):
    for folder in (imagenet, imagenet / "imagenet"):
        info = dataset_info("imagenet", folder)
        assert (info.classes, info.size) == (("n01440764", "n01443537"), 224)
        assert [len(load("imagenet", s, folder)) for s in ("train", "val", "test")] == [13, 1, 2]
        (batch,) = load("imagenet", "test", folder).batches(99)
        assert batch.inputs.shape == (2, 3, 224, 224)
        assert batch.labels.tolist() == [0, 1]
    assert info.normalise == DATASETS["tiny-imagenet"].normalise


def test_val_is_the_test_set_where_there_is_no_other(damageable):
    (damageable / "test").rename(damageable / "val")
    assert len(load(damageable, "test", damageable)) == 15
    shutil.rmtree(damageable / "val")
    with pytest.raises(SparseheadError, match=r"no test images: no folder test/ or val/"):
        load(damageable, "test", damageable)
    assert len(load(damageable, "train", damageable)) == 54


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "validation"), ("train", "valid")]
)
def test_the_folders_of_parts_have_any_of_their_names(damageable, train, test):
    for old, new in (("train", train), ("test", test)):
        (damageable / old).rename(damageable / "moving")
        (damageable / "moving").rename(damageable / new)
    assert [len(load(damageable, split, damageable)) for split in ("train+val", "test")] == [60, 15]
    (damageable / "training_").mkdir()  # the whole name counts
    load(damageable, "train", damageable)
    (damageable / "trainSet").mkdir()
    with pytest.raises(SparseheadError, match="both are named as train. Leave one"):
        load(damageable, "train", damageable)


def test_parts_that_lie_deeper_are_not_all_trained_on(damageable):
    (damageable / "images").mkdir()
    for part in ("train", "test"):
        (damageable / part).rename(damageable / "images" / part)
    with pytest.raises(SparseheadError, match=r"has no train/ in it, but .*images has test and train: give that folder"):
        load(damageable, "train", damageable)
    assert len(load(damageable / "images", "test", damageable)) == 15


def test_parts_behind_a_link_are_found(damageable, tmp_path):
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "linked").symlink_to(damageable)
    with pytest.raises(SparseheadError, match=r"has no train/ in it, but .*linked has test and train: give that folder"):
        load(tmp_path / "above", "train", tmp_path)


def test_a_test_set_may_lack_a_class_and_classes_may_have_one_image(damageable):
    shutil.rmtree(damageable / "test" / "cat")
    assert load(damageable, "test", damageable).labels.tolist() == [0] * 5 + [2] * 5
    for path in list((damageable / "train").glob("*/*.jpg")):
        if path.name != "000.jpg":
            path.unlink()
    assert load(damageable, "train", damageable).labels.tolist() == [0, 1, 2]
    with pytest.raises(SparseheadError, match="no class has 10 training images"):
        load(damageable, "val", damageable)


def test_folders_in_folders_and_strange_names(damageable):
    shutil.move(damageable / "train" / "dog" / "019.jpg", damageable / "train" / "dog" / "Zürich 1.JPG")
    (damageable / "train" / "dog" / "more").mkdir()
    shutil.move(damageable / "train" / "dog" / "018.jpg", damageable / "train" / "dog" / "more" / "a\nb.jpg")
    (damageable / "train" / "dog" / "._000.jpg").write_bytes(b"a remark of the Finder")
    (damageable / "train" / ".hidden").mkdir()
    split = load(damageable, "train+val", damageable)
    assert len(split) == 60
    assert sum(len(batch.labels) for batch in split.batches(20)) == 60


FOLDER_DAMAGES = {
    "no train": (lambda root: shutil.rmtree(root / "train"), r"no folder .*train.*<class>/"),
    "no classes": (lambda root: [shutil.rmtree(p) for p in (root / "train").iterdir()], "has no folder of a class"),
    "empty class": (lambda root: (root / "train" / "ant").mkdir(), r"train.ant has no images in it \(\.jpg"),
    "unknown kind": (
        lambda root: [p.rename(p.with_suffix(".tif")) for p in (root / "train" / "cat").iterdir()],
        r"cat has no images",
    ),
    "empty test class": (lambda root: [p.unlink() for p in (root / "test" / "cat").iterdir()], r"test.cat has no images"),
    "class of test alone": (lambda root: (root / "test" / "ant").mkdir(), r"test has classes that .*train lacks: ant\."),
    "test not sorted": (lambda root: [shutil.rmtree(p) for p in (root / "test").iterdir()], r"test has no folder of a class.*Sort"),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGES)
def test_damaged_image_folders(damageable, damage):
    change, words = FOLDER_DAMAGES[damage]
    change(damageable)
    with pytest.raises(SparseheadError, match=words):
        for split in ("train", "test"):
            load(damageable, split, damageable)


TINY_DAMAGES = {
    "no annotations": (lambda root: (root / "val" / "val_annotations.txt").unlink(), r"val_annotations.txt \(No such file"),
    "empty annotations": (
        lambda root: (root / "val" / "val_annotations.txt").write_text(""),
        r"val_annotations.txt \(the file is empty",
    ),
    "image named twice": (
        lambda root: (root / "val" / "val_annotations.txt").open("a").write("val_0.JPEG\tn02124075\t0\n"),
        r"names 7 images, .* holds 6",
    ),
    "short annotations": (lambda root: shorten(root / "val" / "val_annotations.txt", 5), r"names 5 images, .* holds 6"),
    "half a line": (
        lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG"),
        r"val_annotations.txt is damaged",
    ),
    "unknown class": (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\t0\n"), "is damaged"),
    "missing image": (lambda root: (root / "val" / "images" / "val_3.JPEG").unlink(), r"names 6 images, .* holds 5"),
    "no images": (lambda root: shutil.rmtree(root / "val" / "images"), r"holds 0"),
    "no wnids": (lambda root: (root / "wnids.txt").unlink(), r"cannot read .*wnids.txt \(No such file"),
    "binary wnids": (lambda root: (root / "wnids.txt").write_bytes(b"\xff\xfe\x00"), r"cannot read .*wnids.txt"),
    "no words": (lambda root: (root / "words.txt").unlink(), r"cannot read .*words.txt"),
    "missing class": (lambda root: shutil.rmtree(root / "train" / WNIDS[1]), r"n01443537 is missing"),
    "nothing": (lambda root: shutil.rmtree(root), r"tiny-imagenet is not in .*tiny-imagenet-200.zip"),
}


def shorten(path, lines):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize("damage", TINY_DAMAGES)
def test_damaged_tiny_imagenet(tiny_imagenet, damage):
    change, words = TINY_DAMAGES[damage]
    change(tiny_imagenet / "tiny-imagenet-200")
    with pytest.raises(SparseheadError, match=words):
        for split in ("train", "test"):
            load("tiny-imagenet", split, tiny_imagenet)


def test_missing_imagenet_and_folders_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(SparseheadError, match=r"imagenet is not in .*image-net.org"):
        load("imagenet", "train", tmp_path)
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(SparseheadError, match=r"has no folder of a class"):
        load("imagenet", "train", tmp_path)
    with pytest.raises(SparseheadError, match=r"there is no such folder.*train/<class>/"):
        load("pictures/mine", "train", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparseheadError, match=r'unknown dataset "pictures"; known: fashion10k.*Or the path of a folder'):
        load("pictures", "train", tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SparseheadError, match=r"no folder pictures.train"):
        load("pictures", "train", tmp_path)


def test_imagenet_whose_validation_images_were_never_sorted(imagenet):
    for folder in (imagenet / "imagenet" / "val").iterdir():
        for path in folder.iterdir():
            path.rename(folder.parent / path.name)
        folder.rmdir()
    assert len(load("imagenet", "train", imagenet)) == 13
    with pytest.raises(SparseheadError, match=r"val has no folder of a class in it. Sort its images into"):
        load("imagenet", "test", imagenet)
