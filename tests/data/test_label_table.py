"""A table of labels: what it says is what is read, and what is wrong with it is said with its line."""

import csv
from pathlib import Path

import pytest

from sparsehead_cli.data.datasets import dataset_info, load_split, require_measurable
from sparsehead_cli.errors import SparseheadError


def write_table(root, lines, columns="path,label,split"):
    path = root / "table.csv"
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


def rows(photographs, part="train", split="train"):
    paths = sorted(photographs.glob(f"{part}/*/*.jpg"))
    return [f"{path.relative_to(photographs)},{path.parent.name},{split}" for path in paths]


def load(table, split="train+val"):
    return load_split(str(table), split, Path("."), image_size=16, workers=0)


def test_a_table_is_read_like_the_folder(damageable):
    table = write_table(damageable, [*rows(damageable), *rows(damageable, "test", "test")])
    for split in ("pretrain", "train", "val", "train+val", "test"):
        ours, theirs = load(table, split), load(damageable, split)
        assert (ours.labels.tolist(), ours.digest()) == (theirs.labels.tolist(), theirs.digest())
    info = dataset_info(str(table), Path("."))
    assert (info.classes, info.size, info.labelled, info.tested, info.notes) == (("bird", "cat", "dog"), 40, True, True, ())


def test_other_tables_keep_the_limit_of_their_fields(damageable):
    before = csv.field_size_limit()
    dataset_info(str(write_table(damageable, rows(damageable))), Path("."))
    assert csv.field_size_limit() == before


def test_images_without_a_label_are_trained_on_alone(damageable):
    lines = [line.replace(",dog,", ",,") for line in rows(damageable)]
    table = write_table(damageable, lines)
    assert {s: len(load(table, s)) for s in ("pretrain", "train", "val", "train+val")} == {
        **{"pretrain": 56, "train": 36, "val": 4, "train+val": 40}
    }
    info = dataset_info(str(table), Path("."))
    assert "20 of the 60 training images have no label" in " ".join(info.notes)
    assert "no test images" in " ".join(info.notes)
    assert (info.classes, info.tested) == (("bird", "cat"), False)


def test_a_table_of_paths_alone(damageable):
    table = write_table(damageable, [line.split(",")[0] for line in rows(damageable)], "path")
    source = load(table, "pretrain")
    assert (len(source), len(load(table, "val")), source.labels.unique().tolist()) == (54, 6, [-1])
    assert not source.spec.labelled


@pytest.mark.parametrize("columns", ["Path,LABEL,Split", "path, label , split"])
def test_columns_are_known_in_any_case(damageable, columns):
    lines = [*rows(damageable), *rows(damageable, "test", "test")]
    table = write_table(damageable, lines, columns)
    assert (len(load(table)), len(load(table, "test")), dataset_info(str(table), Path(".")).labelled) == (60, 15, True)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("path,label,label", "names the column label 2 times"),
        ("path,Split,split", "names the column split 2 times"),
        ("path,label,splits", 'names no column split, but "splits"'),
        ("path,Labels,split", 'names no column label, but "labels"'),
    ],
)
def test_columns_that_may_be_meant_for_ours_are_refused(damageable, columns, words):
    with pytest.raises(SparseheadError, match=words):
        load(write_table(damageable, rows(damageable), columns))


def test_other_columns_are_said_to_be_left_out(damageable):
    table = write_table(damageable, [f"{line},3" for line in rows(damageable)], "path,label,split,level")
    assert (
        "the columns level of the table are left out: only path, label and split are read"
        in dataset_info(str(table), Path(".")).notes
    )


@pytest.mark.parametrize("kind", ["absolute", "linked file", "linked folder"])
def test_one_file_by_two_paths_is_an_error(damageable, kind):
    lines = rows(damageable)
    first = lines[0].split(",")[0]
    again = {"absolute": damageable / first, "linked file": "link.jpg", "linked folder": "links/000.jpg"}[kind]
    (damageable / "link.jpg").symlink_to(damageable / first)
    (damageable / "links").symlink_to(damageable / "train" / "bird")
    table = write_table(damageable, [*lines, f"{again},bird,test"])
    with pytest.raises(SparseheadError, match=rf"line 62: .* stands in line 2 already, as {first}. Name it once"):
        load(table)


def test_numbers_are_sorted_as_numbers_and_absolute_paths_are_taken(damageable, tmp_path):
    lines = [f"{damageable / line.split(',')[0]},{(10, 9, 100)[i // 20]},train" for i, line in enumerate(rows(damageable))]
    (tmp_path / "elsewhere").mkdir()
    source = load(write_table(tmp_path / "elsewhere", lines))
    assert source.spec.classes == ("9", "10", "100")
    assert source.labels[[0, 20, 40]].tolist() == [1, 0, 2]
    assert source.listing.path(0) == damageable / "train" / "bird" / "000.jpg"


def test_val_beside_test_is_held_out(damageable):
    lines = [*rows(damageable), *rows(damageable, "test", "val")]
    assert len(load(write_table(damageable, lines), "test")) == 15
    lines[0] = lines[0].replace(",train", ",test")
    table = write_table(damageable, lines)
    assert {s: len(load(table, s)) for s in ("pretrain", "val", "test")} == {"pretrain": 59, "val": 15, "test": 1}


WRONG = {
    "no columns": (lambda lines: ["a,b,c"], r"line 1 must name the columns path, .*; it has "),
    "no file": (lambda lines: [*lines, "train/bird/999.jpg,bird,train"], r"line 62: there is no file .*999.jpg"),
    "twice": (lambda lines: [*lines, "train/../train/bird/000.jpg,cat,test"], r"line 62: train/bird/000.jpg stands in line 2"),
    "split": (lambda lines: [*lines[1:], lines[0] + "n"], r'line 61: the split "trainn" is none of.*Did you mean "train"'),
    "short": (lambda lines: [*lines, "train/bird/000.jpg"], r"line 62: it has not the 3 columns"),
    "empty path": (lambda lines: [*lines, ",bird,train"], r"line 62: the path is empty"),
    "only test": (lambda lines: [line.replace(",train", ",test") for line in lines], "names no training images"),
    "quote": (lambda lines: [*lines, '"train/bird'], "cannot read the table .*unexpected end"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_a_table(damageable, kind):
    change, words = WRONG[kind]
    columns = "name,label,split" if kind == "no columns" else "path,label,split"
    table = write_table(damageable, change(rows(damageable)), columns)
    with pytest.raises(SparseheadError, match=words):
        load(table)
    with pytest.raises(SparseheadError, match="there is no such table"):
        load(damageable / "another.csv")


def test_a_test_label_that_training_lacks(damageable):
    table = write_table(damageable, [*rows(damageable), "test/cat/000.jpg,tiger,test"])
    with pytest.raises(SparseheadError, match=r'the label "tiger" of [^ ]+ is of none of the 3 classes of training'):
        load(table, "test")


def test_what_is_said_of_test_images_without_labels(damageable):
    train, test = rows(damageable), rows(damageable, "test", "test")
    few = [line.replace(",dog,", ",,") for line in test]
    info = dataset_info(str(write_table(damageable, [*train, *few])), Path("."))
    assert info.tested
    assert "5 of the 15 test images have no label: they are not measured on" in info.notes
    table = write_table(damageable, [*train, *(f"{line.split(',')[0]},,test" for line in test)])
    info = dataset_info(str(table), Path("."))
    assert not info.tested
    assert "no test image has a label: evaluate needs such; the probe and spectrum measure held-out images" in info.notes
    assert len(load(table, "test")) == 15  # to look at
    with pytest.raises(SparseheadError, match="and .* has no test images with labels. What needs none"):
        require_measurable(str(table), Path("."), "evaluate measures accuracy")


def test_validation_images_without_labels_hold_nothing_out(damageable):
    val = [f"{line.split(',')[0]},,val" for line in rows(damageable, "test")]
    lines = rows(damageable)
    table = write_table(damageable, [*lines[1:], *val, lines[0].replace(",train", ",test")])
    with pytest.raises(SparseheadError, match="none of its 15 validation images has a label, and those of training have"):
        load(table, "val")
    assert len(load(table, "pretrain")) == 59
