"""Sentences: the embedded ones, files of them, and what is refused."""

from pathlib import Path

import pytest
import torch

from sparsehead_cli.data.datasets import SPLITS, dataset_info, fingerprint_of, is_path, load_split
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.data.text import LONGEST, TEXT, TextSpec, decoded, encoded, read_wordnet
from sparsehead_cli.errors import SparseheadError

DATA = Path("data")


def test_the_embedded_glosses_are_balanced_and_no_gloss_is_in_both_parts():
    texts = read_wordnet()
    train, test = (texts.columns[part][TEXT] for part in (True, False))
    assert (len(train), len(test), len(texts.classes)) == (10_000, 2_000, 45)
    assert len({*train, *test}) == 12_000
    counts = torch.bincount(torch.from_numpy(texts.labels[True]), minlength=45)
    assert counts.max() <= 275  # as even as the classes allow
    assert {"noun.animal", "verb.motion", "adj.all"} <= set(texts.classes)
    assert any("feline mammal" in gloss for gloss in (*train, *test)) or any("mammal" in gloss for gloss in train)


def test_the_splits_of_sentences_are_those_of_images():
    sizes = {split: len(load_split("wordnet10k", split, DATA)) for split in SPLITS}
    assert sizes["train"] + sizes["val"] == sizes["train+val"] == 10_000
    assert sizes["pretrain"] == sizes["train"]
    assert sizes["test"] == 2_000
    val = load_split("wordnet10k", "val", DATA)
    assert isinstance(val, Memory)
    assert isinstance(val.spec, TextSpec)
    assert set(val.inputs) == {TEXT, "words", "example", "hypernym"}


def test_bytes_and_sentences_are_each_others_inverse():
    sentences = ["a cat", "", "naïve Größe, 猫", "x" * 3 * LONGEST]
    table = encoded(sentences)
    assert table.dtype == torch.uint8
    assert decoded(table) == [*sentences[:3], "x" * LONGEST]
    cut = decoded(encoded(["é" * LONGEST]))[0]  # no letter is cut in two
    assert set(cut) == {"é"}


def test_files_of_sentences(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("one sentence\n\n  another   one \n" + "more\n" * 20, encoding="utf-8-sig")  # as some editors begin a file
    info = dataset_info(str(lines), DATA)
    assert (info.classes, info.labelled, info.tested) == (("sentences",), False, False)
    assert decoded(load_split(str(lines), "train+val", DATA).inputs[TEXT])[:2] == ["one sentence", "another one"]
    assert len(load_split(str(lines), "val", DATA)) == 2
    table = tmp_path / "table.csv"
    rows = [f'"a, b {i}",{"xy"[i % 2]},{("train", "validation", "test")[i % 3]}\n' for i in range(30)]
    table.write_text("Text,label,split\n" + "".join(rows))
    info = dataset_info(str(table), DATA)
    assert (info.classes, info.labelled, info.tested) == (("x", "y"), True, True)
    assert [len(load_split(str(table), part, DATA)) for part in ("pretrain", "val", "train+val", "test")] == [10, 10, 20, 10]
    assert decoded(load_split(str(table), "test", DATA).inputs[TEXT])[0] == "a, b 2"
    quoted = tmp_path / "quoted.tsv"
    quoted.write_text("label\tsentence\n" + '0\t"a lone quotation mark\n1\tnext line\n' * 10)
    assert len(load_split(str(quoted), "train+val", DATA)) == 20
    assert is_path(str(quoted))
    assert fingerprint_of(str(quoted), DATA) != fingerprint_of(str(table), DATA)


def test_a_table_of_images_is_not_taken_for_one_of_sentences(tmp_path):
    table = tmp_path / "images.csv"
    table.write_text("path,label\ncat.png,cat\n")
    with pytest.raises(SparseheadError, match=r"line 2: there is no file"):
        load_split(str(table), "train", DATA)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", "\n\n", "has no sentences. Give one a line, or a table with a column text or sentence."),
        ("damaged.txt", b"\xff\xfe\x00", "cannot read sentences from .*damaged.txt.* Save it as UTF-8"),
        ("parts.tsv", "text\tsplit\na\ttrane\n", 'the split "trane" of line 2 is none of train, val and test'),
        ("other.tsv", "text\tlabel\tsplit\na\tx\ttrain\nb\ty\ttest\n", 'the label "y" of line 3 is of none of the 1 classes'),
        ("only.tsv", "text\tsplit\na\ttest\n", "has no training sentences"),
        ("none.tsv", "words\na\n", "none.tsv is a file that is neither .* a table with a column text .* Its columns are words"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SparseheadError, match=words):
        load_split(str(path), "train", DATA)


def test_sentences_without_a_test_part_say_so(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a sentence\n" * 20)
    with pytest.raises(SparseheadError, match=r"has no test sentences"):
        load_split(str(path), "test", DATA)


def test_too_few_sentences_are_not_called_images(tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("text\tlabel\n" + "a sentence\tx\n" * 3)
    with pytest.raises(SparseheadError, match=r"no class has 10 training sentences, so that none .* Add sentences\."):
        load_split(str(path), "val", DATA)


def test_rows_without_a_sentence_or_a_label_are_counted(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("text\tlabel\tsplit\n" + "a sentence\tx\ttrain\n" * 20 + "\ty\ttrain\nanother\t\ttest\nthird\tx\ttest\n")
    assert dataset_info(str(path), DATA).notes == (
        "rows without a sentence: 1, which are left out",
        "rows without a label: 1, which are trained on, and left out of accuracy",
    )


def test_a_saved_data_set_of_sentences(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        name: datasets.Dataset.from_dict(
            {"sentence": [f"{name} sentence {i}" for i in range(20)], "label": [i % 2 for i in range(20)]},
            datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}),
        )
        for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    test = load_split(str(tmp_path / "saved"), "test", DATA)
    assert test.spec.classes == ("no", "yes")
    assert decoded(test.inputs[TEXT])[3] == "test sentence 3"
    assert test.labels.tolist() == [0, 1] * 10


def test_what_a_data_set_has_is_called_by_its_name():
    assert [noun_of(name) for name in ("wordnet10k", "a/b.TSV", "c.txt", "cifar10")] == [*["sentences"] * 3, "images"]
