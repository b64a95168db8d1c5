"""Somebody's own images: without labels, without a test part, grey or small, and what is said of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_png

from sparsehead_cli.data import datasets, published
from sparsehead_cli.data.augment import RECIPES, Crops
from sparsehead_cli.data.contract import fingerprint
from sparsehead_cli.data.datasets import DATASETS, dataset_info, fingerprint_of, load_split
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.identity import run_identity
from sparsehead_cli.runs.settled import settled
from tests.data.saved_sets import write_cifar
from tests.data.test_shards import samples_of, write_shards


def info_of(root, **settings):
    return dataset_info(str(root), Path("."), **settings)


def load(root, split="pretrain", **settings):
    return load_split(str(root), split, Path("."), **{"workers": 0, **settings})


def write_images(folder, images, ending="png"):
    """uint8 [N, H, W] or [N, H, W, 3] -> files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04}.{ending}")
    return folder


@pytest.fixture(scope="module")
def garments():
    """Garments of the embedded set, and their labels."""
    split = load_split("fashion10k", "test", Path("data"))
    return split.inputs[:40, 0].numpy(), split.labels[:40].tolist()


def test_photographs_anywhere_have_no_labels(photographs, tmp_path):
    shutil.copytree(photographs / "train", tmp_path / "mine")
    for root in (tmp_path / "mine", tmp_path / "mine" / "cat"):
        info = info_of(root)
        assert (info.labelled, info.tested, info.classes, info.size) == (False, False, (), 40)
        assert set(load(root).labels.tolist()) == {-1}
        assert any("no labels" in note for note in info.notes)
        assert any("no test images" in note for note in info.notes)
        assert any("not taken for classes" in note for note in info.notes)
    assert {s: len(load(tmp_path / "mine", s)) for s in ("pretrain", "train", "val", "train+val")} == {
        **{"pretrain": 54, "train": 54, "val": 6, "train+val": 60}
    }
    with pytest.raises(SparseheadError, match="no test images"):
        load(tmp_path / "mine", "test")


def test_train_and_test_without_classes(photographs, tmp_path):
    shutil.copytree(photographs / "train" / "cat", tmp_path / "train")
    shutil.copytree(photographs / "test", tmp_path / "test")
    info = info_of(tmp_path)
    assert (info.labelled, info.tested) == (False, True)
    assert [len(load(tmp_path, part)) for part in ("pretrain", "val", "test")] == [18, 2, 15]
    (tmp_path / "test" / "link.jpg").symlink_to(tmp_path / "train" / "000.jpg")
    with pytest.raises(SparseheadError, match=r"by the symbolic link .*link.jpg"):
        load(tmp_path, "test")


def test_images_beside_the_classes_are_said_to_be_left_out(damageable):
    shutil.copy(damageable / "train" / "cat" / "000.jpg", damageable / "train")
    info = info_of(damageable)
    assert info.classes == ("bird", "cat", "dog")
    assert info.notes == (f"images that lie in {damageable}/train itself are left out: they are in no folder of a class",)
    assert len(load(damageable)) == 54
    shutil.move(damageable / "train" / "000.jpg", damageable / "test")
    assert info_of(damageable).notes == (
        f"images that lie in {damageable}/test itself are left out: they are in no folder of a class",
    )


def test_images_with_other_endings_are_said_to_be_left_out(damageable, photographs, tmp_path):
    for name in ("train/cat/0.bmp", "train/dog/0.BMP", "train/dog/0.gif", "test/cat/0.tiff", "train/dog/.0.bmp", "train/dog/0.txt"):
        (damageable / name).touch()
    taken = "are left out ({}): taken are .jpg, .jpeg, .png, .webp"
    train, test = (f"images in {damageable}/{part} {taken}" for part in ("train", "test"))
    assert info_of(damageable).notes == (train.format("2 .bmp, 1 .gif"), test.format("1 .tiff"))
    assert info_of(photographs).notes == ()
    assert info_of(damageable / "train").notes[-1] == train.format("2 .bmp, 1 .gif")


def test_the_size_is_that_of_the_images(tmp_path):
    rng = np.random.default_rng(0)

    def size_of(name, *sizes):
        for i, (width, height) in enumerate(sizes):
            write_images(tmp_path / name / str(i), rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8))
        return info_of(tmp_path / name).size

    assert size_of("one", (50, 70)) == 50
    assert size_of("several", (50, 70), (90, 61), (200, 300)) == 56  # the median, 61, in steps of 8
    assert size_of("large", (500, 700)) == 224
    assert size_of("tiny", (3, 5)) == 8


def test_grey_images_have_one_channel(garments, tmp_path):
    images, _ = garments
    write_images(tmp_path / "grey", images)
    write_images(tmp_path / "equal", np.stack([images] * 3, axis=3), "jpg")
    info = info_of(tmp_path / "grey")
    assert (info.channels, info.size) == (1, 28)
    assert info.normalise.mean == pytest.approx((0.4588,), abs=1e-3)
    assert info_of(tmp_path / "equal").channels == 1
    source = load(tmp_path / "grey", "train+val")
    assert torch.equal(source.inputs[:, 0], torch.from_numpy(images))  # in memory, not a bit changed
    streamed = load(tmp_path / "grey", "train+val", cache="none", image_size=28)
    assert torch.equal(torch.cat([batch.inputs for batch in streamed.batches(7)]), source.inputs)
    (crops,) = streamed.batches(40, order=torch.arange(40), read=Crops(RECIPES["grey-small"], 28, 0))
    assert crops.inputs.shape == (40, 2, 1, 28, 28)
    coloured = np.stack([images] * 3, axis=3)
    coloured[:, 0, 0] = (255, 0, 0)
    write_images(tmp_path / "colour", coloured)
    assert info_of(tmp_path / "colour").channels == 3


@pytest.mark.parametrize(("count", "coloured"), [(256, lambda i: i % 8), (512, lambda i: i % 2), (1024, lambda i: i % 4 == 3)])
def test_images_of_colour_between_grey_ones_are_found(tmp_path, count, coloured):
    grey, red = np.full((8, 8, 3), 90, np.uint8), np.full((8, 8, 3), (90, 9, 9), np.uint8)
    write_images(tmp_path, [red if coloured(i) else grey for i in range(count)])
    assert info_of(tmp_path).channels == 3


def test_small_squares_live_in_memory_and_others_stream(garments, photographs, tmp_path, monkeypatch):
    images, _ = garments
    small = write_images(tmp_path / "small", images)
    assert isinstance(load(small), Memory)
    assert info_of(small).cached == 40 * 28 * 28
    assert not isinstance(load(small, cache="none"), Memory)
    assert not isinstance(load(photographs), Memory)
    with pytest.raises(SparseheadError, match=r"are 48 x 40 pixels, and only squares of one size.*--set cache=none"):
        load(photographs, cache="memory")
    monkeypatch.setattr(datasets, "CACHED", 1000)
    assert not isinstance(load(small), Memory)
    assert isinstance(load(small, cache="memory"), Memory)
    monkeypatch.setattr(datasets, "memory_of", lambda device: 1000)
    with pytest.raises(SparseheadError, match="its decoded images are .* and the machine has"):
        load(small, cache="memory")
    with pytest.raises(SparseheadError, match='unknown cache "disk"; known: auto, memory, none'):
        load(small, cache="disk")


def test_one_of_another_size_is_no_number(garments, tmp_path, monkeypatch):
    images, _ = garments
    monkeypatch.setattr("sparsehead_cli.data.looks.SAMPLE", 4)
    small = write_images(tmp_path / "small", images)
    Image.fromarray(images[0]).resize((30, 28)).save(small / "0005.png")
    with pytest.raises(SparseheadError, match=r"0005.png: it has 30 x 28 pixels, and others 28 x 28.*--set cache=none"):
        load(small, skip_bad_images=True)
    (small / "0005.png").write_bytes(b"")
    with pytest.raises(SparseheadError, match=r"0005.png: the file is empty"):
        load(small)
    source = load(small, skip_bad_images=True)
    assert len(source) == 35
    assert "1 unreadable images are left out" in source.spec.notes


def test_what_evaluate_will_refuse_is_said_before_training(garments, tmp_path):
    images, _ = garments
    for name in ("one", "two"):
        write_images(tmp_path / "train" / name, images[:12])
        write_images(tmp_path / "test" / name, images[:2, :20, :20])
    said = " ".join(info_of(tmp_path).notes)
    assert "the test images are not all of 28 x 28 pixels, as images in memory must be: evaluate will refuse them" in said
    assert info_of(tmp_path, cache="none").notes == ()
    write_images(tmp_path / "test" / "three", images[:2])
    said = " ".join(info_of(tmp_path).notes)
    assert "evaluate will refuse the test images: " in said
    assert "has classes that" in said


def test_what_follows_the_images_is_in_the_name_where_it_differs_from_older_runs(garments, photographs, tmp_path):
    def settings(**given):
        config = settled(Config(**given))
        identity = run_identity(config)
        return {key: identity[key] for key in ("image_size", "cache") if key in identity}

    small = str(write_images(tmp_path / "small", garments[0]))
    large = write_images(tmp_path / "large", np.random.default_rng(0).integers(0, 255, (1, 300, 400, 3), dtype=np.uint8))
    assert settings(dataset=small) == {"image_size": 28, "cache": "memory"}
    assert settings(dataset=small, image_size=20) == {"image_size": 20, "cache": "memory"}
    assert settings(dataset=small, cache="none", image_size=20) == {"image_size": 20}  # as a run of before there was a cache
    assert settings(dataset=str(large)) == {}  # 224
    assert settings(dataset=str(photographs)) == {"image_size": 40}
    for cache in ("auto", "memory", "none"):
        assert settings(dataset="fashion10k", cache=cache) == {}


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "unpacked here"])
def test_cifar_is_taken_where_it_lies(tmp_path, monkeypatch, name):
    folder = tmp_path / "somewhere" / name
    write_cifar(folder, monkeypatch)
    expected = load_split("cifar10", "train", folder)
    assert expected.inputs.shape == (90, 3, 32, 32)
    places = [folder, tmp_path / "somewhere"] if name == "cifar-10-batches-py" else [folder]
    for place in places:
        source = load_split(str(place), "train", tmp_path)
        assert torch.equal(source.inputs, expected.inputs)
        assert source.spec.normalise == DATASETS["cifar10"].normalise
        assert len(load_split("cifar10", "test", place)) == 20
    (tmp_path / "somewhere" / "cifar-10-batches-py").mkdir(exist_ok=True)
    (tmp_path / "somewhere" / "cifar-100-python").mkdir()
    with pytest.raises(SparseheadError, match=r"holds cifar10 and cifar100: give one of them"):
        published.cifar_below(tmp_path / "somewhere")


@pytest.mark.parametrize("file", ["test_batch", "data_batch_1", "data_batch_3", "batches.meta"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["missing", "damaged"])
def test_cifar_that_is_not_whole_is_named_and_not_downloaded(tmp_path, monkeypatch, file, change):
    folder = tmp_path / "somewhere" / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", lambda self: pytest.fail("it downloads"))
    change(folder / file)
    for name, data_dir in ((str(folder), tmp_path), (str(folder.parent), tmp_path), ("cifar10", folder)):
        with pytest.raises(SparseheadError, match=rf"cifar10 is not complete in {folder} \({file} missing or damaged\)\. Put all"):
            load_split(name, "train", data_dir)


def swap_files(root):
    """Two images of other sizes change their names: as many, and the same names, as before."""
    one, other = sorted((root / "train" / "cat").iterdir(), key=lambda path: path.stat().st_size)[:: len(CATS) - 1]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def swap_classes(root):
    (root / "train" / "cat").rename(root / "cat")
    (root / "train" / "dog").rename(root / "train" / "cat")
    (root / "cat").rename(root / "train" / "dog")


def swap_labels(root):
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(text.replace(",cat", ",CAT").replace(",dog", ",cat").replace(",CAT", ",dog"))


def swap_shards(root):
    write_shards(root / "shards", samples_of(root, "train")[::-1])


CATS = range(20)


@pytest.mark.parametrize(
    ("name", "swap"), [("", swap_files), ("", swap_classes), ("labels.csv", swap_labels), ("shards", swap_shards)]
)
def test_a_copy_is_the_same_data_set_and_other_images_of_the_same_number_are_not(damageable, tmp_path, name, swap):
    write_shards(damageable / "shards", samples_of(damageable, "train"))
    images = [path.relative_to(damageable) for path in sorted(damageable.glob("train/*/*"))]
    (damageable / "labels.csv").write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in images))
    copy = shutil.copytree(damageable, tmp_path / "elsewhere")
    before = fingerprint_of(str(damageable / name), tmp_path)
    assert fingerprint_of(str(copy / name), tmp_path) == before
    swap(copy)
    assert fingerprint_of(str(copy / name), tmp_path) != before


def test_a_run_keeps_the_same_of_images_in_memory_and_as_they_stream(tmp_path):
    """Of what was decoded it is the files': not every machine decodes them to the same bits."""
    for i in range(20):
        write_png(torch.full((3, 16, 16), i, dtype=torch.uint8), str(tmp_path / f"{i:02}.png"))
    decoded, streams = (load_split(str(tmp_path), "pretrain", tmp_path, workers=0, cache=cache) for cache in ("memory", "none"))
    assert (decoded.streams, streams.streams) == (False, True)
    assert decoded.fingerprint() == streams.fingerprint() != decoded.digest()
    assert decoded.take(torch.arange(2)).fingerprint() != decoded.fingerprint()
    assert Memory(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2)).fingerprint()
    assert fingerprint([object()]) == ""  # somebody's own source that is only trained on
