"""What shapes do not show: files as their authors' code writes them must compute what the published definition computes."""

import argparse
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign import facts as facts_module
from sparsehead_cli.foreign.assumptions import GIVEN, GUESSED, KNOWN, READ, guesses_in, in_words
from sparsehead_cli.foreign.facts import KEYS, Facts, hints_of, parse_assume
from sparsehead_cli.foreign.heads import activation_of
from sparsehead_cli.foreign.layouts import Layout
from sparsehead_cli.foreign.networks import Search
from sparsehead_cli.foreign.resnets import find_resnet
from tests.foreign.definitions import head, head_state, resnet, resnet_state, under

TORCHVISION = {"padding": 3, "stem_stride": 2, "pool": True}
CIFAR = {"padding": 2, "stem_stride": 1, "pool": False}  # solo-learn's
D, HIDDEN, OUT = 10, 12, 6
MLP = "0 1: 3 4: 6"  # of an nn.Sequential: linear, norm, ReLU …
NETS = {(kernel, i): resnet_state(i, kernel=kernel) for kernel in (3, 7) for i in (0, 1)}
FIFTY = resnet_state(5, "bottleneck", 7)
HEADS = [head_state(i, MLP, (D, HIDDEN, HIDDEN, OUT)) for i in (0, 1)]
LIGHTNING = {"epoch": 1, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {"lr": 0.1}}


def images(size=32, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def find(state, *assume):
    facts = Facts(parse_assume(assume))
    return find_resnet(state, Search("file", facts)), {a.key: (a.value, a.rests_on) for a in facts.assumptions}


@torch.no_grad()
def assert_computes(found, state, x=None, z=None, **stem):
    """The network computes r as the definition with this stem does, and z as the function `z` of r; other stems do not."""
    x = images() if x is None else x
    r = resnet(state, x, **stem)
    torch.testing.assert_close(found.backbone.eval()(x), r, rtol=1e-4, atol=1e-5)
    if z is not None:
        torch.testing.assert_close(found.projector.eval()(r), z(r), rtol=1e-4, atol=1e-5)


def mlp(state, prefix="", activation=F.relu):
    names = [f"{prefix}{name}" for name in MLP.split()]
    return lambda r: head(state, (*names[:2], activation, *names[2:4], activation, names[4]), r)


# ---------------------------------------------------------------------------------------------- stems


def solo_learn(kernel, dataset=None, hyper_parameters=dict, backbone="backbone"):
    parts = {f"{backbone}.": NETS[kernel, 0], f"momentum_{backbone}.": NETS[kernel, 1], "projector.": HEADS[0]}
    parts |= {"momentum_projector.": HEADS[1], "predictor.": head_state(3, "0 1: 3", (OUT, 8, OUT))}
    state = {name: value for prefix, part in parts.items() for name, value in under(prefix, part).items()}
    state |= {"classifier.weight": torch.ones(10, D), "classifier.bias": torch.ones(10)}
    settings = {"method": "byol", "backbone": "resnet18", **({"dataset": dataset} if dataset else {})}
    return {**LIGHTNING, "state_dict": state, "hyper_parameters": hyper_parameters(**settings)}


@pytest.mark.parametrize("backbone", ["backbone", "encoder"])
def test_solo_learns_cifar_stem_has_padding_2(backbone):
    found, facts = find(solo_learn(3, backbone=backbone))
    assert_computes(found, NETS[3, 0], z=mlp(HEADS[0]), **CIFAR)
    assert not torch.allclose(
        resnet(NETS[3, 0], images(), **CIFAR), resnet(NETS[3, 0], images(), **{**CIFAR, "padding": 1}), rtol=0.05
    )
    assert found.layout == "solo-learn"
    assert {key: facts[key] for key in ("padding", "pool", "activation")} == {
        "padding": ("2", KNOWN),
        "pool": ("false", KNOWN),
        "activation": ("relu", KNOWN),
    }
    assert facts["branch"] == ("trained", KNOWN)


def test_solo_learns_methods_without_momentum_are_recognised_by_their_online_classifier():
    whole = solo_learn(3)
    state = {name: value for name, value in whole["state_dict"].items() if not name.startswith(("momentum", "predictor"))}
    found, facts = find({**whole, "state_dict": state})
    assert (found.layout, facts["padding"]) == ("solo-learn", ("2", KNOWN))
    found, facts = find({**whole, "state_dict": {k: v for k, v in state.items() if not k.startswith("classifier")}})
    assert (found.layout, facts["padding"]) == ("lightning", ("1", GUESSED))  # nobody can know


def test_solo_learns_imagenet_stem_is_torchvisions():
    found, facts = find(solo_learn(7))
    assert_computes(found, NETS[7, 0], images(64), **TORCHVISION)
    assert facts["padding"] == ("3", KNOWN)


def test_cassle_and_eb_jepa_have_solo_learns_stem():
    cassle = {f"encoder.{k}": v for k, v in NETS[3, 0].items()} | {f"frozen_encoder.{k}": v for k, v in NETS[3, 1].items()}
    cassle |= under("projector.", HEADS[0]) | under("frozen_projector.", HEADS[1])
    found, facts = find({**LIGHTNING, "state_dict": cassle})
    assert_computes(found, NETS[3, 0], z=mlp(HEADS[0]), **CIFAR)
    assert found.layout == "cassle"
    other, _ = find({**LIGHTNING, "state_dict": cassle}, "branch=frozen")
    assert_computes(other, NETS[3, 1], **CIFAR)
    jepa = {**under("backbone.backbone.", NETS[3, 0]), **under("projector.", HEADS[0])}
    found, facts = find({"epoch": 3, "model_state_dict": jepa})
    assert_computes(found, NETS[3, 0], z=mlp(HEADS[0]), **CIFAR)
    assert facts["padding"] == ("2", KNOWN)


@pytest.mark.parametrize(
    ("kernel", "stem", "assume"),
    [
        (3, {"padding": 1, "stem_stride": 1, "pool": False}, ()),
        (3, {"padding": 1, "stem_stride": 1, "pool": True}, ("pool=true",)),
        (3, CIFAR, ("padding=2",)),
        (3, {"padding": 1, "stem_stride": 2, "pool": False}, ("stem_stride=2",)),
        (7, TORCHVISION, ()),
        (7, {**TORCHVISION, "pool": False}, ("pool=false",)),
        (7, {**TORCHVISION, "stem_stride": 1}, ("stem_stride=1",)),
    ],
)
def test_stems_of_files_that_say_nothing_are_guessed_and_can_be_told(kernel, stem, assume):
    found, facts = find({"net": NETS[kernel, 0]}, *assume)
    assert_computes(found, NETS[kernel, 0], images(64), **stem)
    told = {text.partition("=")[0] for text in assume}
    assert all(facts[key][1] == (GIVEN if key in told else GUESSED) for key in stem)
    assert_computes_untrained_alike(found, stem)


@torch.no_grad()
def assert_computes_untrained_alike(found, stem):
    """The untrained twin has the same stem."""
    twin, _ = found.fresh()
    assert [twin.conv1.padding[0], twin.conv1.stride[0]] == [stem["padding"], stem["stem_stride"]]
    assert isinstance(twin.maxpool, nn.MaxPool2d) == stem["pool"]


def test_the_stride_of_a_bottleneck_is_torchvisions_or_told():
    found, facts = find({"net": FIFTY})
    assert_computes(found, FIFTY, images(64), **TORCHVISION, stride="3x3")
    assert facts["stride"] == ("3x3", GUESSED)
    found, facts = find({"net": FIFTY}, "stride=1x1")
    assert_computes(found, FIFTY, images(64), **TORCHVISION, stride="1x1")
    assert facts["stride"] == ("1x1", GIVEN)
    assert found.fresh()[0].layer2[0].conv1.stride == (2, 2)


def test_torchvisions_own_layout_leaves_nothing_to_guess():
    found, facts = find({**FIFTY, "fc.weight": torch.ones(1000, 40), "fc.bias": torch.ones(1000)})
    assert_computes(found, FIFTY, images(64), **TORCHVISION)
    assert found.layout == "torchvision"
    assert {how for _, how in facts.values()} == {KNOWN}


def test_what_is_built_on_torchvision_is_known_by_its_file():
    three = head_state(7, "fc.0 fc.1: fc.3 fc.4: fc.6 fc.7:", (D, HIDDEN, HIDDEN, OUT))
    predictor = under("module.predictor.", head_state(8, "0 1: 3", (OUT, 8, OUT)))
    simsiam = {"arch": "resnet18", "state_dict": {**under("module.encoder.", {**NETS[7, 0], **three}), **predictor}}
    found, _ = find(simsiam)
    layers = ("fc.0", "fc.1:", F.relu, "fc.3", "fc.4:", F.relu, "fc.6", "fc.7:")
    assert_computes(found, NETS[7, 0], images(64), lambda r: head(three, layers, r), **TORCHVISION)
    supervised = {"arch": "resnet50", "state_dict": {**under("module.", FIFTY), "module.fc.weight": torch.ones(1000, 40)}}
    vicreg = {"model": {**under("module.backbone.", FIFTY), **under("module.projector.", head_state(9, MLP, (40, 8, 8, 6)))}}
    layouts = [find_with_layout(state) for state in (simsiam, supervised, vicreg)]
    assert [layout for layout, _ in layouts] == ["simsiam", "torchvision", "vicreg"]
    assert all(how == KNOWN for _, facts in layouts for _, how in facts.values())


def find_with_layout(state):
    found, facts = find(state)
    return found.layout, facts


def test_a_layout_is_added_by_one_row(monkeypatch):
    """Recognised by its tensors and by what its settings say; nothing else in the package knows of it."""
    row = Layout(
        "newcomer",
        (r"(^|\.)trunk\.conv1\.weight$", r"(^|\.)to_z\.proj\.0\.weight$"),
        {"padding": 0, "activation": "tanh", "mean": (0.1, 0.2, 0.3)},
        says=(r"^settings\.code = newcomer$",),
    )
    state = {**under("net.trunk.", NETS[3, 0]), **under("net.to_z.proj.", HEADS[0])}
    assert find(state)[0].layout == "resnet"
    monkeypatch.setattr(facts_module, "LAYOUTS", (row, *facts_module.LAYOUTS))
    assert find(state)[0].layout == "resnet"  # it does not say that it is one
    found, facts = find({**state, "settings": {"code": "newcomer"}})
    assert_computes(found, NETS[3, 0], z=mlp(HEADS[0], activation=torch.tanh), padding=0, stem_stride=1, pool=False)
    assert found.layout == "newcomer"
    assert (facts["padding"], facts["activation"]) == (("0", KNOWN), ("tanh", KNOWN))


def test_what_a_file_names_is_said():
    facts = Facts()
    find_resnet(solo_learn(3, "cifar100"), Search("file", facts))
    assert facts.report()[0] == "named in the file: method byol, dataset cifar100, network resnet18"


def test_numbers_of_a_sequential_show_whether_it_has_a_max_pool():
    numbers = {"conv1": "0", "bn1": "1", "layer1": "3", "layer2": "4", "layer3": "5", "layer4": "6"}
    state = {re.sub(r"^\w+", lambda match: numbers[match[0]], name): value for name, value in NETS[7, 0].items()}
    found, facts = find(under("backbone.", state))
    assert facts["pool"] == ("false", READ)
    assert_computes(found, NETS[7, 0], images(64), **{**TORCHVISION, "pool": False})


# ---------------------------------------------------------------------------------------------- which network


def lightnings_average():
    average = {**under("backbone.", NETS[7, 0]), **under("projector.", HEADS[0])}
    raw = {**under("backbone.", NETS[7, 1]), **under("projector.", HEADS[1])}
    return {**LIGHTNING, "state_dict": average, "current_model_state": raw, "averaging_state": {"n_averaged": torch.tensor(9)}}


def test_lightnings_average_comes_before_the_raw_weights():
    found, facts = find(lightnings_average())
    assert_computes(found, NETS[7, 0], images(64), mlp(HEADS[0]), **TORCHVISION)
    assert facts["branch"] == ("average", KNOWN)
    assert "left out: raw network current_model_state" in "\n".join(found.report)
    found, facts = find(lightnings_average(), "branch=raw")
    assert_computes(found, NETS[7, 1], images(64), mlp(HEADS[1]), **TORCHVISION)
    assert facts["branch"] == ("raw", GIVEN)


def test_a_momentum_network_within_an_average():
    whole = solo_learn(7)
    raw = {name: value + 1 if value.is_floating_point() else value for name, value in whole["state_dict"].items()}
    found, _ = find({**whole, "current_model_state": raw})
    assert_computes(found, NETS[7, 0], images(64), mlp(HEADS[0]), **TORCHVISION)
    found, _ = find({**whole, "current_model_state": raw}, "branch=average momentum")
    assert_computes(found, NETS[7, 1], images(64), mlp(HEADS[1]), **TORCHVISION)


@pytest.mark.parametrize(
    ("prefixes", "known", "names"),
    [
        (("teacher.backbone.", "student.module.backbone."), 0, ("teacher", "student")),
        (("module.encoder_q.", "module.encoder_k."), 0, ("trained", "momentum")),
        (("module.base_encoder.", "module.momentum_encoder."), 0, ("online", "target")),
        (("online_encoder.net.", "target_encoder.net."), 0, ("online_encoder.net", "target")),
        (("state_dict_ema.", "state_dict."), 0, ("ema", "trained")),
        (("a.", "b."), 0, ("a", "b")),
    ],
)
def test_each_network_of_a_file_can_be_chosen(prefixes, known, names):
    state = {name: value for i, prefix in enumerate(prefixes) for name, value in under(prefix, NETS[7, i]).items()}
    if "teacher" in names:
        state["teacher.head.last_layer.weight_v"] = torch.ones(4, 3)
    for i, assume in enumerate([(), *((f"branch={name}",) for name in names)]):
        found, facts = find(state, *assume)
        assert_computes(found, NETS[7, known if i == 0 else i - 1], images(64), **TORCHVISION)
        assert facts["branch"][1] == (GIVEN if i else GUESSED if "a" in names else KNOWN)
    with pytest.raises(SparseheadError, match="branch=raw names none of its networks; there are: "):
        find(state, "branch=raw")


def test_a_network_that_is_in_the_file_twice_is_one():
    state = {**under("backbone.", NETS[7, 0]), **under("encoder.0.", NETS[7, 0])}
    assert "branch" not in find(state)[1]
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items() if name.startswith("enc")}
    assert find({**state, **half})[1]["branch"] == ("backbone", GUESSED)


# ---------------------------------------------------------------------------------------------- heads


def test_msn_has_gelu_and_is_evaluated_by_its_target():
    names = "fc.fc1 fc.bn1: fc.fc2 fc.bn2: fc.fc3"
    online, target = (head_state(i, names, (D, HIDDEN, HIDDEN, OUT)) for i in (4, 5))
    state = {
        "encoder": under("module.", {**NETS[7, 0], **online}),
        "target_encoder": under("module.", {**NETS[7, 1], **target}),
        "prototypes": torch.ones(20, OUT),
    }
    found, facts = find(state)
    a, b, c, d, e = names.split()
    assert_computes(found, NETS[7, 1], images(64), lambda r: head(target, (a, b, F.gelu, c, d, F.gelu, e), r), **TORCHVISION)
    assert (facts["activation"], facts["branch"]) == (("gelu", KNOWN), ("momentum", KNOWN))


def simsiam(seen):
    """SimSiam for small data: two of three blocks of its projector are used; BatchNorm counts its batches."""
    parts = head_state(6, "layer1.0 layer1.1: layer2.0 layer2.1: layer3.0 layer3.1:", (D, HIDDEN, HIDDEN, HIDDEN))
    for name, value in parts.items():
        if name.endswith("num_batches_tracked"):
            value.fill_(seen["layer2" in name])
    state = {**under("backbone.", NETS[3, 0]), **under("projector.", parts)}
    state |= {**under("encoder.0.", NETS[3, 0]), **under("encoder.1.", parts)}
    return {"epoch": 3, "state_dict": state}, parts


TWO = ("layer1.0", "layer1.1:", F.relu, "layer3.0", "layer3.1:")
THREE = (*TWO[:3], "layer2.0", "layer2.1:", F.relu, *TWO[3:])


def test_parts_of_a_head_that_no_batch_went_through_are_not_used():
    state, parts = simsiam(seen=(700, 0))
    found, facts = find(state)
    assert_computes(found, NETS[3, 0], z=lambda r: head(parts, TWO, r), padding=1, stem_stride=1, pool=False)
    assert facts["layers"] == ("layer1,layer3", READ)
    assert "left out: " in "\n".join(found.report)
    state, parts = simsiam(seen=(700, 700))
    found, facts = find(state)
    assert_computes(found, NETS[3, 0], z=lambda r: head(parts, THREE, r), padding=1, stem_stride=1, pool=False)
    assert "layers" not in facts


def test_parts_of_a_head_that_nothing_vouches_for_are_a_guess_and_can_be_told():
    state, parts = simsiam(seen=(0, 0))
    assert find(state)[1]["layers"] == ("layer1,layer2,layer3", GUESSED)
    found, facts = find(state, "layers=layer1,layer3")
    assert_computes(found, NETS[3, 0], z=lambda r: head(parts, TWO, r), padding=1, stem_stride=1, pool=False)
    assert facts["layers"] == ("layer1,layer3", GIVEN)
    with pytest.raises(
        SparseheadError, match="layers=layer1,layer9: no projector is a chain of these parts; state_dict.projector has layer1, "
    ):
        find(state, "layers=layer1,layer9")


def simplicial(r, group, temperature):
    return torch.cat([(part / temperature).softmax(dim=1) for part in r.split(group, dim=1)], dim=1)


def test_a_softmax_at_a_numbered_gap_is_guessed_to_be_a_relu_and_can_be_told():
    names = ("0", "1:", "3", "4:", "6")
    state = {**under("net.", NETS[7, 0]), **under("projector.", HEADS[0])}
    _, facts = find(state)
    assert facts["activation"] == ("relu", GUESSED)
    found, facts = find(state, "activation=softmax:4:0.5,gelu")
    assert_computes(
        found,
        NETS[7, 0],
        images(64),
        lambda r: head(HEADS[0], (*names[:2], lambda x: simplicial(x, 4, 0.5), *names[2:4], F.gelu, names[4]), r),
        **TORCHVISION,
    )
    assert facts["activation"] == ("softmax:4:0.5,gelu", GIVEN)
    with pytest.raises(SparseheadError, match="names 3 activations, and the projector projector has 2 places for one"):
        find(state, "activation=relu,relu,relu")


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("relu", F.relu),
        ("gelu", F.gelu),
        ("silu", F.silu),
        ("tanh", torch.tanh),
        ("none", lambda x: x),
        ("softmax", lambda x: x.softmax(dim=1)),
        ("softmax:2", lambda x: simplicial(x, 2, 1)),
    ],
)
def test_activations(kind, function):
    x = torch.randn(3, 8)
    torch.testing.assert_close(activation_of(parse_assume([f"activation={kind}"])["activation"])(x), function(x))


# ---------------------------------------------------------------------------------------------- hints and --assume


def test_hints_are_plain_values_in_dicts_and_settings_objects():
    circle = {"a": 1}
    circle["self"] = circle
    state = {"args": argparse.Namespace(arch="resnet50", dataset="CIFAR10"), "w": torch.ones(1), "long": "x" * 1000, **circle}
    assert hints_of(state) == {"args.arch": "resnet50", "args.dataset": "CIFAR10", "a": "1", "self.a": "1"}
    omegaconf = pytest.importorskip("omegaconf")
    settings = omegaconf.OmegaConf.create({"method": "simclr", "data": {"dataset": "cifar100"}})
    assert hints_of({"hyper_parameters": settings}) == {
        "hyper_parameters.method": "simclr",
        "hyper_parameters.data.dataset": "cifar100",
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["paddin=2"], 'unknown fact for --assume "paddin"; known: branch, padding, .*Did you mean "padding"'),
        (["stem=2"], "known: branch, padding, stem_stride, "),
        (["padding"], 'takes KEY=VALUE, given "padding"; padding is '),
        (["padding="], 'takes KEY=VALUE, given "padding="'),
        (["padding=9"], 'padding must be the padding of the first convolution, 0 to 3, given "9"'),
        (["pool=maybe"], 'pool must be true or false: .*given "maybe"'),
        (["stride=2x2"], "stride must be 1x1 or 3x3"),
        (["heads=0"], "heads must be the number of attention heads"),
        (["mean=0.5,0.5"], "mean must be 1 or 3 numbers"),
        (["mean=nan"], "mean must be 1 or 3 numbers"),
        (["std=0"], "std must be 1 or 3 numbers"),
        (["std=x"], "std must be 1 or 3 numbers"),
        (["activation=reelu"], "relu, gelu, silu, tanh, none, softmax"),
        (["pool=true", "pool=false"], "--assume pool is given twice, true and false"),
        (["image_size=64"], "--image-size N"),
    ],
)
def test_what_cannot_be_assumed_is_said(texts, words):
    with pytest.raises(SparseheadError, match=words):
        parse_assume(texts)


def test_every_key_takes_what_it_writes():
    texts = ["branch=teacher", "padding=2", "stem_stride=1", "pool=false", "stride=1x1", "heads=12", "activation=relu,gelu"]
    texts += ["layers=layer1,layer3", "mean=0.5", "std=0.229,0.224,0.225"]
    given = parse_assume(texts)
    facts = Facts(given)
    for key in given:
        facts.take(key, guess="something else")
    assert [f"{a.key}={a.value}" for a in facts.assumptions] == texts
    assert set(given) <= set(KEYS)
    facts.take("heads", guess=3)
    assert guesses_in(in_words(facts.assumptions)) == []


def test_given_read_known_guessed_in_this_order():
    for given, read, known, rests_on in ((1, 2, 3, GIVEN), (None, 2, 3, READ), (None, None, 3, KNOWN), (None, None, None, GUESSED)):
        facts = Facts({} if given is None else {"heads": given})
        value = facts.take("heads", read=read, known=known, guess=4)
        assert value == next(v for v in (given, read, known, 4) if v is not None)
        assert str(facts.assumptions[0]) == f"heads={value} ({rests_on})"
        assert guesses_in(in_words(facts.assumptions)) == (["heads=4"] if rests_on == GUESSED else [])


def test_a_fact_that_the_network_has_no_place_for_is_refused():
    facts = Facts(parse_assume(["heads=12"]))
    find_resnet({"net": NETS[3, 0]}, Search("file", facts))
    with pytest.raises(
        SparseheadError, match="file: --assume heads=12 says nothing about this network; what can be assumed of it: stem_"
    ):
        facts.require_used("file")
