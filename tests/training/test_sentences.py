"""Runs on sentences: they learn, they go on bit for bit, and what does not fit together is refused."""

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config, load_config
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.training.loop import epoch_batches, pretrain, train_step
from tests.conftest import method_recipe
from tests.texts import TINY, write_table
from tests.training.test_loop import outcome, stop_after

pytest.importorskip("tokenizers")


@pytest.fixture
def small(tmp_path):
    """small(**changes) -> a Config whose run on 700 glosses takes a second."""
    table = write_table(tmp_path / "glosses.tsv")
    return lambda **changes: Config(**{**TINY, "dataset": table, "results": tmp_path / "results", **changes})


def test_a_run_learns_and_its_row_is_as_of_images(small):
    result = pretrain(build(small(epochs=4, lr=3e-3)))
    rows = read_csv(result.run.folder / "metrics.csv")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["knn_accuracy"]) > 0.45  # of three classes
    assert len(read_csv(result.run.folder / "layers.csv")) == 8


@pytest.mark.parametrize("method", ["simclr", "byol", "barlow", "vicreg"])
def test_every_joint_embedding_method_goes_on_bit_identically(small, tmp_path, monkeypatch, method):
    changes = {"method": method, "method_settings": method_recipe(method), "lam": 1e-2, "views": "deletion"}
    whole = pretrain(build(small(**changes)))
    stops = [3, 12]
    stop_after(monkeypatch, stops)
    for _ in range(2):
        with pytest.raises(Interrupted):
            pretrain(build(small(**changes, results=tmp_path / "parts")))
    parts = pretrain(build(small(**changes, results=tmp_path / "parts")))
    assert not stops
    assert outcome(parts.run.folder) == outcome(whole.run.folder)


def test_two_seeds_differ_and_lam_changes_no_weight_at_the_start(small):
    states = [build(small(**change)).method.state_dict() for change in ({}, {"lam": 0.0}, {"seed": 1})]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(
        states[0]["backbone.embeddings.word_embeddings.weight"], states[2]["backbone.embeddings.word_embeddings.weight"]
    )


def test_a_batch_in_parts_has_the_gradient_of_the_whole(small):
    gradients = []
    for accumulate in (1, 4):
        run = build(small(accumulate=accumulate, projector_batch_norm=False))
        batch = next(epoch_batches(run, 0))
        train_step(run, batch, 0)
        gradients.append([p.grad for p in run.method.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_run_may_start_from_another_ones_encoder_and_has_its_vocabulary(small, tmp_path):
    first = pretrain(build(small(epochs=1)))
    other = write_table(tmp_path / "other.tsv", test=False)
    config = small(epochs=1, dataset=other, init=first.run.folder / "checkpoint.pt", seed=5)
    run = build(config)
    for name, value in run.method.backbone.state_dict().items():
        assert torch.equal(value, first.run.method.backbone.state_dict()[name])
    with pytest.raises(SparseheadError, match="it is no network of sentences"):
        build(small(init=tmp_path / "glosses.tsv"))


def test_what_suits_sentences_where_nothing_is_said(small):
    config = load_config(None, None, {"dataset": "wordnet10k"})
    assert (config.backbone, config.views, config.optimizer) == ("minilm", "dropout", "adamw")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "narrow"}, r"backbone narrow reads images, and .* has sentences\. Choose --backbone minilm, bert-mini"),
        ({"dataset": "fashion1k", "views": "grey-small"}, r"backbone bert-tiny reads sentences, and fashion1k has none"),
        ({"views": "grey-small"}, r"views grey-small are not of sentences, .*choose one of dropout, deletion, span, pairs"),
        ({"dataset": "fashion1k", "backbone": "narrow"}, "views dropout are not of images"),
        ({"method": "autoencoder"}, r"an autoencoder rebuilds images, and its backbone reads none"),
        ({"image_size": 32}, r"image_size: that is of images, and .* has sentences\. Leave it out"),
        ({"backbone": "hf:nowhere"}, "backbone hf:nowhere: cannot read tokenizer.json"),
        ({"widths": (8, 8, 8, 8)}, "widths 8,8,8,8: that is of our own networks"),
    ],
)
def test_what_does_not_fit_together_is_refused(small, changes, words):
    with pytest.raises(SparseheadError, match=words):
        build(small(**changes))
