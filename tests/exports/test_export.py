"""An exported encoder gives the same r wherever it is loaded, by the lines that its card says."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.exports import formats
from sparsehead_cli.exports.export import ExportRequest, export
from sparsehead_cli.exports.model import load
from sparsehead_cli.foreign.timm_models import TimmBackbone
from sparsehead_cli.nets.backbones import BasicBlock, ResNet
from sparsehead_cli.runs.encoder_file import load_encoder_file
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from tests.evaluation.test_subject import checkpoint as foreign_checkpoint
from tests.exports.runs import scatter_norms

SAME = 1e-6  # of the size of r: what rounding leaves


def images(count=5):
    """Real images, uint8 [count, 1, 28, 28]."""
    from sparsehead_cli.data.datasets import load_split

    return load_split("fashion1k", "test", "data").inputs[:count]


def run_card(card, **names):
    """What the card's lines make, run where the file lies."""
    (code,) = re.findall(r"^```python\n(.*?)^```", card.read_text(), re.DOTALL | re.MULTILINE)
    here = code.replace(card.name.removesuffix(".md"), str(card.with_suffix("")))
    exec(compile(here, str(card), "exec"), names)
    return names


def assert_same(given, expected):
    given, expected = torch.as_tensor(np.asarray(given)).double(), expected.double()
    assert given.shape == expected.shape
    assert float((given - expected).norm() / expected.norm()) <= SAME
    assert expected.std() > 0.01  # not of a network whose norms are all zero


def exported(folder, to, tmp_path, **changes):
    ending = {"safetensors": "safetensors", "onnx": "onnx"}.get(to, "pth")
    return export(ExportRequest(checkpoint=folder, to=to, out=tmp_path / f"e.{ending}", **changes))


NETWORKS = {
    "a stem for ImageNet": {"backbone": "resnet18", "image_size": 72},
    "a stem for small images": {"backbone": "resnet18", "image_size": 16},
    "bottlenecks": {"backbone": "resnet50", "image_size": 72},
}
FAST = (("torchvision", "a stem for ImageNet"), ("timm", "a stem for small images"), ("onnx", "a stem for small images"))


def networks(*libraries):
    """A case for each library and network; each library has a fast one."""
    cases = []
    for library in libraries:
        for name, settings in NETWORKS.items():
            marks = () if (library, name) in FAST else pytest.mark.slow
            cases.append(pytest.param(library, settings, id=f"{library}, {name}", marks=marks))
    return cases


@pytest.mark.slow_after(2)
@torch.no_grad()
@pytest.mark.parametrize(("to", "network"), networks("torchvision", "timm"))
def test_the_same_r_in_other_libraries(untrained_run, to, network, tmp_path):
    pytest.importorskip(to)
    run = untrained_run(**network)
    ours, result = load(run, LoadOptions()), exported(run, to, tmp_path)
    views = ours.transform(images())
    theirs = run_card(result.card)["model"]
    assert not theirs.training
    assert_same(theirs(views), ours.encoder(views))
    assert ("model.maxpool = torch.nn.Identity()" in result.card.read_text()) == (network["image_size"] <= 64)


@pytest.mark.slow_after(1)
@torch.no_grad()
@pytest.mark.parametrize(("to", "network"), networks("onnx"))
def test_the_same_r_in_onnx_runtime_for_any_batch(untrained_run, to, network, tmp_path):
    pytest.importorskip("onnxruntime")
    run = untrained_run(**network)
    ours, result = load(run, LoadOptions()), exported(run, to, tmp_path)
    for count in (1, 2, 5):
        views = ours.transform(images(count))
        assert_same(run_card(result.card, images=views.numpy())["r"], ours.encoder(views))


@torch.no_grad()
@pytest.mark.parametrize("head", ["none", "full", "pruned"])
@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_a_head_goes_with_it(untrained_run, to, head, tmp_path):
    pytest.importorskip("safetensors" if to == "safetensors" else "onnxruntime")
    folder = shutil.copytree(untrained_run(), tmp_path / untrained_run().name)
    path = folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["method"]["projector.0.weight"][:, ::2] = 0  # half of what it reads of r
    from sparsehead_cli.runs.checkpoint import save_checkpoint

    save_checkpoint(path, {key: value for key, value in state.items() if key != "format"})
    ours, result = load(folder, LoadOptions()), exported(folder, to, tmp_path, head=head)
    views = ours.transform(images())
    r, z = ours.encoder(views), ours.head(ours.encoder(views))
    if to == "onnx":
        import onnxruntime

        made = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"]).run(None, {"images": views.numpy()})
    else:
        again = load(result.path, LoadOptions())
        made = [again.encoder(again.transform(images()))] + ([again.head(r)] if head != "none" else [])
        assert isinstance(again.head, nn.Identity) == (head == "none")
    assert len(made) == (1 if head == "none" else 2)
    assert_same(made[0], r)
    if head != "none":
        assert_same(made[1], z)
    if head == "pruned":
        assert any(re.fullmatch(r"head: [\d,]+ of [\d,]+ numbers are left", line) for line in result.report)


def test_a_head_without_zeros_says_that_nothing_was_pruned(untrained_run, tmp_path):
    pytest.importorskip("safetensors")
    result = exported(untrained_run(), "safetensors", tmp_path, head="pruned")
    assert "nothing in it is empty" in " ".join(result.report)
    smaller = exported(untrained_run(), "safetensors", tmp_path, head="pruned", threshold=0.9, overwrite=True)
    assert "numbers are left" in " ".join(smaller.report)


# ---------------------------------------------------------------------------------------------- what has no counterpart


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_network_of_our_own_has_no_counterpart(untrained_run, to, tmp_path):
    with pytest.raises(SparseheadError, match=f"{to} has no network like narrow: its stages have 1, 1, 1, 1 blocks of 16, 32"):
        exported(untrained_run(), to, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SparseheadError, match="--to safetensors and --to onnx hold it beside the encoder"):
        exported(untrained_run(), to, tmp_path, head="full")


def test_what_is_asked_for_must_go_together(untrained_run, tmp_path):
    wrong = {
        'unknown --to "onxx".*Did you mean "onnx"': {"to": "onxx"},
        'unknown --head "some"': {"to": "onnx", "head": "some"},
        "is of a pruned head: add --head pruned": {"to": "onnx", "threshold": 0.1},
        r"a file for onnx ends in \.onnx": {"to": "onnx", "out": tmp_path / "e.pth"},
    }
    for message, changes in wrong.items():
        with pytest.raises(SparseheadError, match=message):
            export(ExportRequest(checkpoint=untrained_run(), **changes))


def test_a_bottleneck_that_strides_in_its_1x1_has_no_counterpart():
    from sparsehead_cli.exports.counterparts import published_name
    from sparsehead_cli.nets.backbones import make_backbone

    with torch.device("meta"):
        network = make_backbone("resnet50", channels=3, image_size=224)
    assert published_name(network, "resnet50", "timm") == "resnet50"
    first = network.layer2[0]
    first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    with pytest.raises(SparseheadError, match="strides in the 3x3 convolutions"):
        published_name(network, "resnet50", "timm")


# ---------------------------------------------------------------------------------------------- other people's


@torch.no_grad()
def test_somebody_elses_encoder_is_handed_on_with_what_was_assumed(tmp_path):
    """As Lightning writes it, of CIFAR, whose stem has another padding than ours."""
    path = tmp_path / "theirs" / "resnet.ckpt"
    path.parent.mkdir()
    network = ResNet(BasicBlock, (2, 2, 2, 2), stem="small")
    scatter_norms(network)
    network.conv1.padding = (2, 2)
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, path)
    options = LoadOptions(assume=("padding=2", "mean=0.4", "std=0.3"))
    result = exported(path, "torchvision", tmp_path, options=options)
    assert "padding=2" in result.card.read_text()
    assert any("given by you: padding=2" in line for line in result.report)
    views = load(path, options).transform(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    assert_same(run_card(result.card)["model"](views), network.eval()(views))


@torch.no_grad()
def test_somebody_elses_encoder_as_safetensors_says_how_it_is_loaded(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "theirs" / "epoch=9.ckpt"
    network, _ = foreign_checkpoint(path)
    result = exported(path, "safetensors", tmp_path, head="full", options=LoadOptions(assume=("stem_stride=2",)))
    names = {"image": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)}
    exec("\n".join(result.lines), names)
    network.conv1.stride = (2, 2)
    views = names["model"].transform(names["image"])
    torch.testing.assert_close(names["r"], network(views))


@torch.no_grad()
@pytest.mark.parametrize("to", ["timm", "onnx", "safetensors"])
def test_a_vision_transformer_of_timm(to, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("onnxruntime")
    backbone = TimmBackbone("test_vit").eval()
    torch.save(backbone.net.state_dict(), tmp_path / "weights.pth")
    options = LoadOptions(weights=tmp_path / "weights.pth")
    result = exported("timm:test_vit", to, tmp_path, options=options)
    ours = load("timm:test_vit", options)
    views = ours.transform(torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8))
    if to == "timm":
        assert_same(run_card(result.card)["model"](views), ours.encoder(views))
    with pytest.raises(SparseheadError, match="vit is no ResNet.*Export it --to timm"):
        exported("timm:test_vit", "torchvision", tmp_path, options=options)


# ---------------------------------------------------------------------------------------------- files


def test_a_file_that_is_there_is_not_overwritten_unless_asked(untrained_run, tmp_path):
    pytest.importorskip("safetensors")
    first = exported(untrained_run(), "safetensors", tmp_path)
    assert "was there already" in exported(untrained_run(), "safetensors", tmp_path).report[-1]
    first.path.write_bytes(b"somebody's")
    card = first.card.read_text()
    with pytest.raises(SparseheadError, match=r"e\.safetensors is there, with other content.*--overwrite"):
        exported(untrained_run(), "safetensors", tmp_path)
    assert first.path.read_bytes() == b"somebody's"
    exported(untrained_run(), "safetensors", tmp_path, overwrite=True)
    assert load_encoder_file(first.path)["head"] == "none"
    first.card.write_text("somebody's")
    first.path.unlink()
    with pytest.raises(SparseheadError, match=r"e\.safetensors\.md is there"):
        exported(untrained_run(), "safetensors", tmp_path)
    assert not first.path.exists()  # both or neither
    assert card.startswith("# simclr-")


def test_a_checkpoint_is_never_written_over(untrained_run, tmp_path):
    folder = shutil.copytree(untrained_run(**NETWORKS["a stem for small images"]), tmp_path / "run")
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(SparseheadError, match="is the checkpoint itself"):
        export(ExportRequest(checkpoint=folder, to="torchvision", out=folder / "checkpoint.pt", overwrite=True))
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_file_that_gives_another_r_is_not_written(untrained_run, tmp_path, monkeypatch):
    def wrong(backbone):
        return {name: value + (name == "bn1.bias") for name, value in formats.plain_state_before(backbone).items()}

    monkeypatch.setattr(formats, "plain_state_before", formats.plain_state, raising=False)
    monkeypatch.setattr(formats, "plain_state", wrong)
    with pytest.raises(SparseheadError, match="torchvision's network gives another r than the encoder"):
        exported(untrained_run(**NETWORKS["a stem for small images"]), "torchvision", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("safetensors", "safetensors")])
def test_packages_that_are_not_there_are_named(untrained_run, tmp_path, monkeypatch, to, package):
    if package == "onnxruntime":
        pytest.importorskip("onnx")  # which is looked for first
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.torch", None)
    with pytest.raises(SparseheadError, match=rf"needs .*{package}, which.*pip install 'sparsehead\[{to}\]'"):
        exported(untrained_run(), to, tmp_path)


def test_damage_of_an_exported_encoder_is_found(untrained_run, tmp_path):
    pytest.importorskip("safetensors")
    path = exported(untrained_run(), "safetensors", tmp_path).path
    sound = path.read_bytes()
    damages = {
        "its tensors are not those that were written": sound[:-100] + bytes([sound[-100] ^ 1]) + sound[-99:],
        "made by a newer sparsehead": sound.replace(b"sparsehead-encoder-1", b"sparsehead-encoder-2"),
        "its metadata is not readable": sound.replace(b'\\"step\\": 0', b'\\"step\\": x'),
        "is damaged or not a checkpoint": sound[:20] + b"x" * 5 + sound[25:],
        "its step must be a whole number": sound.replace(b'\\"step\\": 0', b'\\"stop\\": 0'),
        "its metadata lacks what the run was": sound.replace(b'\\"head\\": \\"none', b'\\"head\\": \\"nine'),
    }
    for message, data in damages.items():
        path.write_bytes(data)
        with pytest.raises(SparseheadError, match=message):
            load(path, LoadOptions())


def test_evaluate_reads_an_exported_encoder(untrained_run, tmp_path):
    pytest.importorskip("safetensors")
    path = exported(untrained_run(), "safetensors", tmp_path).path
    rows, _ = evaluate(EvaluateRequest(checkpoint=path, protocols=("knn",)))
    run = shutil.copytree(untrained_run(), tmp_path / "x" / untrained_run().name)
    theirs, _ = evaluate(EvaluateRequest(checkpoint=run, protocols=("knn",)))
    expected = [row["value"] for row in theirs if row["protocol"] == "knn" and row["features"] == "r"]
    assert [row["value"] for row in rows] == expected
    assert {row["features"] for row in rows} == {"r"}


def test_the_card_says_what_is_known(run_folder, tmp_path):
    pytest.importorskip("safetensors")
    before = exported(run_folder, "safetensors", tmp_path).card.read_text()
    assert "Not measured" in before
    rows, _ = evaluate(EvaluateRequest(checkpoint=run_folder, protocols=("linear", "knn")))
    text = exported(run_folder, "safetensors", tmp_path, overwrite=True).card.read_text()
    linear = next(row for row in rows if (row["protocol"], row["features"]) == ("linear", "r"))
    value, low, high = (f"{100 * float(linear[key]):.1f} %" for key in ("value", "low", "high"))
    assert f"| linear | fashion1k | r | {value} | {low} to {high} | {int(linear['n_test']):,} |" in text
    assert text.count("| knn, k = 20 |") == 2  # of r and of z
    for part in ("| data | fashion1k |", "| λ | 0.001 (l21, layers all, subgradient) |", "| mean | 0.284 |", "| std | 0.3513 |"):
        assert part in text
    assert "trained by | sparsehead, commit " in text
    assert "1 x 28 x 28" in text
    assert "## Licence\n\nNot stated" in text
    assert "widths: [8, 8, 8, 8]" in text
    kept = read_csv(run_folder / "evaluations.csv")
    others = [{**row, "value": "0.125", "task": row["task"][::-1]} for row in kept]  # other test images once had the same name
    replace_csv(run_folder / "evaluations.csv", [*others, *kept])
    again = exported(run_folder, "safetensors", tmp_path, overwrite=True).card.read_text()
    assert again == text


def test_the_command(sparsehead, untrained_run, tmp_path):
    pytest.importorskip("safetensors")
    folder = shutil.copytree(untrained_run(), tmp_path / untrained_run().name)
    code, out, err = sparsehead("export", folder, "--to", "safetensors")
    assert (code, err) == (0, "")
    assert (folder / "encoder.safetensors").exists()
    assert (folder / "encoder.safetensors.md").exists()
    assert "r = model.encoder(model.transform(image))" in out
    code, out, err = sparsehead("export", folder, "--to", "torchvision")
    assert code == 1
    assert err.startswith("Error: torchvision has no network like narrow")
