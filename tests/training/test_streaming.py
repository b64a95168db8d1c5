"""A run on images that stream from files: the same as any run, whoever reads them and whenever it is stopped."""

import shutil

import numpy as np
import pytest
import torch

from sparsehead_cli.data.datasets import DATASETS, DatasetInfo
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.present.pretrain import describe
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.training import loop, probe
from sparsehead_cli.training.loop import epoch_batches, pretrain
from sparsehead_cli.training.probe import bank_of
from tests.conftest import PUBLISHED
from tests.training.test_loop import outcome, stop_after, train


@pytest.fixture
def streamed(tiny, photographs):
    """streamed(**changes) -> a Config of a run of 6 steps an epoch on the photographs."""
    settings = {"dataset": str(photographs), "image_size": 16, "batch_size": 9, "views": "symmetric", "workers": 0}
    return lambda **changes: tiny(**{**settings, **changes})


def test_a_run_on_a_folder(streamed):
    result = train(streamed(epochs=3))
    rows = read_csv(result.run.folder / "metrics.csv")
    assert [row["skipped_images"] for row in rows] == ["0"] * 3
    assert all(0 < float(row["waiting_share"]) < 1 for row in rows)
    assert result.run.method.backbone.image == (3, 16, 16)
    assert (result.run.total_steps, len(bank_of(result.run.train)), len(result.run.val)) == (18, 54, 6)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_tables_of_images_in_memory_keep_their_columns(tiny):
    row = read_csv(train(tiny(epochs=1)).run.folder / "metrics.csv")[0]
    assert not {"skipped_images", "waiting_share"} & set(row)


def test_who_reads_the_images_changes_nothing(streamed, tmp_path):
    alone = train(streamed()).run
    others = train(streamed(workers=3, results=tmp_path / "others")).run
    assert alone.name == others.name
    assert outcome(alone.folder) == outcome(others.folder)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_and_going_on_is_bit_identical(streamed, damageable, tmp_path, monkeypatch, workers):
    """With an unreadable image, too, which is replaced and counted as in the run that was never stopped."""
    (damageable / "train" / "cat" / "012.jpg").write_bytes(b"")
    config = {"dataset": str(damageable), "skip_bad_images": True, "workers": workers, "method": "byol"}
    whole = train(streamed(**config))
    assert [row["skipped_images"] for row in whole.rows] == [1, 1]
    stops = [1, 4, 6, 11]
    stop_after(monkeypatch, stops)
    parts = streamed(**config, results=tmp_path / "parts")
    for _ in range(len(stops)):
        with pytest.raises(Interrupted):
            train(parts)
    result = train(parts)
    assert not stops
    assert outcome(result.run.folder) == outcome(whole.run.folder)


def test_an_unreadable_image_stops_the_run_with_its_name(streamed, damageable):
    bad = damageable / "train" / "cat" / "012.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(SparseheadError, match=r"cat.012.jpg: .*truncated.*--skip-bad-images"):
        train(streamed(dataset=str(damageable)))
    held_out = damageable / "train" / "cat" / "009.jpg"
    held_out.write_bytes(b"")
    result = train(streamed(dataset=str(damageable), skip_bad_images=True))
    assert (len(result.rows), result.run.val.skipped) == (2, 2)  # left out of both probes


def test_the_command_line(sparsehead, photographs, tmp_path):
    fast = ["--epochs", "1", "--batch-size", "20", "--set", "widths=8,8,8,8", "--set", "views=symmetric", "--results", tmp_path]
    fast += ["--precision", "float32", "--set", "projector_hidden=16", "--set", "projector_out=8"]
    streaming = ["--dataset", photographs, "--image-size", "16", "--workers", "1", "--skip-bad-images"]
    code, out, err = sparsehead("pretrain", *streaming, *fast)
    assert (code, err) == (0, "")
    assert "54 images, 6 held out" in out
    assert "waiting" in out
    code, out, err = sparsehead("pretrain", "--dataset", tmp_path / "nowhere", *fast)
    assert code == 1
    assert "there is no such folder" in err
    code, out, err = sparsehead("pretrain", "--help")
    assert all(name in out for name in (*PUBLISHED, "train/CLASS/", "--skip-bad-images"))


def test_where_there_is_one_class_accuracy_is_not_defined(sparsehead, streamed, damageable):
    """And not 100 %."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            shutil.rmtree(damageable / part / name)
    config = streamed(dataset=str(damageable), epochs=1, batch_size=9)
    result = train(config)
    assert {name for name, value in result.rows[0].items() if value != value} == {
        "knn_accuracy",
        "knn_accuracy_z",
        "knn_accuracy_z_pruned",
    }
    assert any("one class: accuracy is not defined" in text for _, text in describe(result.run))
    code, _, err = sparsehead("evaluate", result.run.folder, "--workers", "0")
    assert code == 1
    assert "has one class, bird" in err


def test_another_view_size_for_images_in_memory(tiny):
    run = train(tiny(image_size=16, epochs=1)).run
    assert run.train.inputs.shape[2:] == (28, 28)
    assert run.method.backbone.image == (1, 16, 16)
    assert next(epoch_batches(run, 0)).inputs.shape[2:] == (28, 28)
    views = run.views(run.train.inputs[:4], generator=torch.Generator())
    assert [tuple(view.inputs.shape) for view in views] == [(4, 1, 16, 16)] * 2
    assert run.name != build(tiny(epochs=1)).name


def test_the_bank_is_spread_over_all_images_that_have_a_label(monkeypatch):
    split = Memory(torch.zeros(200, 1, 2, 2, dtype=torch.uint8), torch.arange(200).div(20, rounding_mode="floor"))
    assert len(bank_of(split)) == 200
    split.labels[100:] = -1
    monkeypatch.setattr(probe, "BANK", 10)
    assert bank_of(split).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.fixture
def partly_labelled(monkeypatch):
    """A set like STL-10: 100 images with a label, 50 without."""

    def read(data_dir, train):
        return np.random.default_rng(0).integers(0, 256, (100, 3, 16, 16), dtype=np.uint8), np.arange(100) % 10

    def unlabelled(data_dir):
        return np.zeros((50, 3, 16, 16), dtype=np.uint8)

    info = DatasetInfo(tuple("0123456789"), 3, 16, DATASETS["stl10"].normalise, read, unlabelled)
    monkeypatch.setitem(DATASETS, "partly", info)


def test_images_without_a_label_are_trained_on_and_not_measured_on(tiny, partly_labelled):
    result = train(tiny(dataset="partly", batch_size=20, epochs=1))
    assert (len(result.run.train), len(bank_of(result.run.train)), len(result.run.val)) == (140, 90, 10)
    assert bank_of(result.run.train).labels.min() == 0


def test_a_method_that_reads_labels_wants_them_all(tiny, partly_labelled):
    with pytest.raises(SparseheadError, match=r"supcon reads labels, and 50 of the 140 training images of partly have none"):
        build(tiny(dataset="partly", method="supcon", batch_size=20))


def test_the_loop_counts_the_time_without_a_batch(streamed, monkeypatch):
    run = build(streamed(epochs=1))
    real = loop.Waiting.watch

    def slow(batches):
        for batch in batches:
            loop.time.sleep(0.05)
            yield batch

    monkeypatch.setattr(loop.Waiting, "watch", lambda self, batches: real(self, slow(batches)))
    assert pretrain(run).rows[0]["waiting_share"] > 0.2
