"""Every published layout, with its own key names: what is found must compute what the module computed that was saved."""

import argparse
import copy
import itertools

import pytest
import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.networks import Search
from sparsehead_cli.foreign.resnets import Architecture, find_resnet
from sparsehead_cli.foreign.tensors import preferred, printable, side_of, tensors_of
from sparsehead_cli.nets.backbones import BasicBlock, Bottleneck, ResNet

WIDTHS = (8, 16, 24, 32)
D = 32


def shaken(module, seed=0):
    """The module with weights and statistics that are nobody's initial ones, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.1 * noise if name.endswith(("bias", "mean")) else 1 + 0.1 * noise)
    return module.eval()


def small_resnet(seed=0, block=BasicBlock, stem="imagenet"):
    blocks = (2, 2, 2, 2) if block is BasicBlock else (3, 4, 6, 3)
    return shaken(ResNet(block, blocks, WIDTHS, stem, (3, 64, 64)), seed)


def mlp(*widths, norm=True, last_norm=False, activation=nn.ReLU, seed=0):
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(a, b, bias=not norm))
        if norm and (not last or last_norm):
            layers.append(nn.BatchNorm1d(b, affine=not last))
        if not last:
            layers.append(activation())
    return shaken(nn.Sequential(*layers), seed)


def under(prefix, module):
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def numbered(net):
    """The nn.Sequential of torchvision's children, without fc."""
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)


NET, OTHER = small_resnet(0), small_resnet(1)
HEAD, OTHER_HEAD = mlp(D, 24, 12, seed=2), mlp(D, 24, 12, seed=3)
PLAIN_HEAD, ONE_LAYER, V3_HEAD = mlp(D, 24, 12, norm=False, seed=4), mlp(D, 12, norm=False, seed=5), mlp(D, 24, 12, last_norm=True)
DINO_HEAD = mlp(D, 24, 24, 12, norm=False, activation=nn.GELU, seed=6)
PREDICTOR, CLASSIFIER = mlp(12, 24, 12, seed=7), nn.Linear(D, 10)
PROTOTYPES = {"weight_g": torch.ones(40, 1), "weight_v": torch.randn(40, 12)}
LIGHTNING = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.0.0", "hyper_parameters": {"lr": 0.1}}


def last_layer(prefix):
    return {f"{prefix}{name}": value for name, value in PROTOTYPES.items()}


def solo_learn():
    parts = {"backbone.": NET, "momentum_backbone.": OTHER, "projector.": HEAD, "momentum_projector.": OTHER_HEAD}
    state = {k: v for prefix, part in parts.items() for k, v in under(prefix, part).items()}
    return {**LIGHTNING, "state_dict": {**under("classifier.", CLASSIFIER), **state, **under("predictor.", PREDICTOR)}}


def lightly():
    parts = {"backbone.": numbered(NET), "backbone_momentum.": numbered(OTHER), "projection_head.layers.": HEAD}
    parts |= {
        "projection_head_momentum.layers.": OTHER_HEAD,
        "prediction_head.layers.": PREDICTOR,
        "online_classifier.": CLASSIFIER,
    }
    return {**LIGHTNING, "state_dict": {k: v for prefix, part in parts.items() for k, v in under(prefix, part).items()}}


def moco(head, version):
    query, key = ("encoder_q", "encoder_k") if version < 3 else ("base_encoder", "momentum_encoder")
    state = {**under(f"module.{key}.", OTHER), **under(f"module.{key}.fc.", OTHER_HEAD)}
    state |= {**under(f"module.{query}.", NET), **under(f"module.{query}.fc.", head)}
    if version < 3:
        state |= {"module.queue": torch.randn(12, 40), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    else:
        state |= under("module.predictor.", PREDICTOR)
    return {"epoch": 3, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}}


def moco_v1():
    state = moco(ONE_LAYER, 1)
    for name in ("encoder_q", "encoder_k"):  # one linear layer, which has no number
        for leaf in ("weight", "bias"):
            state["state_dict"][f"module.{name}.fc.{leaf}"] = state["state_dict"].pop(f"module.{name}.fc.0.{leaf}", torch.ones(12))
    return state


def byol():
    online = {**under("online_encoder.net.", NET), **under("online_encoder.projector.net.", HEAD)}
    target = {**under("target_encoder.net.", OTHER), **under("target_encoder.projector.net.", OTHER_HEAD)}
    return {**target, **online, **under("online_predictor.net.", PREDICTOR)}


def byol_networks():
    online = {**under("encoder.", numbered(NET)), **under("projetion.net.", HEAD)}  # misspelled so in a repository much copied
    target = {**under("encoder.", numbered(OTHER)), **under("projetion.net.", OTHER_HEAD)}
    return {"online_network_state_dict": online, "target_network_state_dict": target}


def swav():
    prototypes = {"module.prototypes.weight": torch.randn(40, 12)}
    return {**under("module.", NET), **under("module.projection_head.", HEAD), **prototypes}


def barlow():
    norm = under("module.bn.", nn.BatchNorm1d(12, affine=False))
    return {"epoch": 1, "model": {**under("module.backbone.", NET), **under("module.projector.", HEAD), **norm}}


def vicreg():
    return {"epoch": 1, "model": {**under("module.backbone.", NET), **under("module.projector.", HEAD)}, "optimizer": {}}


def dino():
    student = {**under("module.backbone.", OTHER), **under("module.head.mlp.", mlp(D, 24, 24, 12, norm=False, seed=9))}
    teacher = {**under("backbone.", NET), **under("head.mlp.", DINO_HEAD), **last_layer("head.last_layer.")}
    student |= last_layer("module.head.last_layer.")
    return {"student": student, "teacher": teacher, "epoch": 5, "args": argparse.Namespace(arch="resnet50")}


def lightly_dino():
    student = {**under("student_backbone.", numbered(OTHER)), **under("student_head.layers.", mlp(D, 24, 24, 12, norm=False))}
    teacher = {**under("teacher_backbone.", numbered(NET)), **under("teacher_head.layers.", DINO_HEAD)}
    return {**LIGHTNING, "state_dict": {**student, **teacher, **last_layer("teacher_head.last_layer.")}}


def named_layers():
    names = ("fc1", "bn1", "relu", "fc2")
    head = {f"model.projector.{name}.{k}": v for name, part in zip(names, HEAD, strict=True) for k, v in part.state_dict().items()}
    return {**under("model.encoder.", NET), **head}


# state, layout, the projector that must be found, what must be said to be left out
LAYOUTS = {
    "plain": (lambda: NET.state_dict(), "resnet", None, ()),
    "torchvision": (lambda: {**NET.state_dict(), **under("fc.", CLASSIFIER)}, "torchvision", None, ("classifier fc",)),
    "simclr": (lambda: {"state_dict": {**NET.state_dict(), **under("fc.", CLASSIFIER)}}, "resnet", None, ("classifier fc",)),
    "solo-learn": (solo_learn, "solo-learn", HEAD, ("momentum network momentum_backbone", "predictor", "classifier")),
    "lightly": (lightly, "lightly", HEAD, ("momentum network backbone_momentum", "prediction_head", "online_classifier")),
    "moco v1": (moco_v1, "moco", ONE_LAYER, ("queue", "momentum network encoder_k")),
    "moco v2": (lambda: moco(PLAIN_HEAD, 2), "moco", PLAIN_HEAD, ("queue", "momentum network encoder_k", "optimizer")),
    "moco v3": (lambda: moco(V3_HEAD, 3), "moco", V3_HEAD, ("momentum network momentum_encoder", "predictor")),
    "byol": (byol, "byol", HEAD, ("momentum network target_encoder", "online_predictor")),
    "byol networks": (byol_networks, "byol", HEAD, ("momentum network target_network_state_dict",)),
    "swav": (swav, "swav", HEAD, ("prototypes",)),
    "barlow": (barlow, "barlow", HEAD, ("bn",)),
    "vicreg": (vicreg, "vicreg", HEAD, ()),
    "dino": (dino, "dino", DINO_HEAD, ("student network student",)),
    "lightly dino": (lightly_dino, "lightly", DINO_HEAD, ("student network student_backbone",)),
    "named layers": (named_layers, "resnet", HEAD, ()),
}


def find_network(state, source, **how):
    return find_resnet(state, Search(source, **how))


def report(found):
    return "\n".join(found.report)


@torch.no_grad()
def assert_same_features(found, net, head, x):
    r = net(x)
    found.backbone.eval()
    found.projector.eval()
    torch.testing.assert_close(found.backbone(x), r, rtol=1e-5, atol=1e-5)
    assert r.std() > 0.01  # not all the same
    if head is None:
        assert isinstance(found.projector, nn.Identity)
    else:
        torch.testing.assert_close(found.projector(r), head(r), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_computes_what_was_saved(name):
    make, layout, head, parts = LAYOUTS[name]
    facts = Facts()
    found = find_network(make(), "file", facts=facts)
    assert found.layout == layout
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_same_features(found, NET, head, x)
    left = next((line for line in found.report if line.startswith("left out: ")), "left out: ")
    assert all(part in left.removeprefix("left out: ").split(", ") for part in parts), left
    taken = {a.key: a.value for a in facts.assumptions}
    assert (taken["stem_stride"], taken["padding"], taken["pool"]) == ("2", "3", "true")


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_blocks_and_stems_are_read_off_the_shapes(block, stem):
    net = small_resnet(3, block, stem)
    found = find_network({"state_dict": under("module.backbone.", net)}, "file")
    assert (found.backbone.stem, found.backbone.dim) == (stem, net.dim)
    assert_same_features(found, net, None, torch.randn(2, 3, 40, 40))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet50", 64)])
def test_torchvision_itself(name, size):
    models = pytest.importorskip("torchvision.models")
    net = shaken(getattr(models, name)())
    found = find_network(net.state_dict(), "file")
    assert (found.name, found.layout, len(found.report[1].split("D = "))) == (name, "torchvision", 2)
    net.fc = nn.Identity()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(found.backbone.eval()(x), net(x)) or (found.backbone(x) - net(x)).abs().max() < 1e-4 * net(x).abs().max()


def test_width_multipliers_and_grey_images():
    net = ResNet(BasicBlock, (2, 2, 2, 2), (128, 256, 512, 1024), "imagenet", (1, 64, 64))
    found = find_network({"state_dict": net.state_dict()}, "file")
    assert (found.name, found.backbone.dim, found.backbone.image[0]) == ("resnet18x2", 1024, 1)
    with torch.device("meta"):
        twice = Architecture(Bottleneck, (3, 4, 6, 3), (128, 256, 512, 1024), 3, "imagenet")
        assert (twice.name, twice.build().dim) == ("resnet50x2", 4096)


@pytest.mark.parametrize("splits", [0, 2])
def test_lightlys_own_resnet_as_a_sequential_has_no_relu_behind_its_stem(splits):
    models = pytest.importorskip("lightly.models")
    net = models.ResNetGenerator("resnet-9", width=0.125, num_splits=splits)
    shaken(net)
    torch.manual_seed(0)
    sequential = nn.Sequential(*list(net.children())[:-1], nn.AdaptiveAvgPool2d(1))
    state = copy.deepcopy({f"backbone.{k}": v for k, v in sequential.state_dict().items()})
    sequential.train().eval()  # where statistics of splits are averaged
    found = find_network(state, "file")
    assert (found.layout, found.backbone.stem) == ("lightly", "small")
    x = torch.randn(2, 3, 32, 32)
    assert_same_features(found, lambda x: sequential(x).flatten(1), None, x)
    assert "without ReLU" in report(found)
    whole = find_network({f"resnet.{k}": v for k, v in net.train().eval().state_dict().items()}, "file")
    net.linear = nn.Identity()
    assert_same_features(whole, net, None, x)  # by names it has its ReLU


def test_lightlys_heads():
    heads = pytest.importorskip("lightly.models.modules.heads")
    for head in (
        heads.SimCLRProjectionHead(D, 24, 12),
        heads.SimSiamProjectionHead(D, 24, 12),
        heads.BarlowTwinsProjectionHead(D, 24, 12),
        heads.MoCoProjectionHead(D, 24, 12),
        heads.NNCLRProjectionHead(D, 24, 12),
    ):
        state = {**under("backbone.", numbered(NET)), **under("projection_head.", shaken(head))}
        found = find_network({"state_dict": state}, "file")
        assert_same_features(found, NET, head.layers, torch.randn(2, 3, 64, 64))


def test_a_projector_that_is_not_understood_is_not_evaluated_in_part():
    for extra in ({"projector.4.weight": torch.ones(12)}, {"projector.9.weight": torch.ones(3, 99)}):
        found = find_network({**under("backbone.", NET), **under("projector.", HEAD), **extra}, "file")
        assert isinstance(found.projector, nn.Identity)
        assert "projector: none found" in report(found)
        assert "left out: projector" in report(found)


def test_a_classifier_of_several_layers_is_no_projector():
    found = find_network({**NET.state_dict(), **under("classifier.", PLAIN_HEAD), **under("prediction_head.", PLAIN_HEAD)}, "file")
    assert isinstance(found.projector, nn.Identity)


def test_fresh_is_the_same_architecture_with_other_weights_always_the_same():
    found = find_network(moco(PLAIN_HEAD, 2), "file")
    state = torch.get_rng_state()
    (backbone, projector), (again, _) = found.fresh(), found.fresh()
    assert torch.equal(state, torch.get_rng_state())
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in found.backbone.state_dict().items()}
    assert projector.state_dict().keys() == found.projector.state_dict().keys()
    assert torch.equal(backbone.conv1.weight, again.conv1.weight)
    assert not torch.equal(backbone.conv1.weight, found.backbone.conv1.weight)


# ---------------------------------------------------------------------------------------------- what does not fit


def test_missing_parts_are_listed_or_loudly_allowed():
    state = {k: v for k, v in under("m.", NET).items() if "layer3" not in k or "conv1" in k}
    with pytest.raises(
        SparseheadError, match=r"does not fit a resnet18 at m\. 23 missing: layer3.0.bn1.weight.* and 13 more.*allow-partial"
    ):
        find_network(state, "file")
    found = find_network(state, "file", allow_partial=True)
    assert "NOT LOADED, initial values instead: 23 missing" in report(found)
    assert torch.equal(found.backbone.layer4[0].conv1.weight, NET.layer4[0].conv1.weight)
    assert torch.equal(found.backbone.layer3[0].bn1.running_mean, torch.zeros(24))


def test_a_lost_block_is_not_taken_for_a_smaller_network():
    """Shapes alone would make a ResNet of 2, 2, 1 and 2 blocks of it, or one of three stages."""
    state = {k: v for k, v in NET.state_dict().items() if not k.startswith("layer3.1")}
    with pytest.raises(
        SparseheadError, match=r"have 2, 2, 1, 2 blocks, .*; of a resnet18 it lacks layer3.1. Is it whole\? --allow"
    ):
        find_network(state, "file")
    with pytest.raises(SparseheadError, match=r"of a resnet18 it lacks layer4.0, layer4.1"):
        find_network({k: v for k, v in NET.state_dict().items() if not k.startswith("layer4")}, "file")
    found = find_network(state, "file", allow_partial=True)
    assert "NOT A PUBLISHED RESNET: its stages have 2, 2, 1, 2 blocks" in report(found)
    own = ResNet(BasicBlock, (5, 1), (8, 16), "small", (3, 32, 32))
    with pytest.raises(SparseheadError, match=r"have 5, 1 blocks, which no published ResNet has. Is it whole\?"):
        find_network(own.state_dict(), "file")
    assert_same_features(find_network(own.state_dict(), "file", allow_partial=True), own.eval(), None, torch.randn(2, 3, 32, 32))


def test_even_the_first_layers_may_be_missing():
    state = {k: v for k, v in NET.state_dict().items() if not k.startswith(("conv1", "bn1", "layer1.0.conv1"))}
    with pytest.raises(SparseheadError, match="6 missing: conv1.weight, bn1.weight"):
        find_network(state, "file")
    assert find_network(state, "file", allow_partial=True).backbone.stem == "imagenet"


def test_another_architecture_is_not_taken_for_a_resnet():
    state = {**NET.state_dict(), "layer1.0.se.fc1.weight": torch.ones(4, 8, 1, 1)}
    with pytest.raises(SparseheadError, match="1 unexpected: layer1.0.se.fc1.weight. .*timm:NAME --weights FILE"):
        find_network(state, "file")
    grouped = {k: v[:, :4] if k == "layer2.0.conv2.weight" else v for k, v in NET.state_dict().items()}
    with pytest.raises(
        SparseheadError, match=r"of another shape: layer2.0.conv2.weight \[16, 4, 3, 3\] instead of \[16, 16, 3, 3\]"
    ):
        find_network(grouped, "file")
    with pytest.raises(SparseheadError, match=r"the first convolution conv1.weight is \[8, 3, 5, 5\]"):
        find_network({**NET.state_dict(), "conv1.weight": torch.ones(8, 3, 5, 5)}, "file")


def test_no_network_at_all_shows_what_is_there():
    with pytest.raises(SparseheadError, match=r"has no ResNet in it. Its first names: blocks.0.attn.weight.*timm:NAME"):
        find_network({"blocks.0.attn.weight": torch.ones(2, 2), "epoch": 3}, "file", allow_partial=True)
    with pytest.raises(SparseheadError, match="holds no tensors by name"):
        find_network({"epoch": 3}, "file")
    with pytest.raises(SparseheadError, match=r"whole Python objects \(my.Net\).*state_dict\(\) instead"):
        find_network({"model": object()}, "file", skipped=("my.Net",))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.index_fill(0, torch.tensor([1]), float("nan")), "numbers in layer2.0.conv1.weight are NaN, infinite"),
        (lambda w: w / 0, "1,152 of 1,152 numbers"),
        (lambda w: w * 1e30, "beyond 1e\\+15"),
        (lambda w: w.to("meta"), "on the meta device"),
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: w.int(), "torch.int32"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_cannot_be_computed_with(spoil, words):
    state = NET.state_dict()
    state["layer2.0.conv1.weight"] = spoil(state["layer2.0.conv1.weight"])
    with pytest.raises(SparseheadError, match=words):
        find_network(state, "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in under("backbone.", NET).items()}
    found = find_network({**state, **{k: v.to(dtype) for k, v in under("projector.", PLAIN_HEAD).items()}}, "file")
    weight = found.backbone.layer1[0].conv1.weight
    assert weight.dtype == found.projector[0].weight.dtype == torch.float32
    assert torch.equal(weight, NET.layer1[0].conv1.weight.to(dtype).float())


@pytest.mark.parametrize("width", [10**5, 2**15])
def test_shapes_that_claim_a_huge_network_are_refused_before_it_is_made(width):
    state = {
        **NET.state_dict(),
        "layer4.0.conv1.weight": torch.ones(1).expand(width, 24, 3, 3),
        "layer4.0.bn1.weight": torch.ones(3),
    }
    for allow_partial in (False, True):
        with pytest.raises(SparseheadError, match="of which only|no usable layer4"):
            find_network(state, "file", allow_partial=allow_partial)
    with pytest.raises(SparseheadError, match="of which only"):
        find_network({**NET.state_dict(), "layer2.999.conv1.weight": torch.ones(1)}, "file", allow_partial=True)


# ---------------------------------------------------------------------------------------------- names


def test_dicts_in_circles_end_and_strange_names_are_fit_to_print():
    state = {"a": {"w": torch.ones(1)}}
    state["a"]["b"] = state
    assert list(tensors_of(state)) == ["a.w"]
    assert tensors_of({"x" * 1000: torch.ones(1), 3: {"w": torch.ones(1)}}).keys() == {"3.w"}
    assert printable("a\nb\x1b[31m" + "x" * 200).startswith("a?b?[31m")
    assert len(printable("x" * 500)) == 100


def test_which_of_several_networks_comes_first():
    assert [side_of(p) for p in ("backbone.", "module.encoder_k.", "ema_model.", "teacher.backbone.")] == [
        "",
        *["momentum"] * 2,
        "teacher",
    ]
    assert preferred(["momentum_encoder.", "module.base_encoder."])[0] == "module.base_encoder."
    assert preferred(["student.backbone.", "teacher.backbone."])[0] == "teacher.backbone."
    assert preferred(["teacher_backbone.", "backbone."])[0] == "backbone."
    assert preferred(["momentum_backbone."]) == ["momentum_backbone."]
