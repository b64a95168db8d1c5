"""What is evaluated: our own checkpoints, other people's, and timm's models."""

import argparse
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.data import datasets
from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.data.contract import Normalisation
from sparsehead_cli.data.datasets import DATASETS, load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.evaluate import Evaluation, evaluate
from sparsehead_cli.evaluation.load import for_channels, load_subject
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.spectrum import SpectrumRequest, SpectrumTask
from sparsehead_cli.evaluation.subject import LoadOptions, untrained
from sparsehead_cli.evaluation.task import Settings
from sparsehead_cli.nets.backbones import BasicBlock, ResNet
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.identity import whole_identity
from tests.damage import flip_bit

CPU = torch.device("cpu")


def checkpoint(path, stem="small", channels=3, width=8):
    """A file as Lightning writes it; returns its backbone and projector."""
    torch.manual_seed(1)
    net = ResNet(BasicBlock, (1, 1, 1, 1), (width,) * 4, stem, (channels, 32, 32))
    head = nn.Sequential(nn.Linear(width, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
    state = {f"backbone.{k}": v for k, v in net.state_dict().items()} | {f"projector.{k}": v for k, v in head.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "pytorch-lightning_version": "2", "hyper_parameters": argparse.Namespace(lr=1)}, path)
    return net.eval(), head.eval()


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "theirs" / "epoch=9.ckpt"
    checkpoint(path)
    return path


def load(path, dataset=None, **options):
    return load_subject(path, LoadOptions(**options), dataset)


# ---------------------------------------------------------------------------------------------- ours


def test_a_run_of_ours_says_all_about_itself(run_folder):
    subject = load(run_folder)
    assert load(str(run_folder / "checkpoint.pt")).digest == subject.digest
    assert (subject.dataset, subject.views.recipe, subject.report) == ("fashion1k", RECIPES["grey-small"], ())
    identity = whole_identity(load_checkpoint(run_folder / "checkpoint.pt")["identity"])
    assert subject.temperature == identity["method_settings"]["temperature"]
    assert subject.config.seed == identity["seed"]
    first, second = subject.fresh(), subject.fresh()
    assert torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight)
    assert not torch.equal(first.backbone.conv1.weight, subject.network.backbone.conv1.weight)


def test_it_is_told_where_the_runs_data_set_has_other_images_now(run_folder, tmp_path):
    """By what it measures, evaluate or spectrum; another data set that was asked for is nothing to tell."""
    path = run_folder / "checkpoint.pt"

    def reports(dataset=None):
        evaluation = Evaluation(EvaluateRequest(checkpoint=path, dataset=dataset))
        request = SpectrumRequest(dataset=dataset, out=tmp_path)
        return evaluation.subject.report, SpectrumTask(load(path), request, run_folder).subject.report

    assert reports() == ((), ())
    save_checkpoint(path, {**load_checkpoint(path), "trained_on": "others"})
    for report in reports():
        assert report[0].startswith("fashion1k: its training images, or their labels, are others than the run was trained on")
    assert not any("trained on" in line for report in reports("fashion10k") for line in report)


def test_options_for_other_peoples_files_are_refused_for_ours(run_folder):
    for options in ({"allow_partial": True}, {"image_size": 64}):
        with pytest.raises(SparseheadError, match="is a checkpoint of ours"):
            load(run_folder, **options)


def test_an_unknown_recipe_is_said(run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    state["identity"]["recipe"] = "symetric"
    save_checkpoint(path, {k: v for k, v in state.items() if k != "format"})
    with pytest.raises(SparseheadError, match='unknown views "symetric".*Did you mean "symmetric"'):
        load(path)


def test_settings_that_do_not_fit_the_weights_end_in_one_line_before_a_network_is_made(run_folder, monkeypatch):
    monkeypatch.setattr("sparsehead_cli.evaluation.load.make_network", lambda *a: pytest.fail("made"))
    state = load_checkpoint(run_folder / "checkpoint.pt")
    path = run_folder / "odd.pt"
    for changes, words in (
        ({"projector_hidden": 10**9}, "of another architecture"),
        ({"projector_hidden": 10**18}, "projector_hidden must be at most 2147483647"),
        ({"widths": [2**31 - 1] * 4}, "larger than any machine"),
        ({"widths": [10**5] * 4}, "of another architecture"),
        ({"blocks": [10**6] * 4}, "blocks must be 1000 together at most"),
        ({"blocks": [200] * 4}, "has 80 tensors, too few for the 802 layers and blocks of its settings"),
        ({"projector_layers": 900}, "too few for the 900 layers"),
        ({"projector_layers": 10**9}, "projector_layers must be between 1 and 1000"),
        ({"blocks": [1, 1]}, "must name the same number of stages"),
        ({"widths": "8"}, "must name the same number of stages"),
        ({"method": "simclear"}, 'unknown method "simclear".*Did you mean "simclr".*Upgrade'),
        ({"backbone": "resnet17"}, 'unknown backbone "resnet17"'),
        ({"projector": "mpl"}, 'unknown projector "mpl"'),
        ({"method": "byol", "method_settings": {"temperature": 0.2}}, "unknown setting of byol"),
        ({"method": 7, "method_settings": {}}, 'unknown method "7"'),
        ({"method_settings": []}, "its identity must be the run's settings by name"),
        ({"method_settings": {"temperature": "warm"}}, "temperature must be a number, given 'warm'"),
        ({"method_settings": {"temperature": -1.0}}, "temperature must be above 0"),
        ({"lam": "big"}, "lam must be a number, given 'big'"),
        ({"lam": float("nan")}, "lam must be finite"),
        ({"seed": True}, "seed must be a whole number"),
        ({"epochs": -1}, "epochs must be at least 1"),
        ({"projector_batch_norm": "yes"}, "projector_batch_norm must be true or false"),
        ({"experiment": "../../esc"}, "does not know: experiment"),
        ({"schema": 2}, "settings of schema 2 are not known to this version. Upgrade"),
        ({"schema": "1"}, "its identity must be the run's settings by name"),
        ({"method": ["simclr"]}, "method must be text, given .'simclr'."),
        ({"views": [3]}, "its identity must be the run's settings by name"),
        ({f"warp{i}": i for i in range(10)}, "does not know: warp0, warp1, warp2, warp3, warp4 and 5 more"),
    ):
        save_checkpoint(path, {**state, "identity": {**state["identity"], **changes}})
        with pytest.raises(SparseheadError, match=words) as error:
            load(path)
        assert str(error.value).count("\n") == 0
        assert len(str(error.value)) < 700


def test_a_checkpoint_in_another_runs_folder_is_refused(run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, "identity": {**state["identity"], "seed": 1}})
    with pytest.raises(SparseheadError, match="is not the checkpoint of the run that its folder is named after"):
        load(path)
    elsewhere = run_folder.parent / "mine" / "checkpoint.pt"
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    assert load(elsewhere).config.seed == 1


def test_a_checkpoint_whose_format_is_gone_is_not_taken_for_somebody_elses(run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    for named in ({}, {"format": 3}):
        torch.save({**{k: v for k, v in state.items() if k != "format"}, **named}, path)
        with pytest.raises(SparseheadError, match="has all that a checkpoint of ours has but our format"):
            load(path)
    torch.save({**state, "format": "sparsehead-run-7"}, path)  # which keeps its place, the first
    with pytest.raises(SparseheadError, match="made by a newer sparsehead"):
        load(path)


@pytest.mark.parametrize("command", ["evaluate", "spectrum"])
def test_a_flipped_bit_is_said_by_each_command_and_nothing_is_measured(run_folder, sparsehead, command, tmp_path):
    path = run_folder / "checkpoint.pt"
    weight = load_checkpoint(path)["method"]["projector.0.weight"].numpy().tobytes()
    data = path.read_bytes()
    path.write_bytes(flip_bit(data, 8 * data.index(weight) + 23))
    before = sorted(run_folder.iterdir())
    code, _, err = sparsehead(command, run_folder, *(["--out", tmp_path / "out"] if command == "spectrum" else []))
    assert (code, err.count("\n")) == (1, 1)
    assert "is damaged or not a checkpoint (Bad CRC-32" in err
    assert err.endswith("Put it back, or pretrain again.\n")
    assert sorted(run_folder.iterdir()) == before
    path.unlink()
    os.mkfifo(path)
    code, _, err = sparsehead(command, run_folder, *(["--out", tmp_path / "out"] if command == "spectrum" else []))
    assert (code, "is no file" in err) == (1, True)


# ---------------------------------------------------------------------------------------------- other people's


@torch.no_grad()
def test_somebody_elses_network_is_theirs_to_the_bit(foreign, run_folder):
    net, head = checkpoint(foreign)
    subject = load(foreign, dataset="cifar10")
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(subject.network(x), {"r": net(x), "z": head(net(x))}, rtol=1e-5, atol=1e-6)
    assert subject.features == ("r", "z")
    assert not any(p.requires_grad for p in subject.network.parameters())
    assert list(subject.columns) == list(load(run_folder).columns)
    known = {k: v for k, v in subject.columns.items() if v != "" and k != "commit"}
    assert known == {"experiment": "theirs", "run": "epoch=9", "method": "lightning", "backbone": "resnet9"}
    assert (subject.dataset, subject.config, subject.temperature) == (None, None, 0.2)
    assert any("argparse.Namespace" in line for line in subject.report)


@pytest.mark.parametrize(
    ("stem", "channels", "dataset", "given", "image", "normalise"),
    [
        ("imagenet", 3, "cifar10", None, (3, 224, 224), "imagenet"),
        ("imagenet", 3, "cifar10", 64, (3, 64, 64), "imagenet"),
        ("small", 3, "cifar10", None, (3, 32, 32), "cifar10"),
        ("small", 3, "stl10", None, (3, 32, 32), "stl10"),
        ("small", 3, None, None, (3, 32, 32), "imagenet"),
        ("small", 1, "fashion-mnist", None, (1, 28, 28), "fashion-mnist"),
    ],
)
def test_the_view_follows_the_stem_and_the_data_set(tmp_path, stem, channels, dataset, given, image, normalise):
    checkpoint(tmp_path / "c.pt", stem, channels)
    subject = load(tmp_path / "c.pt", dataset=dataset, image_size=given)
    assert subject.prepare.image == subject.network.backbone.image == subject.fresh().backbone.image == image
    assert subject.prepare.normalise == DATASETS[normalise].normalise
    assert subject.views.recipe == RECIPES["grey-small" if channels == 1 else "symmetric"]
    assert f"images: {' x '.join(map(str, image))}" in subject.report


@pytest.mark.parametrize(
    ("stem", "channels", "dataset", "line"),
    [
        (
            *("imagenet", 3, "fashion1k"),
            "fashion1k: its 1 x 28 x 28 images are enlarged to 224 x 224 and made three equal channels"
            ". --image-size 28 is faster, and right if it was trained on images of that size",
        ),
        ("small", 3, "fashion1k", "fashion1k: its 1 x 28 x 28 images are made three equal channels"),
        ("small", 3, "stl10", "stl10: its 3 x 96 x 96 images are reduced to 32 x 32"),
        ("small", 1, "cifar10", "cifar10: its 3 x 32 x 32 images are made grey"),
        ("small", 3, "cifar10", None),
    ],
)
def test_what_becomes_of_images_before_the_network_sees_them_is_said(tmp_path, stem, channels, dataset, line):
    checkpoint(tmp_path / "c.pt", stem, channels)
    report = load(tmp_path / "c.pt", dataset=dataset).report
    assert [text for text in report if text.startswith(f"{dataset}: ")] == ([line] if line else [])


def test_images_in_files_that_are_smaller_than_a_guessed_size_are_said(tmp_path, squares):
    """A network with the stem of ImageNet's is taken for one of 224 pixels; on tiny images that would take fifty times as long."""
    checkpoint(tmp_path / "c.pt", "imagenet", 3)
    (line,) = [text for text in load(tmp_path / "c.pt", dataset=str(squares)).report if text.startswith(f"{squares}: ")]
    assert "x 72 x 72 images are enlarged to 224 x 224" in line
    assert line.endswith(". --image-size 72 is faster, and right if it was trained on images of that size")
    assert not [text for text in load(tmp_path / "c.pt", dataset=str(squares), image_size=64).report if "enlarged" in text]


def test_a_run_of_ours_says_it_too(run_folder):
    assert load(run_folder, dataset="fashion1k").report == ()
    (line,) = load(run_folder, dataset="cifar10").report
    assert line == "cifar10: its 3 x 32 x 32 images are reduced to 28 x 28 and made grey"


def test_normalisation_between_grey_and_colour(tmp_path):
    grey = Normalisation((0.25,), (0.5,))
    assert for_channels(grey, 3) == Normalisation((0.25,) * 3, (0.5,) * 3)
    assert for_channels(grey, 1) is grey
    back = for_channels(for_channels(grey, 3), 1)
    assert (*back.mean, *back.std) == pytest.approx((0.25, 0.5))
    checkpoint(tmp_path / "c.pt")
    subject = load(tmp_path / "c.pt", dataset="fashion10k")
    view = subject.prepare(load_split("fashion10k", "test", None).inputs[:2])
    assert view.shape == (2, 3, 28, 28)
    assert torch.equal(view[:, 0], view[:, 2])


@pytest.mark.parametrize("more_than_auto_keeps", [False, True])
def test_how_a_path_is_written_changes_no_image(untrained_run, squares, tmp_path, monkeypatch, more_than_auto_keeps):
    settings = {"cache": "memory", "image_size": 72, "batch_size": 10, "views": "symmetric", "widths": (8, 8, 8, 8)}
    subject = load(untrained_run(dataset=str(squares), **settings))
    shutil.copytree(squares, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    if more_than_auto_keeps:
        monkeypatch.setattr(datasets, "CACHED", 1000)
    expected = load_split(str(squares), "test", None, cache="memory").inputs
    for name in (str(squares), f"{squares}/", os.path.relpath(squares), "copy", "./copy"):
        source = subject.load_split(name, "test", LoadOptions(workers=0))
        assert torch.equal(torch.cat([batch.inputs for batch in source.batches(4)]), expected)


def test_untrained_is_calibrated_on_the_images_given(foreign):
    subject = load(foreign, dataset="fashion1k")
    images = load_split("fashion1k", "train", None)
    twin = untrained(subject, images)
    assert twin.digest not in (subject.digest, None)
    assert (twin.model, twin.columns, twin.report) == ("untrained", subject.columns, subject.report)
    first = twin.network.backbone.conv1(twin.prepare(images.inputs))
    torch.testing.assert_close(twin.network.backbone.bn1.running_mean, first.mean(dim=(0, 2, 3)), atol=3e-3, rtol=0)


def test_a_network_that_does_not_run_is_said(foreign):
    with pytest.raises(SparseheadError, match="image_size must be between 8 and 1024, given 4"):
        load(foreign, image_size=4)
    state = torch.load(foreign, weights_only=False)
    state["state_dict"]["backbone.bn1.running_var"] -= 5
    torch.save(state, foreign)
    with pytest.raises(SparseheadError, match="features of images of 3 x 32 x 32 are NaN"):
        load(foreign)


SHORT = Settings(sgd_epochs=1, finetune_epochs=1, semi_seeds=1, semi_epochs=(1, 1))


@pytest.mark.slow
def test_every_protocol_on_somebody_elses_network(foreign):
    told = []
    protocols = ("linear", "knn", "linear-sgd", "finetune")
    request = EvaluateRequest(checkpoint=foreign, protocols=protocols, dataset="fashion1k", baselines=True, settings=SHORT)
    rows, _ = evaluate(request, on_line=told.append)
    assert told[0] == "layout: lightning"
    assert (foreign.parent / "evaluations.csv").exists()
    assert {(r["protocol"], r["model"], r["features"]) for r in rows} >= {
        (protocol, model, name)
        for protocol in ("linear", "knn", "linear-sgd", "finetune")
        for model in ("checkpoint", "untrained")
        for name in "rz"
    }
    assert {(r["experiment"], r["run"], r["dataset"], r["step"]) for r in rows} == {("theirs", "epoch=9", "", "")}
    assert len(evaluate(request)[0]) == len(rows)


# ---------------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
@torch.no_grad()
def test_timms_models_by_name(tmp_path, name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    state = {f"module.backbone.{k}": v for k, v in model.state_dict().items()}
    torch.save({"teacher": state, "student": {k: v + 1 for k, v in state.items()}}, tmp_path / "w.pt")
    subject = load(f"timm:{name}", weights=tmp_path / "w.pt", dataset="cifar10")
    model.reset_classifier(0)
    x = torch.randn(2, *subject.prepare.image)
    torch.testing.assert_close(subject.network(x)["r"], model(x), rtol=1e-4, atol=1e-5)
    assert subject.network.backbone.dim == model(x).shape[1]
    cfg = model.pretrained_cfg
    assert subject.prepare.normalise == Normalisation(tuple(cfg["mean"]), tuple(cfg["std"]))
    assert (subject.columns["run"], subject.columns["method"], subject.columns["backbone"]) == (name, "timm", name)
    assert "at teacher.module.backbone" in "\n".join(subject.report)
    assert subject.fresh().backbone.image == subject.prepare.image
    some = dict(list(state.items())[: len(state) // 2])
    torch.save(some, tmp_path / "w.pt")
    with pytest.raises(SparseheadError, match=f"does not fit timm's {name} at module.backbone. .*missing"):
        load(f"timm:{name}", weights=tmp_path / "w.pt")
    assert any("NOT LOADED" in line for line in load(f"timm:{name}", weights=tmp_path / "w.pt", allow_partial=True).report)


def test_what_is_asked_of_timm_and_cannot_be(foreign, monkeypatch):
    with pytest.raises(SparseheadError, match="timm:resnet18 needs its weights, and nothing is downloaded: add --weights FILE"):
        load("timm:resnet18")
    with pytest.raises(SparseheadError, match="--weights goes with the name of a timm model"):
        load(foreign, weights=foreign)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "timm", None)
        with pytest.raises(SparseheadError, match=r"not installed: pip install 'sparsehead\[timm\]'"):
            load("timm:resnet18", weights=foreign)
    pytest.importorskip("timm")
    with pytest.raises(SparseheadError, match='timm has no model "resnt18".*Did you mean "resnet18"'):
        load("timm:resnt18", weights=foreign)
    with pytest.raises(SparseheadError, match='timm has no model "hf-hub:a/b"'):
        load("timm:hf-hub:a/b", weights=foreign)
    with pytest.raises(SparseheadError, match="has no vit_tiny_patch16_224 in it. Its first names: state_dict.backbone.conv1"):
        load("timm:vit_tiny_patch16_224", weights=foreign)


def test_a_detector_needs_stages(tmp_path):
    timm, _ = pytest.importorskip("timm"), pytest.importorskip("torchmetrics")
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pt")
    options = LoadOptions(weights=tmp_path / "w.pt")
    request = EvaluateRequest(checkpoint="timm:resnet10t", protocols=("detection",), dataset="fashion1k", options=options)
    with pytest.raises(SparseheadError, match="detection reads the stages of a ResNet, which timm:resnet10t does not show"):
        evaluate(request)


@pytest.mark.parametrize("name", ["head", "projector"])
@pytest.mark.parametrize("inputs", [True, False], ids=["inputs-cut", "hidden-units-cut"])
def test_a_head_that_was_pruned_is_read_as_one(tmp_path, name, inputs):
    """As a trained Lightning module that has the result of `prune()` in place of its head."""
    net, _ = checkpoint(tmp_path / "whole.ckpt")
    projector = nn.Sequential(nn.Linear(net.dim, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5)).eval()
    with torch.no_grad():
        projector[3].weight[:, 4:7] = 0
        if inputs:
            projector[0].weight[:, ::2] = 0
    pruned = SparseHead(projector, lam=0).prune()
    state = {f"backbone.{k}": v for k, v in net.state_dict().items()} | {f"{name}.{k}": v for k, v in pruned.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    subject = load(tmp_path / "c.ckpt")
    r = torch.randn(7, net.dim)
    torch.testing.assert_close(subject.network.projector(r), projector(r))
    kept = net.dim // 2 if inputs else net.dim
    assert any(f"{name}, {net.dim}-9-5, {kept} inputs read with BatchNorm" in line for line in subject.report)
    state[f"{name}.0.width"] += 1
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    assert isinstance(load(tmp_path / "other.ckpt").network.projector, nn.Identity)


def test_a_network_that_was_never_trained_is_said_to_be_none(tmp_path):
    net, _ = checkpoint(tmp_path / "c.pt")
    assert any(line.startswith("NOT TRAINED") for line in load(tmp_path / "c.pt").report)
    net.train()(torch.randn(4, 3, 32, 32))
    torch.save({f"backbone.{k}": v for k, v in net.state_dict().items()}, tmp_path / "d.pt")
    assert not any(line.startswith("NOT TRAINED") for line in load(tmp_path / "d.pt").report)


def test_what_is_no_checkpoint_is_said_to_be_what_it_is(tmp_path):
    checkpoint(tmp_path / "theirs" / "one.pth")
    with pytest.raises(SparseheadError, match=r"theirs is no folder of a run: it has no checkpoint.pt, but one.pth. Give the file"):
        load(tmp_path / "theirs")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(SparseheadError, match="holds no tensors by name"):
        load(tmp_path / "tensor.pt")
    with pytest.raises(SparseheadError, match=r"dataset .*one.pth is a file that is neither a table.csv of images, shards, nor"):
        load(tmp_path / "theirs" / "one.pth", dataset=str(tmp_path / "theirs" / "one.pth"))


def test_options_are_typed_again_as_they_were():
    assert LoadOptions(device="cpu", workers=3).typed() == []  # they change nothing of what is read
    options = LoadOptions(
        weights=Path("w.pth"),
        image_size=32,
        assume=("pool=true", "stem_stride=2"),
        plugins=("mine",),
        data_dir=Path("d"),
        allow_partial=True,
        skip_bad_images=True,
    )
    words = "--weights w.pth --image-size 32 --assume pool=true --assume stem_stride=2 --plugin mine --data-dir d"
    assert options.typed() == [*words.split(), "--allow-partial", "--skip-bad-images"]
