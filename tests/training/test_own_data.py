"""Runs on images as people have them: nothing is measured that cannot be, and readers that die change nothing."""

import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from sparsehead_cli.data.datasets import DATASETS, DatasetInfo, load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.present.pretrain import describe, epoch_line
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.table_files import read_csv
from tests.data.odd_formats import write_odd_shards
from tests.data.saved_sets import part, write_cifar
from tests.data.test_shards import samples_of, write_shards
from tests.training.test_loop import outcome, train

SETTINGS = {"image_size": 16, "batch_size": 9, "views": "symmetric", "workers": 0, "epochs": 1}


@pytest.fixture(scope="module")
def unlabelled(photographs):
    """One folder of photographs, without labels and without a test part."""
    return photographs / "train" / "cat"


@pytest.fixture(scope="module")
def trained_without_labels(unlabelled, tmp_path_factory):
    from sparsehead_cli.runs.config import Config
    from tests.conftest import TINY

    results = tmp_path_factory.mktemp("without labels")
    return train(Config(**{**TINY, **SETTINGS, "dataset": str(unlabelled), "results": results}))


def test_without_labels_ranks_are_measured_and_accuracy_is_not(trained_without_labels):
    result = trained_without_labels
    row = read_csv(result.run.folder / "metrics.csv")[0]
    assert [row[name] for name in ("knn_accuracy", "knn_accuracy_z", "knn_accuracy_z_pruned")] == [""] * 3
    assert float(row["effective_rank_r"]) > 0
    assert "kNN –" in epoch_line(row)
    said = describe(result.run)
    assert ("note", "no labels: ranks and spectra are measured, and no accuracy") in said
    assert any("no test images" in text for _, text in said)
    assert any(text.startswith("16 x 16 pixels, colour; read from files") for name, text in said if name == "images")


def test_what_evaluate_and_spectrum_do_without_labels(sparsehead, trained_without_labels, unlabelled, tmp_path):
    folder = trained_without_labels.run.folder
    code, _, err = sparsehead("evaluate", folder, "--workers", "0")
    assert code == 1
    assert f"evaluate measures accuracy on test images, and {unlabelled} has no labels and no test images" in err
    assert "sparsehead spectrum CHECKPOINT" in err
    assert not (folder / "evaluations.csv").exists()
    code, _, err = sparsehead("spectrum", folder, "--workers", "0", "--out", tmp_path)
    assert (code, err) == (0, "")
    rows = read_csv(tmp_path / "spectrum_metrics.csv")
    assert {row["split"] for row in rows} == {"val"}
    assert {"effective_rank", "alignment", "uniformity", "functional_features"} <= {row["metric"] for row in rows}
    assert not any(row["metric"].startswith("probe_") for row in rows)
    code, _, err = sparsehead("spectrum", folder, "--workers", "0", "--out", tmp_path, "--split", "test")
    assert code == 1
    assert "has no test images" in err


def test_a_sweep_without_labels_says_so_before_it_trains(sparsehead, unlabelled, tmp_path):
    given = ["--lams", "0,1e-3", "--results", tmp_path, "--set", f"dataset={unlabelled}"]
    code, _, err = sparsehead("sweep-lambda", *given)
    assert code == 1
    assert "a sweep compares accuracies, and" in err
    assert list(tmp_path.iterdir()) == []


def test_labels_without_a_test_part_are_said_when_it_is_pretrained(tiny, damageable):
    shutil.rmtree(damageable / "test")
    run = build(tiny(**{**SETTINGS, "dataset": str(damageable)}))
    assert any("no test images: evaluate needs such" in text for _, text in describe(run))


@pytest.fixture
def garments(tmp_path):
    """A folder of 200 garments to train on and 30 to test, small grey PNGs, and the training ones as arrays in the same order."""
    arrays = []
    for name, count in (("train", 200), ("test", 30)):
        split = load_split("fashion1k", "train+val" if name == "train" else name, Path("data"))
        order = split.labels[:count].argsort(stable=True)
        images, labels = split.inputs[order, 0].numpy(), split.labels[order].numpy()
        arrays.append((images, labels))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "garments" / name / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:03}.png")
    return tmp_path / "garments", *arrays[0]


def test_small_squares_train_in_memory_like_an_array(sparsehead, tiny, garments, tmp_path, monkeypatch):
    """The same images, order, views and numbers as of a set that is read as an array; and they are evaluated."""
    root, images, labels = garments
    given = {"batch_size": 40, "epochs": 1, "workers": 1}
    folder = train(tiny(dataset=str(root), **given))
    info = folder.run.train.spec
    array = DatasetInfo(info.classes, 1, 28, info.normalise, lambda data_dir, train: (images, labels))
    monkeypatch.setitem(DATASETS, "array", array)
    theirs = train(tiny(dataset="array", results=tmp_path / "array", **given))
    assert "waiting_share" not in folder.rows[0]
    assert {name: folder.rows[0][name] for name in ("loss", "knn_accuracy", "effective_rank_r")} == {
        name: theirs.rows[0][name] for name in ("loss", "knn_accuracy", "effective_rank_r")
    }
    code, _, err = sparsehead("evaluate", folder.run.folder, "--protocol", "knn", "--workers", "0")
    assert (code, err) == (0, "")
    assert {(row["n_train"], row["n_test"]) for row in read_csv(folder.run.folder / "evaluations.csv")} == {("200", "30")}


def kill_readers(stop, count, seed, pause=(0.05, 0.6)):
    """Kill `count` reading processes of this process, chosen and timed at random; a list of those that were."""
    rng, killed = random.Random(seed), []

    def run():
        while not stop.is_set() and len(killed) < count:
            time.sleep(rng.uniform(*pause))
            readers = multiprocessing.active_children()
            if readers:
                victim = rng.choice(readers).pid
                if victim not in killed:
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, killed


@pytest.mark.slow
def test_readers_that_are_killed_at_random_leave_the_run_as_it_was(tiny, tmp_path):
    """Photographs in odd formats, in shards, read by two processes of which one dies now and then."""
    write_odd_shards(tmp_path / "shards", images=200, shards=4)
    given = {**SETTINGS, "dataset": str(tmp_path / "shards"), "batch_size": 10, "epochs": 2}
    whole = train(tiny(**given))
    stop = threading.Event()
    thread, killed = kill_readers(stop, count=3, seed=0)
    try:
        result = train(tiny(**{**given, "workers": 2}, results=tmp_path / "killed"))
    finally:
        stop.set()
        thread.join()
    assert killed
    assert outcome(result.run.folder) == outcome(whole.run.folder)


def test_a_reader_that_dies_once_is_replaced(photographs, monkeypatch, tmp_path):
    import torch

    from sparsehead_cli.data.listing import Files

    main, real, mark = os.getpid(), Files.read, tmp_path / "died"

    def die_once(files, i):
        if files.where(i).endswith("cat/010.jpg") and os.getpid() != main and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(files, i)

    def images(workers):
        source = load_split(str(photographs), "train+val", photographs, image_size=16, workers=workers)
        return torch.cat([batch.inputs for batch in source.batches(8, order=torch.arange(60))])

    alone = images(0)
    monkeypatch.setattr(Files, "read", die_once)
    assert torch.equal(images(2), alone)
    assert mark.exists()


def test_odd_formats_are_all_read(tmp_path):
    kinds = write_odd_shards(tmp_path, images=60, shards=2)
    assert len(kinds) >= 15
    source = load_split(str(tmp_path), "train+val", tmp_path, image_size=16, workers=0)
    assert sum(len(batch.labels) for batch in source.batches(20)) == 60
    with pytest.raises(SparseheadError, match="no test images"):
        load_split(str(tmp_path), "test", tmp_path)


PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
COMMANDS = re.findall(r"^sparsehead pretrain .*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page(sparsehead, photographs, tmp_path, monkeypatch, capfd, command):
    """Each on what it names, laid out in a folder of its own."""
    dataset = shlex.split(command)[3]
    monkeypatch.chdir(tmp_path)
    match dataset:
        case "photographs":
            shutil.copytree(photographs / "train", tmp_path / "photographs")
        case "labels.csv":
            lines = [f"{path},{path.parent.name}\n" for path in sorted(photographs.glob("train/*/*"))]
            Path("labels.csv").write_text("path,label\n" + "".join(lines))
        case "saved":
            part(pytest.importorskip("datasets"), photographs, "train").save_to_disk("saved")
        case "data/cifar-10-batches-py":
            write_cifar(Path(dataset), monkeypatch)
        case _:
            write_shards(tmp_path / "shards", samples_of(photographs, "train"))
    short = "--epochs 1 --batch-size 16 --set widths=8,8,8,8 --set views=symmetric --workers 0"
    capfd.readouterr()  # the library shows how far it has got
    code, out, err = sparsehead(*shlex.split(command)[1:], *shlex.split(short))
    assert (code, err) == (0, "")
    assert ("note  no labels" in out) == (dataset == "photographs")
