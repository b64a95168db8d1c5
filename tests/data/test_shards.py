"""Tar files in WebDataset's layout: the same batches as from a folder, and damage that is named."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from sparsehead_cli.data.datasets import dataset_info, load_split
from sparsehead_cli.data.shards import expanded, index_of
from sparsehead_cli.data.splits import parts_by_name
from sparsehead_cli.errors import SparseheadError

CLASSES = ("bird", "cat", "dog")


def write_shard(path, samples, **settings):
    """A tar file of (key, {ending: bytes}) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:
        for key, members in samples:
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def samples_of(photographs, part, label=lambda name: {"cls": str(CLASSES.index(name)).encode()}):
    """The photographs of a part, class by class, as samples."""
    paths = sorted(photographs.glob(f"{part}/*/*.jpg"))
    return [(f"{path.parent.name}/{path.stem}", {"jpg": path.read_bytes(), **label(path.parent.name)}) for path in paths]


def write_shards(root, samples, count=4, part="train"):
    for number in range(count):
        write_shard(
            root / f"{part}-{number:03}.tar", samples[number * len(samples) // count : (number + 1) * len(samples) // count]
        )
    return root


@pytest.fixture(scope="module")
def sharded(photographs, tmp_path_factory):
    root = write_shards(tmp_path_factory.mktemp("shards"), samples_of(photographs, "train"))
    return write_shards(root, samples_of(photographs, "test"), 1, "test")


def load(root, split="train+val", **settings):
    return load_split(str(root), split, Path("."), **{"image_size": 16, "workers": 0, **settings})


def images(source, size=8, **settings):
    return torch.cat([batch.inputs for batch in source.batches(size, **settings)])


def test_shards_are_read_like_the_folder_that_they_were_made_of(photographs, sharded):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for split in ("pretrain", "train", "val", "train+val", "test"):
        theirs, ours = load(photographs, split), load(sharded, split)
        assert torch.equal(theirs.labels, ours.labels)
    assert torch.equal(images(load(photographs), order=order), images(load(sharded, workers=2), order=order))
    assert torch.equal(images(load(photographs, "test")), images(load(sharded / "t*.tar", "test")))
    info = dataset_info(str(sharded), Path("."))
    assert (info.classes, info.channels, info.size, info.tested) == (("0", "1", "2"), 3, 40, True)
    whole, shard = load(sharded), sharded / "train-000.tar"
    assert whole.listing.name(0) == b"train-000.tar/bird/000.jpg"
    assert list(whole.listing.files([0, 1])) == [shard]
    assert whole.listing.read(3).tobytes() == (photographs / "train" / "bird" / "003.jpg").read_bytes()


def test_a_pattern_names_shards_as_a_shell_would(sharded):
    assert expanded("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expanded("{a,b}/{1..2}.tar") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]
    pattern = str(sharded / "train-{000..003}.tar")
    assert torch.equal(load(pattern).labels, load(sharded).labels)
    info = dataset_info(pattern, Path("."))
    assert not info.tested
    with pytest.raises(SparseheadError, match="no test images: no shards beside train have the word test or val"):
        load(pattern, "test")
    with pytest.raises(SparseheadError, match=r"train-004.tar is not there, nor 1 others. 6 files were looked for"):
        load(str(sharded / "train-{000..005}.tar"))
    with pytest.raises(SparseheadError, match=r"no file has a name like .*x\*.tar"):
        load(sharded / "x*.tar")


@pytest.mark.parametrize(
    ("label", "classes", "last"),
    [
        (lambda name: {"json": json.dumps({"label": CLASSES.index(name), "caption": "x"}).encode()}, ("0", "1", "2"), 2),
        (lambda name: {"cls": name.encode()}, CLASSES, 2),
        (lambda name: {"json": json.dumps({"cls": name}).encode()}, CLASSES, 2),
        (lambda name: {"json": b'{"label": "cat"}', "cls": b"2"}, ("0", "1", "2"), 2),  # .cls says it
        (lambda name: {"json": b'{"caption": "a bird"}'}, (), -1),
        (lambda name: {"json": json.dumps({"label": 1.0, "cls": None, "class": name}).encode()}, CLASSES, 2),
        (lambda name: {"coarse.cls": b"2", "boxes.json": b"{"}, (), -1),  # of no image
        (lambda name: {"txt": b"a bird"}, (), -1),
        (lambda name: {"cls": b"-1"}, (), -1),
    ],
)
def test_labels(photographs, tmp_path, label, classes, last):
    source = load(write_shards(tmp_path / "s", samples_of(photographs, "train", label)))
    assert (source.spec.classes, int(source.labels[-1]), source.spec.labelled) == (classes, last, bool(classes))
    assert len(load(tmp_path / "s", "val")) == 6


def test_a_label_stands_beside_its_image(photographs, tmp_path):
    images = [(key, members["jpg"]) for key, members in samples_of(photographs, "train")]
    dotted = [(key, {"v1.jpg": jpg, "v1.cls": key[:3].encode(), "cls": b"other"}) for key, jpg in images]
    dotted.insert(1, ("bird/._000", {"jpg": b"what macOS puts beside a file", "cls": b"none"}))
    source = load(write_shards(tmp_path / "dotted", dotted))
    assert source.spec.classes == ("bir", "cat", "dog")
    for root, samples in {
        "labels first": [(key, {"cls": b"1"}) for key, _ in images] + [(key, {"jpg": jpg}) for key, jpg in images],
        "images first": [(key, {"jpg": jpg}) for key, jpg in images] + [(key, {"json": b'{"cls": 1}'}) for key, _ in images],
        "other kind": [*((key, {"jpg": jpg, "cls": b"1"}) for key, jpg in images), ("bird/000", {"tif": b"", "cls": b"1"})],
    }.items():
        with pytest.raises(SparseheadError, match=r"bird/000\.(cls|json) is a label, and no image \(bmp, .* beside it"):
            load(write_shards(tmp_path / root, samples, 1))


@pytest.mark.parametrize("value", [1.0, [1], True, {}])
def test_labels_that_are_neither_numbers_nor_text(photographs, tmp_path, value):
    json_ = json.dumps({"label": value}).encode()
    with pytest.raises(SparseheadError, match=r"the label in bird/000.json is .*, and a label is a whole number or text"):
        load(write_shards(tmp_path / "s", samples_of(photographs, "train", lambda name: {"json": json_})))


def test_what_a_publisher_holds_out_is_held_out(photographs, sharded, tmp_path):
    write_shards(tmp_path, samples_of(photographs, "train"))
    write_shards(tmp_path, samples_of(photographs, "test"), 1, "val")
    assert len(load(tmp_path, "test")) == 15  # a val alone is the test part
    write_shards(tmp_path, samples_of(photographs, "test")[:7], 1, "test")
    assert {s: len(load(tmp_path, s)) for s in ("pretrain", "train", "val", "train+val", "test")} == {
        **{"pretrain": 60, "train": 60, "val": 15, "train+val": 75},
        "test": 7,
    }


PARTS = {  # the names of shards -> how many of them are trained on, held out, and test images; words of a note or an error
    "published": ("imagenet1k-train-0000 imagenet1k-train-0001 imagenet1k-validation-00", (2, 0, 1), ""),
    "word": ("shard-train-0 shard_VAL2017_0 shard-test-0", (1, 1, 1), ""),
    "folders": ("training/0 Testing/0", (1, 0, 1), ""),
    "begins alike": ("train-0 valley-0 testament-0", (3, 0, 0), "testament-0.tar and 1 more: no word of the name is"),
    "alike alone": ("trainer-0 testament-0", (2, 0, 0), "testament-0.tar and 1 more: no word of the name is"),
    "sets": ("trainset0 testset0", (1, 0, 1), ""),
    "no part": ("a-0 b-0", (2, 0, 0), ""),
    "no training": ("a-0 test-0", (1, 0, 1), "a-0.tar: no word of the name is"),
    "one part": ("a-test-0 a-test-1", (2, 0, 0), "all files name test, and are trained on"),
    "two parts": ("train-0 train-val-0", None, "train-val-0.tar names train and val, and is to be of one part"),
    "not to train on": ("val-0 test-0", None, "name val and test, and none train"),
}


@pytest.mark.parametrize("case", PARTS)
def test_the_part_is_a_word_of_the_name(tmp_path, case):
    names, counts, words = PARTS[case]
    paths = sorted(str(tmp_path / "test" / f"{name}.tar") for name in names.split())  # all lie there: it names no part of theirs
    if counts is None:
        with pytest.raises(SparseheadError, match=words):
            parts_by_name(paths)
        return
    parts, notes = parts_by_name(paths)
    assert (len(parts.train), len(parts.held_out), len(parts.test)) == counts
    assert words in " ".join(notes)
    assert bool(words) == bool(notes)


def test_a_folder_is_of_shards_or_of_images_not_of_both(photographs, sharded, damageable, tmp_path):
    for place in (damageable, damageable / "train"):
        stray = shutil.copy(sharded / "test-000.tar", place / "original.tar")
        with pytest.raises(SparseheadError, match=r"images in files of their own, and tar files such as .*original.tar"):
            load(damageable)
        Path(stray).unlink()
    write_shards(tmp_path / "s" / "Training", samples_of(photographs, "train"), 2, "a")
    write_shards(tmp_path / "s" / "Testing", samples_of(photographs, "test"), 1, "a")
    assert [len(load(tmp_path / "s", part)) for part in ("train+val", "test")] == [60, 15]


def flip_header(content):
    """A bit of the second header."""
    second = next(at for at in range(512, len(content), 512) if content[at + 257 : at + 262] == b"ustar")
    content[second + 3] ^= 1
    return content


DAMAGES = {
    "cut in a member": (lambda content: content[: len(content) // 2], "it was cut short"),
    "without its end": (lambda content: content.rstrip(b"\0")[:-600], "unexpected end of data"),
    "header": (flip_header, r"the header at byte [\d,]+ is damaged"),
    "empty": (lambda content: b"", "is damaged: empty file"),
    "no tar": (lambda content: b"<html>404</html>" * 100, "is damaged"),
    "packed": (lambda content: b"\x1f\x8b" + bytes(600), r"is compressed.*: gunzip .*train-001.tar"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_shards_are_named(photographs, tmp_path, kind):
    change, words = DAMAGES[kind]
    root = write_shards(tmp_path / "s", samples_of(photographs, "train"))
    path = root / "train-001.tar"
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(SparseheadError, match=words) as error:
        load(root)
    assert str(path) in str(error.value)


def test_a_damaged_member_is_named_and_can_be_skipped(photographs, tmp_path):
    samples = samples_of(photographs, "train")
    samples[7] = (samples[7][0], {"jpg": samples[7][1]["jpg"][:200], "cls": b"0"})
    root = write_shards(tmp_path / "s", samples)
    with pytest.raises(SparseheadError, match=r"bird/007.jpg in .*train-000.tar: .*--skip-bad-images"):
        images(load(root))
    source = load(root, skip_bad_images=True)
    assert len(images(source)) == 59
    assert source.skipped == 1


def test_strange_samples(tmp_path, photographs):
    jpeg = (photographs / "train" / "cat" / "000.jpg").read_bytes()
    write_shard(tmp_path / "train-0.tar", [("a", {"jpg": jpeg, "png": jpeg})])
    with pytest.raises(SparseheadError, match=r"a.jpg and a.png are two images of one sample"):
        load(tmp_path)
    write_shard(tmp_path / "train-0.tar", [("a", {"jpg": jpeg, "json": b"{"})])
    with pytest.raises(SparseheadError, match=r"a.json is no JSON"):
        load(tmp_path)
    write_shard(tmp_path / "train-0.tar", [("a", {"txt": b"no image"})])
    with pytest.raises(SparseheadError, match="hold no images"):
        load(tmp_path)
    long = "x" * 300  # longer than a header's field
    write_shard(tmp_path / "train-0.tar", [(f"{long}/{i}.b", {"seg.jpg": jpeg}) for i in range(12)])
    source = load(tmp_path, "val")
    assert source.listing.name(0).decode() == f"train-0.tar/{long}/0.b.seg.jpg"
    assert len(source) == 1


def test_a_shard_that_changes_meanwhile_is_said(photographs, tmp_path):
    root = write_shards(tmp_path / "s", samples_of(photographs, "train"))
    source = load(root)
    write_shards(root, samples_of(photographs, "train")[::-1], 2)
    with pytest.raises(SparseheadError, match="the tar file was changed while it was read"):
        images(source)
    assert len(index_of(str(root / "train-000.tar")).offsets) == 30  # and not the index of the file before
