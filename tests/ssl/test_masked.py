"""Methods that hide patches: objectives against loops word for word, and who sees what."""

import pytest
import torch
import torch.nn.functional as F

from sparsehead_cli import SparseHead
from sparsehead_cli.data.contract import LOCAL, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.nets.vit import make_vit, squares
from sparsehead_cli.ssl import losses, masked, masked_prototypes, masks
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.ssl.regularisers import koleo
from tests.ssl.test_methods import LABELS, build, of, views

MASKED = ("simmim", "ijepa", "ibot", "dinov2", "msn")
TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.05}


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


# ------------------------------------------------------------------------------------------------ objectives


def test_simmim_is_the_mean_distance_of_hidden_pixels():
    decoded, pixels, hidden = some(3, 5, 4), some(3, 5, 4, seed=1), some_mask(3, 5, seed=5)
    expected = [
        sum((decoded[b, t] - pixels[b, t]).abs().mean() for t in range(5) if hidden[b, t]) / hidden[b].sum() for b in range(3)
    ]
    torch.testing.assert_close(masked.simmim(decoded, pixels, hidden), torch.stack(expected))
    assert torch.autograd.gradcheck(lambda d: masked.simmim(d, pixels, hidden), some(3, 5, 4).requires_grad_())


def test_ijepa_is_the_squared_distance_to_standardised_tokens():
    predicted, teacher, targets = some(2, 3, 5, 4), some(2, 5, 4, seed=1), some_mask(2, 3, 5)
    targets[..., 0] = True  # no target is empty
    expected = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for m in range(3):
            places = [t for t in range(5) if targets[b, m, t]]
            for t in places:
                goal = (teacher[b, t] - teacher[b, t].mean()) / (teacher[b, t].var(correction=0) + 1e-5).sqrt()
                expected[b] += ((predicted[b, m, t] - goal) ** 2).mean() / len(places) / 3
    torch.testing.assert_close(masked.ijepa(predicted, teacher, targets), expected)
    assert torch.autograd.gradcheck(lambda p: masked.ijepa(p, teacher, targets), some(2, 3, 5, 4).requires_grad_())
    taught = teacher.clone().requires_grad_()
    assert not masked.ijepa(predicted.requires_grad_(), taught, targets).sum().backward()
    assert taught.grad is None


def prototypes():
    return {"prototypes": some(7, 4, seed=2), "teacher_prototypes": some(7, 4, seed=3)}


def test_ibot_is_the_cross_entropy_of_hidden_patches():
    z, t, hidden, centre = some(3, 5, 4), some(3, 5, 4, seed=1), some_mask(3, 5, seed=5), some(7, seed=4) / 10
    hidden[1] = False
    of = prototypes()
    expected, scores = 0, []
    for v in (0, 2):
        places = [p for p in range(5) if hidden[v, p]]
        for p in places:
            s = F.normalize(of["teacher_prototypes"], dim=1) @ F.normalize(t[v, p], dim=0)
            student = (F.normalize(of["prototypes"], dim=1) @ F.normalize(z[v, p], dim=0) / 0.1).softmax(dim=0)
            expected -= (((s - centre) / 0.05).softmax(dim=0) * student.log()).sum() / len(places) / 3
            scores.append(s)
    loss, mean = masked_prototypes.ibot(z, t, hidden.double(), **of, centre=centre, **TEMPERATURES)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(mean, torch.stack(scores).mean(dim=0))
    nothing, _ = masked_prototypes.ibot(z, t, torch.zeros(3, 5), **of, centre=centre, **TEMPERATURES)
    assert nothing == 0


def test_sinkhorns_centre_makes_swavs_codes():
    scores = some(40, 7)
    centre = masked_prototypes.sinkhorn_centre(scores, torch.ones(40), 0.3, 3)
    torch.testing.assert_close(((scores - centre) / 0.3).softmax(dim=1), losses.sinkhorn(scores, 0.3, 3))
    many = masked_prototypes.sinkhorn_centre(scores, torch.ones(40), 0.3, 200)
    torch.testing.assert_close(((scores - many) / 0.3).softmax(dim=1).sum(dim=0), torch.full((7,), 40 / 7).double())


def test_rows_that_do_not_count_do_not_move_the_centre():
    scores, counts = some(40, 7), some_mask(40)
    centre = masked_prototypes.sinkhorn_centre(scores, counts.double(), 0.05, 3)
    torch.testing.assert_close(centre, masked_prototypes.sinkhorn_centre(scores[counts], torch.ones(int(counts.sum())), 0.05, 3))
    assert masked_prototypes.sinkhorn_centre(scores, torch.zeros(40), 0.05, 3).isfinite().all()


def test_dinov2s_terms_are_dinos_and_ibots_with_sinkhorns_codes():
    z1, z2, t1, t2, local = (some(6, 4, seed=s) for s in range(5))
    of, constants = prototypes(), {**TEMPERATURES, "iterations": 3}
    codes = losses.sinkhorn(losses.prototype_scores(torch.cat([t1, t2]), of["teacher_prototypes"]), 0.05, 3)
    log_p = [(losses.prototype_scores(z, of["prototypes"]) / 0.1).log_softmax(dim=1) for z in (z1, z2, local)]
    pairs = [(0, 1), (1, 0), (0, 2), (1, 2)]  # of a teacher's view and a student's
    expected = -sum((codes.chunk(2)[i] * log_p[v]).sum(dim=1).mean() for i, v in pairs) / 4
    torch.testing.assert_close(masked_prototypes.dino_by_sinkhorn(z1, z2, t1, t2, local, **of, **constants), expected)
    z, t, hidden = some(3, 5, 4), some(3, 5, 4, seed=1), some_mask(3, 5, seed=5)
    codes = losses.sinkhorn(losses.prototype_scores(t[hidden], of["teacher_prototypes"]), 0.05, 3)
    log_p = (losses.prototype_scores(z[hidden], of["prototypes"]) / 0.1).log_softmax(dim=1)
    weight = (hidden / hidden.sum(dim=1, keepdim=True))[hidden]
    expected = -(weight * (codes * log_p).sum(dim=1)).sum() / 3
    ours = masked_prototypes.ibot_by_sinkhorn(z, t, hidden.double(), **of, **constants)
    torch.testing.assert_close(ours, expected)
    inputs = [some(3, 5, 4).requires_grad_()]
    assert torch.autograd.gradcheck(lambda z: masked_prototypes.ibot_by_sinkhorn(z, t, hidden.double(), **of, **constants), inputs)


# ------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize("name", MASKED)
def test_a_network_without_patches_is_refused(name):
    backbone = make_backbone("narrow", channels=1, image_size=12, widths=(8, 8), blocks=(1, 1))
    with pytest.raises(
        SparseheadError, match=f"{name} hides patches of a vision transformer, and this backbone has none. Choose another --method"
    ):
        METHODS[name](backbone, make_projector(8, [8], 6))


@pytest.mark.parametrize("name", MASKED)
def test_an_image_of_one_patch_has_nothing_to_hide_a_part_of(name):
    backbone = make_vit("vit-mini", channels=1, image_size=7, pooling="mean", widths=(8,), blocks=(1,))
    with pytest.raises(SparseheadError, match="one of 7 pixels is a single patch. Choose a larger --set image_size"):
        METHODS[name](backbone, make_projector(8, [8], 6))


def test_a_predictor_has_the_encoders_heads():
    backbone = build("ijepa").backbone
    backbone.heads = 4
    with pytest.raises(SparseheadError, match="predictor_width must be a multiple of the encoder's 4 heads, given 6"):
        METHODS["ijepa"](backbone, make_projector(8, [8], 6), predictor_width=6)


def watched(module):
    """What a module is given and what it returns, call by call."""
    seen = []
    module.register_forward_hook(lambda module, given, returned: seen.append((given, returned)))
    return seen


def elsewhere(x, mask, patch):
    """Images that differ from x where the mask [B, R, C] is set."""
    return x + 3 * mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None].to(x.dtype)


def test_simmims_decoder_sees_nothing_of_what_is_hidden_and_rebuilds_that():
    method, (view,) = build("simmim").eval(), views(1)
    seen = watched(method.decoder)
    torch.manual_seed(0)
    loss, _ = method([view], of(LABELS))
    torch.manual_seed(0)
    hidden = masks.in_units(8, 3, 3, method.masked, method.unit, torch.device("cpu"))
    torch.manual_seed(0)
    changed, _ = method([View(elsewhere(view.inputs, hidden, 4))], of(LABELS))
    (_, first), (_, second) = seen
    assert torch.equal(first, second)
    assert changed != loss
    expected = (first - squares(view.inputs, 4).flatten(1, 2)).abs().mean(dim=2)[hidden.flatten(1)].mean()  # as many in each image
    torch.testing.assert_close(loss, expected)


def test_ijepas_student_sees_the_context_alone_and_its_teacher_all():
    method, (view,) = build("ijepa").eval(), views(1)
    seen, taught = watched(method.predictor), watched(method.teacher[0])
    torch.manual_seed(0)
    method([view], of(LABELS))
    torch.manual_seed(0)
    targets, context = masks.multi_block(8, 3, 3, method.blocks, torch.device("cpu"))
    torch.manual_seed(0)
    method([View(elsewhere(view.inputs, ~context, 4))], of(LABELS))
    (_, first), (_, second) = seen
    assert torch.equal(first[targets.flatten(2)], second[targets.flatten(2)])
    assert set(taught[0][0][0]) == {"patches"}
    assert not torch.equal(taught[0][1], taught[1][1])


def test_ijepas_teacher_follows_along_a_line():
    method = build("ijepa", momentum=0.8)
    before = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1.0)
    method.after_step(0.5)
    for old, new, goal in zip(before, method.teacher.parameters(), method.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * goal)


@pytest.mark.parametrize("name", ["ibot", "dinov2"])
def test_hidden_patches_are_shown_to_the_teacher_alone(name):
    method, pair = build(name, hiding=1.0).eval(), views()
    torch.manual_seed(0)
    first = method.see(pair)
    torch.manual_seed(0)
    hidden = [masks.blockwise(8, 3, 3, 1.0, method.shares, torch.device("cpu")) for _ in pair]
    torch.manual_seed(0)
    second = method.see([View(elsewhere(view.inputs, mask, 4)) for view, mask in zip(pair, hidden, strict=True)])
    for a, b in ((first.r, second.r), (first.z, second.z), (first.patches, second.patches)):
        assert torch.equal(a, b)
    assert not torch.equal(first.teacher, second.teacher)
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.hidden.sum(dim=1), torch.cat(hidden).sum(dim=(1, 2)))
    assert first.hidden.any(dim=1).all()


@pytest.mark.parametrize("name", ["ibot", "dinov2"])
def test_the_loss_is_the_sum_of_its_terms(name):
    method, local = build(name), [View(view.inputs[:, :, :7, :7] + 1, LOCAL) for view in views(2)]
    for given in (views(), [*views(), *local]):
        torch.manual_seed(0)
        loss, terms = method(given, of(LABELS))
        added = 0.1 * terms["koleo"] if name == "dinov2" else 0
        torch.testing.assert_close(loss, terms["of_classes"] + terms["of_patches"] + added)
        assert all(term != 0 for term in terms.values())


def test_msns_student_does_not_read_what_is_hidden_and_its_teacher_sees_the_other_view():
    """The target is of the second view, the anchors are of the first and of small crops."""
    method, pair, local = build("msn", masked=0.5).eval(), views(), View(views(1)[0].inputs[:, :, :7, :7] + 1, LOCAL)
    torch.manual_seed(0)
    hidden = masks.at_random(8, 3, 3, 0.5, torch.device("cpu"))
    seen = elsewhere(pair[0].inputs, hidden, 4)
    assert not torch.equal(seen, pair[0].inputs)
    found = []
    for first in (pair[0].inputs, seen):
        torch.manual_seed(0)
        found.append(method([View(first), pair[1], local], of(LABELS)))
    assert torch.equal(found[0][0], found[1][0])
    torch.manual_seed(0)
    tokens = method.backbone({"patches": method.backbone.patches(seen), "visible": ~hidden})
    anchors = [method.projector(method.backbone.pool(tokens, ~hidden)), method.projector(method.backbone(local.inputs))]
    target = method.teacher(pair[1].inputs)
    expected = losses.msn(target, *anchors, prototypes=method.prototypes(), **method.temperatures, **method.numbers)
    torch.testing.assert_close(found[0], expected)


def test_dinov2_spreads_the_class_tokens_of_each_view_by_itself():
    method, pair = build("dinov2", hiding=0.0), views()
    _, terms = method(pair, of(LABELS))
    torch.testing.assert_close(terms["koleo"], sum(koleo(method.backbone(view.inputs)) for view in pair), rtol=1e-4, atol=1e-5)
    assert terms["of_patches"] == 0


def test_ibots_centres_move_towards_the_means_of_classes_and_of_patches():
    method = build("ibot", centre_momentum=0.5)
    torch.manual_seed(0)
    method(views(), of(LABELS))
    means = method.mean_scores.clone()
    method.after_step(0.0)
    torch.testing.assert_close(method.centres, means / 2)
    assert not torch.equal(*means)


def test_dinov2s_patches_have_a_head_of_their_own_and_ibots_share_one():
    torch.manual_seed(0)
    shared, apart = build("ibot"), build("dinov2")
    counts = []
    for method in (shared, apart):
        sparse = SparseHead(method.projector, 1e-3)
        counts.append(len(sparse.layers))
        seen = watched(method.projector)
        method(views(), of(LABELS))
        counts.append([len(given[0]) for given, _ in seen])
    assert counts[0] == counts[2]
    assert counts[1] == [16, 16 * round(0.5 * 9)]
    assert counts[3] == [16]
