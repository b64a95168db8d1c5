"""Other people's vision transformers through timm: heads, normalisation, r and z, against one written from the papers."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.foreign.assumptions import GIVEN, GUESSED, KNOWN, READ
from sparsehead_cli.foreign.facts import Facts, parse_assume
from sparsehead_cli.foreign.networks import Search, on_meta
from sparsehead_cli.foreign.timm_models import TimmBackbone, find_timm
from tests.foreign.vits import Reference, behind, fixed, in_chunks, register_short_models

pytest.importorskip("timm")
register_short_models()

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def reference(positions=None, **settings):
    """A reference whose positions are fixed ones, "rows" or "columns", or learned."""
    vit = Reference(**settings).eval()
    if positions:
        side = settings.get("image", 32) // settings.get("patch", 16)
        values = fixed(side, settings.get("dim", 64), rows_first=positions == "rows", has_class=settings.get("has_class", True))
        vit.pos_embed = nn.Parameter(values)
    return vit


def made(name):
    """timm's model without numbers."""
    return on_meta(partial(TimmBackbone, name))


def found_in(name, state, *assume, size=32, **options):
    """What is found, in eval mode, and the facts by their keys, each with what it rests on."""
    facts = Facts(parse_assume(assume))
    found = find_timm(name, state, Search("w.pt", facts, **options), size)
    facts.require_used("w.pt")
    found.backbone.eval(), found.projector.eval()
    return found, {a.key: (a.value, a.rests_on) for a in facts.assumptions}


@torch.no_grad()
def assert_same(found, expected, size=32, positions=None):
    """The backbone's r is the reference's, whose `positions` are those for another size."""
    images = torch.randn(3, 3, size, size)
    torch.testing.assert_close(found.backbone(images), expected(images, positions), rtol=1e-3, atol=2e-4)


# ---------------------------------------------------------------------------------------------- heads

SMALL = {"dim": 384, "depth": 2, "mlp": 4}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("vit_small_patch16_224", "short_small"),
        ("vit_base_patch16_gap_224", "short_base"),
        ("vit_small_patch14_dinov2", "short_dinov2"),
        ("vit_small_patch14_reg4_dinov2", "short_reg4_dinov2"),
    ],
)
def test_the_short_models_are_timms_but_for_their_depth(name, short):
    long, own = (made(n).net for n in (name, short))
    shapes = {key: value.shape for key, value in long.state_dict().items() if not key.startswith("blocks.")}
    assert shapes.keys() == {key for key in own.state_dict() if not key.startswith("blocks.")}
    assert str(long.blocks[0]) == str(own.blocks[0])
    assert long.blocks[0].attn.num_heads == own.blocks[0].attn.num_heads
    assert (long.global_pool, str(long.fc_norm)) == (own.global_pool, str(own.fc_norm))


def mocov3(vit):
    state = vit.state_dict()
    other = {name: value + 1 for name, value in state.items()}
    return {"state_dict": behind("module.base_encoder.", state) | behind("module.momentum_encoder.", other), "arch": "vit_small"}


def solo_learns_mae(vit):
    state = {**behind("backbone.", vit.state_dict()), "decoder.decoder_embed.weight": torch.randn(8, 384)}
    settings = {"method": "mae", "backbone": {"name": "vit_small"}, "data": {"dataset": "imagenet100"}}
    return {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.1"}


@pytest.mark.parametrize(
    ("layout", "positions", "wrap"),
    [
        ("MoCo v3", "rows", mocov3),
        ("MoCo v3", "rows", lambda vit: vit.state_dict()),
        ("solo-learn's MAE", "columns", solo_learns_mae),
    ],
    ids=["moco-v3", "moco-v3 without its prefix", "solo-learn's mae"],
)
def test_a_small_vit_of_twelve_heads_is_not_timms_of_six(layout, positions, wrap):
    vit = reference(positions, heads=12, **SMALL)
    found, facts = found_in("short_small", wrap(vit))
    assert_same(found, vit)
    assert facts["heads"] == ("12", KNOWN)
    assert f"layout: {layout}" in found.report


def test_ijepas_base_vit_has_twelve_heads_no_class_token_and_a_target():
    vit = reference("columns", dim=768, depth=2, mlp=4, heads=12, has_class=False, tokens="average")
    state = vit.state_dict()
    other = {name: value + 1 for name, value in state.items()}
    predictor = {"module.predictor_embed.weight": torch.randn(8, 768), "module.predictor_pos_embed": torch.randn(1, 4, 8)}
    file = {"encoder": behind("module.", other), "predictor": predictor, "target_encoder": behind("module.", state), "epoch": 300}
    found, facts = found_in("short_base", file)
    assert_same(found, vit)
    assert facts["heads"] == ("12", KNOWN)
    assert facts["branch"][1] == KNOWN
    assert facts["tokens"] == ("average", READ)


def test_heads_of_an_unknown_layout_are_timms_and_are_a_guess():
    vit = reference(heads=2)
    found, facts = found_in("test_vit", vit.state_dict())
    assert_same(found, vit)
    assert facts["heads"] == ("2", GUESSED)


def test_heads_that_are_given():
    vit = reference(heads=8)
    found, facts = found_in("test_vit", vit.state_dict(), "heads=8")
    assert_same(found, vit)
    assert facts["heads"] == ("8", GIVEN)
    fresh = found.fresh()[0]
    assert fresh.net.blocks[0].attn.num_heads == 8
    with pytest.raises(SparseheadError, match="7 heads do not divide a width of 64"):
        found_in("test_vit", vit.state_dict(), "heads=7")
    with pytest.raises(SparseheadError, match="heads=8 says nothing about this network"):
        found_in("resnet10t", timms("resnet10t"), "heads=8")


def timms(name, **settings):
    """The state_dict of timm's own model, its classifier included."""
    import timm

    return timm.create_model(name, pretrained=False, **settings).state_dict()


# ---------------------------------------------------------------------------------------------- normalisation


def plain(positions=None, **settings):
    return reference(positions, heads=2, image=160, **settings).state_dict()


def students(**beside):
    """A teacher and a student, whose head ends as DINO's."""
    last = {"module.head.last_layer.weight_v": torch.randn(9, 8), **beside}
    return {"teacher": behind("backbone.", plain()), "student": behind("module.backbone.", plain()) | last}


def targets(state):
    return {name: behind("module.", state) for name in ("target_encoder", "encoder")}


def lightnings(**settings):
    state = behind("backbone.", plain()) | {"classifier.weight": torch.randn(5, 64)}
    return {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.1"}


def msns_head():
    return {f"fc.fc{i}.weight": torch.randn(8, 64 if i == 1 else 8) for i in (1, 2, 3)}


CIFAR10 = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
FILES = {
    "dino": (students, IMAGENET, KNOWN),
    "ibot": (lambda: students(**{"module.backbone.masked_embed": torch.randn(1, 64)}), IMAGENET, KNOWN),
    "dinov2": (lambda: {"teacher": behind("backbone.", in_chunks(plain(), 2))}, IMAGENET, KNOWN),
    "mae": (lambda: {"model": plain("columns") | {"decoder_embed.weight": torch.randn(8, 64)}}, IMAGENET, KNOWN),
    "mae's encoder": (lambda: {"model": plain("columns")}, IMAGENET, KNOWN),
    "moco-v3": (lambda: {"state_dict": behind("module.base_encoder.", plain("rows"))}, IMAGENET, KNOWN),
    "i-jepa": (lambda: targets(plain("columns", has_class=False)), IMAGENET, KNOWN),
    "msn": (lambda: targets(plain() | msns_head()), IMAGENET, KNOWN),
    "solo-learn": (lambda: lightnings(method="simclr", data={"dataset": "cifar10"}), CIFAR10, KNOWN),
    "no classifier": (plain, IMAGENET, GUESSED),
    "timm's own": (lambda: timms("test_vit"), HALF, KNOWN),
    "ten classes": (lambda: timms("test_vit", num_classes=10), HALF, GUESSED),
    "somebody's classifier": (lambda: {"model": timms("test_vit")}, HALF, GUESSED),
}


@pytest.mark.parametrize("name", FILES)
def test_images_are_normalised_as_the_authors_do(name, tmp_path):
    file, (mean, std), rests_on = FILES[name]
    torch.save(file(), tmp_path / "w.pt")
    subject = load_subject("timm:test_vit", LoadOptions(weights=tmp_path / "w.pt"))
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == (mean, std)
    assert {a.key: a.rests_on for a in subject.assumed}["mean"] == rests_on


def test_mean_and_std_that_are_given(tmp_path):
    torch.save(students(), tmp_path / "w.pt")
    given = ("mean=0.1,0.2,0.3", "std=0.5")
    subject = load_subject("timm:test_vit", LoadOptions(weights=tmp_path / "w.pt", assume=given))
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_the_example_of_the_docs(tmp_path):
    """DINO's published backbone is a bare state_dict, and timm's plain name has mean 0.5."""
    vit = reference(dim=384, depth=12, mlp=4, heads=6, image=224)
    torch.save(vit.state_dict(), tmp_path / "dino_vits16.pth")
    subject = load_subject("timm:vit_small_patch16_224", LoadOptions(weights=tmp_path / "dino_vits16.pth"))
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == IMAGENET
    rests_on = {a.key: a.rests_on for a in subject.assumed}
    assert (rests_on["mean"], rests_on["heads"], rests_on["image_size"]) == (GUESSED, GUESSED, READ)
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(subject.network(images)["r"], vit(images), rtol=1e-3, atol=2e-4)


def test_a_tag_in_timms_name_says_how_images_are_normalised():
    vit = made("vit_small_patch16_224")
    assert (vit.normalise.mean, vit.normalise.std) == HALF
    state = reference(heads=2, image=160).state_dict()
    facts = Facts()
    find_timm("test_vit.r160_in1k", state, Search("w.pt", facts))
    assert (facts.known["mean"], facts.known["std"]) == HALF
    assert made("vit_small_patch16_224.dino").normalise.mean == IMAGENET[0]


# ---------------------------------------------------------------------------------------------- r and z


def test_r_is_the_class_token_or_the_average():
    vit = reference(heads=2, tokens="average")
    found, facts = found_in("test_vit", vit.state_dict(), "tokens=average")
    assert_same(found, vit)
    assert facts["tokens"] == ("average", GIVEN)
    vit.tokens = "class"
    found, facts = found_in("test_vit", vit.state_dict())
    assert_same(found, vit)
    assert facts["tokens"] == ("class", GUESSED)


def test_a_norm_behind_the_average_is_read_off_the_file():
    """MAE's fine-tuned networks and iBOT's with mean pooling have their last norm behind the average."""
    vit = reference(heads=2)
    state = vit.state_dict()
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value for name, value in state.items()}
    found, facts = found_in("test_vit", state)
    assert facts["tokens"] == ("average", READ)
    norm, vit.norm, vit.tokens = vit.norm, nn.Identity(), "average"
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(found.backbone(images), norm(vit(images)), rtol=1e-3, atol=2e-4)


def test_a_network_without_a_class_token_has_none_to_give():
    vit = reference("columns", heads=2, has_class=False, tokens="average")
    found, facts = found_in("test_vit", vit.state_dict())
    assert_same(found, vit)
    assert facts["tokens"] == ("average", READ)
    with pytest.raises(SparseheadError, match="has no class token: --assume tokens=average"):
        found_in("test_vit", vit.state_dict(), "tokens=class")


def mlp(*widths, activation, norm=False):
    """Linear layers with activations between, and a BatchNorm behind each but for the last, with statistics of their own."""
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [activation()] if i else []
        layers += [nn.Linear(inputs, outputs)]
        layers += [nn.BatchNorm1d(outputs)] if norm and i < len(widths) - 2 else []
    head = nn.Sequential(*layers).eval()
    for layer in head:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
    return head


def named(head, names):
    """The head's tensors by other names than the numbers of its layers."""
    numbers = [str(i) for i, layer in enumerate(head) if list(layer.parameters())]
    places = dict(zip(numbers, names, strict=True))
    return {f"{places[name.partition('.')[0]]}.{name.partition('.')[2]}": value for name, value in head.state_dict().items()}


def dinos(vit, head):
    own = (
        behind("backbone.", vit.state_dict())
        | behind("head.mlp.", head.state_dict())
        | {"head.last_layer.weight_v": torch.ones(9, 8)}
    )
    return {"teacher": own, "student": behind("module.", own)}


def dinov2s(vit, head):
    own = behind("backbone.", in_chunks(vit.state_dict(), 3)) | behind("dino_head.mlp.", head.state_dict())
    own |= behind("ibot_head.mlp.", mlp(64, 16, 16, 8, activation=nn.GELU).state_dict())
    own |= {f"{part}_head.last_layer.weight_v": torch.ones(9, 8) for part in ("dino", "ibot")}
    return {"teacher": own}


def msns(vit, head):
    own = behind("module.", vit.state_dict() | behind("fc.", named(head, ("fc1", "bn1", "fc2", "bn2", "fc3"))))
    other = {name: value + 1 if value.is_floating_point() else value for name, value in own.items()}
    return {"encoder": other, "target_encoder": own, "prototypes": torch.randn(9, 8)}


def mocov3s(vit, head):
    own = vit.state_dict() | behind("head.", head.state_dict())
    predictor = behind("module.predictor.", mlp(8, 16, 8, activation=nn.ReLU).state_dict())
    return {"state_dict": behind("module.base_encoder.", own) | behind("module.momentum_encoder.", own) | predictor}


@pytest.mark.parametrize(
    ("wrap", "activation", "norm", "shown"),
    [
        (dinos, nn.GELU, False, "gelu"),
        (dinov2s, nn.GELU, False, "gelu"),
        (msns, nn.GELU, True, "gelu"),
        (mocov3s, nn.ReLU, True, "relu"),
    ],
)
def test_z_is_what_the_authors_head_makes(wrap, activation, norm, shown):
    vit, head = reference(heads=2), mlp(64, 16, 16, 8, activation=activation, norm=norm)
    found, facts = found_in("test_vit", wrap(vit, head))
    assert_same(found, vit)
    features = torch.randn(3, 64)
    torch.testing.assert_close(found.projector(features), head(features), rtol=1e-4, atol=1e-5)
    assert facts["activation"] == (shown, KNOWN)
    behind_it = facts.get("z", ("",))[0]
    assert ("last_layer" in behind_it) == (wrap in (dinos, dinov2s))


def test_a_model_that_computes_activations_again_has_the_same_gradient_and_moves_statistics_once():
    plain = TimmBackbone("test_resnet", 32)
    again = TimmBackbone("test_resnet", 32)
    again.load_state_dict(plain.state_dict())
    again.set_grad_checkpointing()
    images, found = torch.randn(4, 3, 32, 32), []
    passes = []
    again.net.layer1[0].register_forward_pre_hook(lambda *_: passes.append(1))
    for net in (plain, again):
        r = net(images)
        r.square().sum().backward()
        found.append([r.detach(), *(p.grad for p in net.parameters()), *net.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(passes) == 2


def test_a_model_that_cannot_compute_activations_again_says_so():
    net = TimmBackbone("test_resnet", 32)
    net.net = nn.Linear(1, 1)
    with pytest.raises(SparseheadError, match=r"timm's test_resnet cannot compute activations again. Choose --set accumulate=2"):
        net.set_grad_checkpointing()
