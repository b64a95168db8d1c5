"""--init: the encoder starts from a file, the head from the seed, and the run is named after what is in the file."""

import dataclasses
import shutil

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.nets.backbones import BasicBlock, ResNet, make_backbone
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.identity import config_in, run_identity
from sparsehead_cli.training.loop import pretrain
from tests.exports.runs import scatter_norms

THIN = {"dataset": "fashion1k", "widths": (8, 8, 8, 8), "batch_size": 100, "epochs": 1, "precision": "float32"}
RESNET = {**THIN, "backbone": "resnet18"}


@pytest.fixture
def thin(tmp_path):
    return lambda **changes: Config(**{**THIN, "results": tmp_path / "results", **changes})


def torchvisions(path, **changes):
    """A file with a state_dict, by torchvision's names, of a ResNet-18 for grey images; returns its network."""
    torch.manual_seed(3)
    network = ResNet(BasicBlock, (2, 2, 2, 2), **{"widths": (8, 8, 8, 8), "image": (1, 28, 28), **changes})
    scatter_norms(network)
    torch.save({**network.state_dict(), "fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}, path)
    return network


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items() if "num_batches" not in name)


def test_the_encoder_starts_from_a_run_and_the_head_from_the_seed(trained, thin):
    run, without = build(thin(init=trained)), build(thin())
    assert same_weights(load_subject(trained, LoadOptions()).network.backbone, run.method.backbone)
    assert same_weights(without.method.projector, run.method.projector)
    assert not same_weights(without.method.backbone, run.method.backbone)
    assert str(trained) in run.initial


def test_a_teacher_starts_from_it_too(trained, thin):
    method = build(thin(init=trained, method="byol")).method
    teachers = [m for m in method.modules() if isinstance(m, ResNet)]
    assert len(teachers) == 2
    assert same_weights(*teachers)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_it_starts_from_anybodys_file(tmp_path, thin, stem):
    network = torchvisions(tmp_path / "theirs.pth", stem=stem)
    run = build(thin(backbone="resnet18", init=tmp_path / "theirs.pth", image_size=72 if stem == "imagenet" else None))
    assert same_weights(network, run.method.backbone)
    images = torch.randn(2, 1, 72, 72)
    with torch.no_grad():
        torch.testing.assert_close(run.method.backbone.eval()(images), network.eval()(images))


def test_it_starts_from_a_model_of_timm(tmp_path, thin, photographs):
    pytest.importorskip("timm")
    from sparsehead_cli.foreign.timm_models import TimmBackbone

    torch.manual_seed(5)
    theirs = TimmBackbone("test_resnet")
    torch.save(theirs.net.state_dict(), tmp_path / "theirs.pth")
    images = {"dataset": str(photographs), "image_size": 40, "batch_size": 50}
    run = build(thin(backbone="timm:test_resnet", widths=None, init=tmp_path / "theirs.pth", **images))
    assert same_weights(theirs.net, run.method.backbone.net)
    again = build(dataclasses.replace(run.config, init=None))
    assert not same_weights(theirs.net, again.method.backbone.net)


# ---------------------------------------------------------------------------------------------- what a run is


def test_the_content_of_the_file_is_part_of_what_a_run_is(trained, thin, tmp_path):
    copy = shutil.copy(trained / "checkpoint.pt", tmp_path / "copy.pt")
    configs = [thin(init=path) for path in (trained, trained / "checkpoint.pt", copy)]
    assert len({str(run_identity(config)) for config in configs}) == 1  # wherever it lies
    identity = run_identity(configs[0])
    assert identity["init"].startswith("sha256-")
    assert identity != run_identity(thin())
    assert run_identity(config_in(identity, "quickstart")) == identity  # as a checkpoint has it
    copy.write_bytes(b"something else")
    assert run_identity(thin(init=copy)) != identity


def test_a_run_is_found_again_and_is_measured_without_the_file(trained, thin, tmp_path):
    copy = shutil.copy(trained / "checkpoint.pt", tmp_path / "copy.pt")
    first = pretrain(build(thin(init=copy)))
    assert not first.was_finished
    assert pretrain(build(thin(init=trained))).was_finished  # the same content
    copy.unlink()
    assert load_subject(first.run.folder, LoadOptions()).config.init is not None
    text = (first.run.folder / "config.yaml").read_text()
    assert "init: sha256-" in text
    assert "init_from: a narrow" in text
    with pytest.raises(SparseheadError, match=r"cannot read .*copy\.pt.*Give another file"):
        build(thin(init=copy))


# ---------------------------------------------------------------------------------------------- what does not fit


def refused(config):
    with pytest.raises(SparseheadError) as error:
        build(config)
    return str(error.value)


def test_another_network_is_said_with_what_differs(trained, thin, tmp_path):
    text = refused(thin(init=trained, widths=(8, 8, 8, 16)))
    assert "it holds a narrow (blocks 1, 1, 1, 1; widths 8, 8, 8, 8; stem 3x3, stride 2; 1 channel) by simclr" in text
    assert "this run trains a narrow (blocks 1, 1, 1, 1; widths 8, 8, 8, 16;" in text
    assert "layer4.0.conv1.weight is [8, 8, 3, 3] in the file and [16, 8, 3, 3] in the run" in text
    torchvisions(tmp_path / "colour.pth", image=(3, 32, 32))
    assert "Choose a --dataset of colour images" in refused(thin(backbone="resnet18", init=tmp_path / "colour.pth"))
    torchvisions(tmp_path / "large.pth", stem="imagenet")
    text = refused(thin(backbone="resnet18", init=tmp_path / "large.pth"))
    assert "conv1.weight is [8, 1, 7, 7] in the file and [8, 1, 3, 3] in the run" in text
    assert "for images above 64 pixels: --image-size" in text


def test_what_no_shape_shows_is_compared_too(tmp_path, thin):
    """A narrow network by torchvision's names has the shapes of a resnet9, whose stem has no stride."""
    network = make_backbone("narrow", channels=1, image_size=28, widths=(8, 8, 8, 8))
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    assert "conv1's stride is (1, 1) in the file and (2, 2) in the run" in refused(thin(init=tmp_path / "theirs.pth"))


def test_another_border_is_no_obstacle_and_is_said(tmp_path, thin):
    """solo-learn's stem for CIFAR pads by 2."""
    network = torchvisions(tmp_path / "theirs.ckpt")
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    state |= {"classifier.weight": torch.zeros(10, 8), "projector.0.weight": torch.zeros(4, 8)}
    hyper = {"method": "simclr"}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2", "hyper_parameters": hyper}, tmp_path / "theirs.ckpt")
    run = build(thin(backbone="resnet18", init=tmp_path / "theirs.ckpt"))
    assert "of the layout solo-learn at state_dict.backbone" in run.initial
    assert "conv1's padding is (2, 2) in the file and (1, 1) in the run, so that the border of images counts" in run.initial
    assert same_weights(network, run.method.backbone)


def test_no_checkpoint_is_said_without_options_that_pretrain_lacks(tmp_path, thin):
    (tmp_path / "text.pth").write_text("hello")
    assert "is damaged or not a checkpoint" in refused(thin(init=tmp_path / "text.pth"))
    torch.save({"layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3), "conv1.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "part.pth")
    text = refused(thin(backbone="resnet18", init=tmp_path / "part.pth"))
    assert "--allow-partial" not in text
    assert "--weights" not in text


def test_the_command(sparsehead, trained, tmp_path):
    arguments = [f"{key.replace('_', '-')}={value}" for key, value in THIN.items() if key not in ("widths",)]
    given = [part for argument in arguments for part in (f"--{argument.partition('=')[0]}", argument.partition("=")[2])]
    command = ("pretrain", *given, "--set", "widths=8,8,8,8", "--init", trained, "--results", tmp_path)
    code, out, err = sparsehead(*command)
    assert (code, err) == (0, "")
    assert "init  the encoder starts from a narrow" in out
    assert "finished before" in sparsehead(*command)[1]
