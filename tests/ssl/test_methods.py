"""Every method's contract; a new entry in METHODS is tested by being there."""

import copy

import pytest
import torch

from sparsehead_cli.data.contract import GLOBAL, LOCAL, Batch, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import rising
from sparsehead_cli.ssl.methods import METHODS
from tests.conftest import method_recipe, needs_patches, small_backbone

PAIR = (GLOBAL, GLOBAL)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def build(name, kind="mlp", **settings):
    torch.manual_seed(0)
    backbone = small_backbone(name, 12, stages=2)
    projector = make_projector(backbone.dim, [8], 6, kind=kind)
    method = METHODS[name](backbone, projector, **{**method_recipe(name), **settings})
    method.prepare(len(LABELS), 1)  # an epoch is a step
    return method


def views(n=2, batch=8):
    g = torch.Generator().manual_seed(1)
    return [View(torch.randn(batch, 1, 12, 12, generator=g)) for _ in range(n)]


def of(labels):
    """The batch that views are of, for methods that read labels."""
    return Batch(torch.empty(0), labels, torch.arange(len(labels)))


# of those that shift too much in a step of 0.05, or too little to be seen, and of one whose penalty grows with what it remembers
RATES, FORGETFUL = {"vibcreg": 0.005, "lejepa": 0.5, "simmim": 1.0, "ijepa": 0.02}, {"tico": {"beta": 0.0}}
FALLS = {"simmim": 0.05, "ijepa": 0.05}  # whose objectives cannot fall by 0.1: the images are noise


def steps(method, count, lr=0.05):
    """The objective of each of `count` steps of the loop on one batch."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr)
    found = []
    for step in range(count):
        torch.manual_seed(step)
        loss, _ = method(views(), of(LABELS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / count)
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", METHODS)
def test_contract(name):
    method = build(name)
    method.check(PAIR, 8)
    loss, terms = method(views(), of(LABELS))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert all(t.shape == () for t in terms.values())
    loss.backward()
    for part in (method.backbone, method.projector):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    r, z = method.embed(views()[0].inputs)
    assert r.shape == (8, method.backbone.dim)
    assert z.shape == (8, 6)
    method.after_step(0.5)


@pytest.mark.parametrize("name", METHODS)
def test_everything_that_is_trained_gets_a_gradient(name):
    """Also what DistributedDataParallel asks for: no trainable parameter outside of the objective's graph."""
    method = build(name)
    method(views(), of(LABELS))[0].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    constant = {id(p) for p in method.constant_lr()}
    assert constant <= {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", METHODS)
def test_objective_is_float32_under_bf16_autocast(name):
    method = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method(views(), of(LABELS))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_trains(name):
    """A few steps on one batch lower the objective: the gradient points where it should."""
    found = steps(build(name, **FORGETFUL.get(name, {})), 15, RATES.get(name, 0.05))
    assert sum(found[-3:]) / 3 < found[0] - FALLS.get(name, 0.1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["none", "orthogonal", "direct"])
def test_every_head_will_do(name, kind):
    method = build(name, kind=kind)
    method.check(PAIR, 16)  # r has 8 dimensions, which a batch of 8 could not whiten
    method.prepare(16, 1)
    loss, _ = method(views(batch=16), of(LABELS.repeat(2)))
    loss.backward()
    method.after_step(1.0)
    assert loss.isfinite()


@pytest.mark.parametrize("name", METHODS)
def test_all_it_remembers_is_in_its_state(name):
    """A copy that is built anew and loads the state goes on exactly as the original does."""
    method = build(name)
    steps(method, 3, RATES.get(name, 0.05))
    other = build(name)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    lr = RATES.get(name, 0.05)
    assert steps(other, 3, lr) == steps(method, 3, lr)
    for ours, theirs in zip(method.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs.views == 2])
def test_two_views_are_compared(name):
    with pytest.raises(SparseheadError, match="compares two views; the recipe makes 3"):
        build(name).check(PAIR + PAIR[:1], 8)


@pytest.mark.parametrize("name", METHODS)
def test_local_views_are_for_those_who_can_use_them(name):
    small = [View(view.inputs[:, :, :7, :7] + 1, LOCAL) for view in views(3)]
    roles = PAIR + (LOCAL,) * 3
    method = build(name)
    if not METHODS[name].needs.local:
        with pytest.raises(SparseheadError, match="has no use for local views, of which the recipe makes 3"):
            method.check(roles, 8)
        return
    method.check(roles, 8)
    without, _ = method(views(), of(LABELS))
    loss, _ = method([*views(), *small], of(LABELS))
    loss.backward()
    assert loss.isfinite()
    assert loss != without
    method.after_step(0.5)


def test_generative_methods_take_any_number_of_views():
    for name in ("autoencoder", "mae", "simmim", "ijepa"):
        method = build(name)
        method.check(PAIR[:1], 2)
        assert method(views(1), of(LABELS))[0].isfinite()
        assert method(views(3), of(LABELS))[0].isfinite()


def test_only_supcon_reads_the_labels():
    other = LABELS.roll(1)
    for name in METHODS:
        losses = []
        for labels in (LABELS, other):
            torch.manual_seed(0)
            losses.append(build(name)(views(), of(labels))[0].item())
        assert (losses[0] != losses[1]) == (name == "supcon")


# ------------------------------------------------------------------------------------------------ in parts


def gradients(method, parts):
    """The objective and all gradients of a step whose backbone the batch passes in so many parts."""
    method.parts = parts
    method.zero_grad()
    torch.manual_seed(0)
    inputs = views()
    if method.needs.local:
        inputs += [View(view.inputs[:, :, :7, :7] + 1, LOCAL) for view in inputs]
    loss, _ = method(inputs, of(LABELS))
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", METHODS)
def test_parts_have_the_gradient_of_the_batch(name):
    method = build(name)
    for network in (method.backbone, *([method.teacher[0]] if hasattr(method, "teacher") else [])):
        network.eval()  # BatchNorm with statistics that are no batch's
    before = copy.deepcopy(method.state_dict())
    loss, whole = gradients(method, 1)
    for parts in (2, 4):
        method.load_state_dict(before)
        own_loss, own = gradients(method, parts)
        assert own_loss == pytest.approx(loss.item(), rel=1e-6)
        rounding = 5e-6 if needs_patches(name) else 1e-6  # of sums over a batch of another size
        assert (own - whole).norm() < rounding * whole.norm()


@pytest.mark.parametrize("name", ["simclr", "byol", "dino"])
def test_a_part_passes_twice_through_a_student_and_once_through_a_teacher(name):
    method = build(name)
    method.parts = 4
    seen = {}
    for who, network in {"student": method.backbone, **({"teacher": method.teacher[0]} if name != "simclr" else {})}.items():
        network.register_forward_pre_hook(lambda net, args, who=who: seen.setdefault(who, []).append(len(args[0])))
    method(views(), of(LABELS))[0].backward()
    passes, size = (8, 2) if name == "byol" else (4, 4)  # each view for itself, or both joined
    assert seen.pop("student") == [size] * 2 * passes
    assert seen == ({} if name == "simclr" else {"teacher": [size] * passes})


# ------------------------------------------------------------------------------------------------ what moves after a step


@pytest.mark.parametrize("name", ["moco", "byol", "dino", "ibot", "dinov2", "msn"])
def test_teachers_follow_slowly_and_get_no_gradient(name):
    method = build(name, momentum=0.75)
    student = [p for m in (method.backbone, method.projector) for p in m.parameters()]
    teacher = list(method.teacher.parameters())
    before = [p.clone() for p in teacher]
    with torch.no_grad():
        for p in student:
            p.add_(1.0)
    method(views(), of(LABELS))[0].backward()
    assert all(p.grad is None for p in teacher)
    method.after_step(0.0)
    for old, new, goal in zip(before, teacher, student, strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * goal)


def test_momentum_rises_to_one():
    assert [rising(0.99, t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.99, 0.995, 1.0])


def test_the_queue_keeps_the_newest_keys_and_never_this_batchs():
    method = build("moco", queue=20)
    seen, queue = [], method.queue.clone()
    for _ in range(4):
        torch.manual_seed(0)
        method(views(), of(LABELS))
        assert torch.equal(method.queue, queue)  # nothing enters before the loss is there
        method.after_step(0.0)
        queue = method.queue.clone()
        seen = [*seen, *method.keys][-20:]
    assert {tuple(k.tolist()) for k in queue} == {tuple(k.tolist()) for k in seen}
    assert method.oldest == 32 % 20


def test_nnsiam_predicts_the_neighbours_of_the_other_view():
    method = build("nnsiam", queue=20).eval()
    z1, z2 = (method.norm(method.embed(view.inputs)[1]) for view in views())
    expected = losses.simsiam(*map(method.predictor, (z1, z2)), *(losses.nearest(z, method.queue) for z in (z1, z2)))
    loss, _ = method(views(), of(LABELS))
    torch.testing.assert_close(loss, expected)
    assert torch.equal(method.keys, z1)
    assert abs(loss - losses.simsiam(*map(method.predictor, (z1, z2)), z1, z2)) > 0.01


def test_symmetric_moco_uses_both_views_as_queries():
    one, both = build("moco", queue=16), build("moco", queue=16, symmetric=True)
    a, b = views()
    expected = (one([a, b], of(LABELS))[0] + build("moco", queue=16)([b, a], of(LABELS))[0]) / 2
    loss = both([a, b], of(LABELS))[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)  # BatchNorm's running statistics differ, outputs do not
    assert len(both.keys) == 16


def test_dinos_centre_moves_towards_the_teachers_mean():
    method = build("dino", centre_momentum=0.5)
    method(views(), of(LABELS))
    mean = method.mean_scores.clone()
    method.after_step(0.0)
    torch.testing.assert_close(method.centre, mean / 2)
    assert method.centre.dtype == torch.float32


@pytest.mark.parametrize("name", ["swav", "dino", "ibot", "dinov2", "msn"])
def test_prototypes_have_length_one(name):
    method = build(name)
    steps(method, 2)
    directions = method.prototypes.directions
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))


@pytest.mark.parametrize("name", ["swav", "dino", "ibot", "dinov2"])
def test_prototypes_learn_after_their_frozen_share(name):
    method = build(name, frozen=0.5)
    learns = []
    for progress in (0.25, 0.5, 0.75):
        method.zero_grad()
        method(views(), of(LABELS))[0].backward()
        learns.append(bool(method.prototypes.directions.grad.any()))
        method.after_step(progress)
    assert learns == [False, False, True]


@pytest.mark.parametrize("masked", [0.25, 0.75])
def test_mae_hides_that_share_of_whole_squares_in_each_view(masked):
    method = build("mae", patch=5, masked=masked)
    hidden = method.hidden_pixels(views(batch=64)[0].inputs)
    assert hidden.shape == (64, 1, 12, 12)
    grid = hidden[:, 0, [0, 5, 10]][:, :, [0, 5, 10]]
    assert (grid.sum(dim=(1, 2)) == round(masked * 9)).all()
    assert torch.equal(hidden[:, :, :5, :5], hidden[:, :, :1, :1].expand(-1, -1, 5, 5))
    assert 0 < grid[:, 1, 1].mean() < 1


@pytest.mark.parametrize("masked", [0.01, 0.99])
def test_mae_always_has_something_to_see_and_something_to_rebuild(masked):
    hidden = build("mae", patch=6, masked=masked).hidden_pixels(views()[0].inputs)
    assert (hidden.mean(dim=(1, 2, 3)) == (0.25 if masked < 0.5 else 0.75)).all()


def test_mae_sees_nothing_of_what_it_hides():
    method, view = build("mae").eval(), views(1)[0].inputs
    torch.manual_seed(0)
    hidden = method.hidden_pixels(view)
    changed = view + 3 * hidden
    outputs = []
    for x in (view, changed):
        torch.manual_seed(0)
        outputs.append(method.decoder(method.embed(x * (1 - method.hidden_pixels(x)))[1]))
    assert torch.equal(*outputs)


# ------------------------------------------------------------------------------------------------ settings


def test_settings_are_checked_against_the_signature():
    assert method_settings("simclr", {}) == {"temperature": 0.2}
    assert method_settings("simclr", {"temperature": 1}) == {"temperature": 1.0}
    with pytest.raises(SparseheadError, match=r'"method.temprature".*Did you mean "method.temperature"'):
        method_settings("simclr", {"temprature": 1})
    with pytest.raises(SparseheadError, match="must be a number, given 'warm'"):
        method_settings("simclr", {"temperature": "warm"})
    with pytest.raises(SparseheadError, match="must be a whole number, given True"):
        method_settings("moco", {"queue": True})
    with pytest.raises(SparseheadError, match='unknown method "simlcr".*Did you mean "simclr"'):
        method_settings("simlcr", {})


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("simclr", {"temperature": 0.0}, "method.temperature must be above 0, given 0"),
        ("supcon", {"temperature": -1.0}, "method.temperature must be above 0"),
        ("moco", {"queue": 0}, "method.queue must be at least 1"),
        ("moco", {"momentum": 1.5}, "method.momentum must be between 0 and 1, given 1.5"),
        ("byol", {"momentum": float("nan")}, "method.momentum must be finite, given nan"),
        ("byol", {"predictor_hidden": 0}, "method.predictor_hidden must be at least 1"),
        ("barlow", {"scale": 0.0}, "method.scale must be above 0"),
        ("vicreg", {"variance": -25.0}, "method.variance must be above 0"),
        ("wmse", {"eps": 2.0}, "method.eps must be between 0 and 1"),
        ("swav", {"prototypes": 1}, "method.prototypes must be at least 2"),
        ("swav", {"iterations": 0}, "method.iterations must be at least 1"),
        ("dino", {"teacher_temperature": 0.0}, "method.teacher_temperature must be above 0"),
        ("autoencoder", {"noise": -1.0}, "method.noise must be at least 0, given -1"),
        ("autoencoder", {"noise": float("inf")}, "method.noise must be finite"),
        ("simmim", {"unit": 3}, "method.unit must be below the 3 patches of a side, given 3"),
        ("ibot", {"least": 0.6, "most": 0.5}, "method.least must not be above method.most, given 0.6 and 0.5"),
        ("mae", {"masked": 1.0}, "method.masked must be above 0 and below 1"),
        ("mae", {"patch": 12}, "method.patch must be smaller than the image, which has 12 pixels, given 12"),
    ],
)
def test_impossible_settings(name, settings, says):
    with pytest.raises(SparseheadError, match=says):
        build(name, **settings)


def test_batches_that_do_not_suit():
    with pytest.raises(SparseheadError, match=r"method.queue must hold the 8 keys of a batch, given 6.*method.queue=8"):
        build("moco", queue=6).check(PAIR, 8)
    with pytest.raises(SparseheadError, match="must hold the 16 keys"):
        build("moco", queue=8, symmetric=True).check(PAIR, 8)
    with pytest.raises(SparseheadError, match=r"whitens a batch in 6 dimensions and needs more than 6 images in it, given 6"):
        build("wmse").check(PAIR, 6)
    with pytest.raises(SparseheadError, match=r"whitens 6 dimensions at a time and needs more than 6 .*, given 6.*method.size=3"):
        build("shuffleddbn").check(PAIR, 6)
    build("shuffleddbn", size=4).check(PAIR, 6)


def test_wmse_does_not_whiten_more_dimensions_than_the_head_can_fill():
    """z is a linear function of what the last layer reads: with more dimensions the covariance is singular, and all is NaN."""

    def wide(hidden, **settings):
        backbone = make_backbone("narrow", channels=1, image_size=12, widths=(4, 8), blocks=(1, 1))
        return METHODS["wmse"](backbone, make_projector(backbone.dim, hidden, 12), **settings)

    torch.manual_seed(0)
    for hidden, read in (([], 8), ([10], 10)):
        with pytest.raises(
            SparseheadError, match=rf"cannot whiten 12 dimensions of z: .* reads {read}, .*projector_out={read} or less"
        ):
            wide(hidden).check(PAIR, 64)
        assert not wide(hidden)(views(batch=64), of(LABELS.repeat(8)))[0].isfinite()  # what it is refused for
        eased = wide(hidden, eps=0.01)
        eased.check(PAIR, 64)
        assert eased(views(batch=64), of(LABELS.repeat(8)))[0].isfinite()
    wide([12]).check(PAIR, 64)


def test_each_method_suspects_what_its_own_numbers_cannot_bear():
    assert [name for name in METHODS if build(name).suspects()] == ["wmse"]
    assert "projector_out" in build("wmse").suspects()[0]
    assert not build("wmse", eps=0.1).suspects()
    for name in ("simclr", "supcon", "moco", "swav"):
        assert build(name, temperature=1e-5).suspects() == ["method.temperature 1e-05 (too low?)"]
    assert build("dino", teacher_temperature=1e-5).suspects() == ["method.teacher_temperature 1e-05 (too low?)"]
