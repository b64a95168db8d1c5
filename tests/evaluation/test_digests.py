"""What was measured before is found without reading an image, and no image changes unnoticed."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import digests
from sparsehead_cli.evaluation.digests import Digests
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.spectrum import SpectrumRequest, spectra
from sparsehead_cli.evaluation.subject import LoadOptions
from tests.damage import flip_bit
from tests.evaluation.test_evaluate import ask, without_time
from tests.evaluation.test_spectrum import small  # noqa: F401

OPENED: list[str] | None = None


def note_what_is_opened(event, arguments):
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


sys.addaudithook(note_what_is_opened)


@contextmanager
def opened_images():
    """The image files that this process opens meanwhile."""
    global OPENED
    OPENED, images = [], []
    try:
        yield images
    finally:
        images += [path for path in OPENED if path.endswith(".jpg")]
        OPENED = None


@pytest.fixture
def settled(monkeypatch, damageable):
    """Images that seem to have been left alone for long."""
    monkeypatch.setattr(digests, "SETTLED", 0)
    time.sleep(0.05)  # more than the clock of a file system takes for a step
    return damageable


@pytest.fixture
def kept(tmp_path):
    return Digests(tmp_path / "kept")


def split_of(folder, **options):
    return load_split(str(folder), "train+val", folder, workers=0, **options)


def test_a_digest_is_computed_once(settled, kept):
    source = split_of(settled)
    with opened_images() as first:
        digest = kept.of(source)
    assert len(set(first)) == 60
    assert digest == source.digest()
    with opened_images() as second:
        assert kept.of(split_of(settled)) == digest
    assert second == []
    assert kept.of(source.take(torch.arange(60).flip(0))) != digest  # as the digest itself, it is one of images in their order


def rewrite(path):
    """Another image of the same size, with the same modification time."""
    status = path.stat()
    path.write_bytes(flip_bit(path.read_bytes(), 8 * 300))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path):
    """Another file in its place, with the same size and times as far as they can be set."""
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(flip_bit(path.read_bytes(), 8 * 300))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)


def rename(path):
    path.rename(path.with_name("zzz.jpg"))


def link_elsewhere(path):
    """A link to another image, of which there are two now."""
    path.unlink()
    path.symlink_to(path.with_name("011.jpg"))


@pytest.mark.parametrize("change", [rewrite, replace, rename, link_elsewhere, lambda path: path.unlink()])
def test_an_image_that_changes_changes_the_digest(settled, kept, change):
    before = kept.of(split_of(settled))
    change(settled / "train" / "cat" / "010.jpg")
    time.sleep(0.05)
    source = split_of(settled)
    assert kept.of(source) == source.digest() != before


def test_images_that_were_just_written_are_read_again(damageable, kept):
    """They might change within the same step of the clock that their times are taken from."""
    source = split_of(damageable)
    assert kept.of(source) == source.digest()
    assert not list(kept.folder.glob("*.digest"))


def test_images_that_change_while_they_are_read_are_read_again(settled, kept, monkeypatch):
    source = split_of(settled)
    read = type(source).digest

    def meanwhile(self):
        digest = read(self)
        rewrite(settled / "train" / "cat" / "010.jpg")
        return digest

    monkeypatch.setattr(type(source), "digest", meanwhile)
    kept.of(source)
    assert not list(kept.folder.glob("*.digest"))


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: flip_bit(data, 9), lambda data: b"", lambda data: b"\xff"])
def test_a_damaged_digest_is_computed_anew(settled, kept, damage):
    source = split_of(settled)
    digest = kept.of(source)
    (file,) = kept.folder.glob("*.digest")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert kept.of(source) == digest
    assert file.read_bytes() == whole
    renamed = file.with_name(f"{'0' * 32}.digest")
    file.rename(renamed)
    assert kept.kept("0" * 32, lambda: "anew") == "anew"  # a file says whose digest it is


def test_an_unreadable_file_is_said_again_by_whoever_does_not_skip_it(settled, kept):
    (settled / "train" / "cat" / "010.jpg").write_bytes(b"")
    skipping = split_of(settled, skip_bad_images=True)
    assert kept.of(skipping) == kept.of(skipping) == skipping.digest()
    for _ in range(2):
        with pytest.raises(SparseheadError, match=r"010\.jpg: the file is empty"):
            kept.of(split_of(settled))


def test_of_several_processes_one_reads_the_images(settled, kept):
    calls = []

    def slowly():
        calls.append(1)
        time.sleep(0.2)
        return "digest"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda i: kept.kept("0" * 32, slowly), range(4))) == {"digest"}
    assert calls == [1]


# ---------------------------------------------------------------------------------------------- the commands


def test_a_second_evaluation_reads_no_image(run_folder, settled):
    request = ask(run_folder, "linear", "knn", dataset=str(settled), workers=0, baselines=True)
    first = evaluate(request)
    with opened_images() as images:
        assert evaluate(request) == first
    assert images == []
    rewrite(settled / "train" / "cat" / "010.jpg")
    with opened_images() as images:
        again = evaluate(request)
    assert len(set(images)) == 75
    assert {row["task"] for row in again[0]}.isdisjoint(row["task"] for row in first[0])


@pytest.mark.slow
def test_the_untrained_network_is_calibrated_once(run_folder, monkeypatch):
    request = ask(run_folder, "linear", baselines=True)
    first = evaluate(request)
    monkeypatch.setattr("sparsehead_cli.evaluation.evaluate.untrained", lambda *a: pytest.fail("calibrated again"))
    assert evaluate(request) == first
    (run_folder / "evaluations.csv").unlink()
    monkeypatch.undo()
    assert without_time(evaluate(request)[0]) == without_time(first[0])


def test_a_second_look_at_spectra_reads_no_image(run_folder, settled, tmp_path, small):  # noqa: F811
    options = LoadOptions(workers=0)
    request = SpectrumRequest(checkpoints=(str(run_folder),), dataset=str(settled), out=tmp_path / "out", options=options)
    first = spectra(request)
    with opened_images() as images:
        assert spectra(request) == first
    assert images == []
