"""Every objective against its paper, word for word or in closed form; test_lightly.py compares with another library."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.generative import standardise_patches
from sparsehead_cli.ssl.losses import nt_xent


def embeddings(batch=6, dim=5, dtype=torch.float64, seed=0, count=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, dim, generator=g, dtype=dtype) for _ in range(count)]


LABELS = torch.tensor([0, 1, 0, 2, 1, 1, 0, 2])
PROTOTYPES, TEACHER_PROTOTYPES, QUEUE = (embeddings(7, 5, seed=s)[0] for s in (5, 6, 7))
DIRECTIONS = embeddings(5, 5, seed=9)[0]
ORDER = torch.tensor([3, 0, 4, 2, 1])
CENTRE = torch.linspace(-0.1, 0.1, 7, dtype=torch.float64)


def of_type(constant, z):
    return constant[:, : z.shape[1]].to(z.dtype) if constant.ndim == 2 else constant.to(z.dtype)


def swav(*views, prototypes):
    return losses.swav(*views, prototypes=prototypes, temperature=0.1, epsilon=0.05, iterations=3)


def dino(*views, prototypes=PROTOTYPES, teacher_prototypes=TEACHER_PROTOTYPES):
    constants = {"centre": of_type(CENTRE, views[0]), "student_temperature": 0.1, "teacher_temperature": 0.04}
    return losses.dino(*views, prototypes=prototypes, teacher_prototypes=teacher_prototypes, **constants)


def dino_loss(a, b):
    prototypes = [of_type(p, a) for p in (PROTOTYPES, TEACHER_PROTOTYPES)]
    return dino(a, b, b.detach(), a.detach(), prototypes=prototypes[0], teacher_prototypes=prototypes[1])[0]


def deepcluster(*views, prototypes, assigned=LABELS):
    """Of two clusterings, the second of which has its prototypes in another order."""
    both = F.normalize(torch.stack([prototypes, prototypes.roll(1, 0)]), dim=2)
    assigned = torch.stack([assigned[: len(views[0])], assigned[: len(views[0])] + 1])
    return losses.deepcluster(*views, prototypes=both, assigned=assigned, temperature=0.1)


MSN = {"student_temperature": 0.1, "teacher_temperature": 0.025, "regularisation": 1.0, "iterations": 3}

# two views -> the objective; embeddings of width 5 or less
OBJECTIVES = {
    "nt_xent": lambda a, b: losses.nt_xent(a, b, 0.2),
    "info_nce": lambda a, b: losses.info_nce(a, b, of_type(QUEUE, a), 0.2),
    "sup_con": lambda a, b: losses.sup_con(a, b, LABELS[: len(a)], 0.2),
    "byol": lambda a, b: losses.byol(a, b, a, b),
    "simsiam": lambda a, b: losses.simsiam(a, b, a, b),
    "barlow_twins": lambda a, b: losses.barlow_twins(a, b, 0.005)[0],
    "vicreg": lambda a, b: losses.vicreg(a, b, 25, 25, 1)[0],
    "w_mse": lambda a, b: losses.w_mse(a, b, 1e-3),
    "swav": lambda a, b: swav(a, b, prototypes=of_type(PROTOTYPES, a)),
    "dino": dino_loss,
    "decoupled": lambda a, b: losses.decoupled(a, b, 0.2),
    "decoupled, weighted": lambda a, b: losses.decoupled(a, b, 0.2, sigma=0.5),
    "moco_v3": lambda a, b: losses.moco_v3(a, b, a, b, 0.5),
    "nnclr": lambda a, b: losses.nnclr(a, b, *(losses.nearest(z, of_type(QUEUE, z)) for z in (a, b)), 0.2),
    "relations": lambda a, b: losses.relations(a, b, of_type(QUEUE, a), 0.1, 0.04),
    "vibcreg": lambda a, b: losses.vibcreg(a, b, 25, 25, 200)[0],
    "tico": lambda a, b: losses.tico(a, b, of_type(torch.eye(5), a)[: a.shape[1]], 0.9, 8.0)[0],
    "mmcr": lambda a, b: losses.mmcr(a, b, 0.1),
    "frossl": lambda a, b: losses.frossl(a, b, 1.0)[0],
    "lejepa": lambda a, b: losses.lejepa(a, b, directions=of_type(DIRECTIONS, a)[: a.shape[1]], regularisation=0.05)[0],
    "shuffled_dbn": lambda a, b: losses.shuffled_dbn(a, b, ORDER[: a.shape[1]].argsort(), 2, 1e-3),
    "iter_norm": lambda a, b: losses.iter_norm(a, b, 5, 1e-3),
    "deepcluster": lambda a, b: deepcluster(a, b, prototypes=of_type(PROTOTYPES, a)),
    "msn": lambda a, b: losses.msn(b, a, prototypes=of_type(PROTOTYPES, a), **MSN)[0],
}
SYMMETRIC = sorted(set(OBJECTIVES) - {"info_nce", "relations", "tico", "msn"})
WITH_STOP_GRADIENT = {
    "info_nce",
    "byol",
    "simsiam",
    "swav",
    "dino",
    "decoupled, weighted",
    "moco_v3",
    "nnclr",
    "relations",
    "tico",
    "msn",
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_views_may_be_exchanged(name):
    a, b = embeddings(8)
    torch.testing.assert_close(OBJECTIVES[name](a, b), OBJECTIVES[name](b, a))


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"vicreg", "barlow_twins", "vibcreg", "lejepa"}))
def test_scale_does_not_matter(name):
    a, b = embeddings(8)
    torch.testing.assert_close(OBJECTIVES[name](a, b), OBJECTIVES[name](7 * a, 7 * b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["nt_xent", "sup_con"])
def test_few_anchors_at_a_time_have_the_value_and_the_gradient_of_all(monkeypatch, name):
    labels = torch.arange(300) % 7

    def found(most):
        monkeypatch.setattr(losses.contrastive, "MOST_SIMILARITIES", most)
        z1, z2 = (z.requires_grad_() for z in embeddings(300, 16, torch.float32))
        loss = losses.nt_xent(z1, z2, 0.2) if name == "nt_xent" else losses.sup_con(z1, z2, labels, 0.1)
        loss.backward()
        return loss.item(), torch.cat([z1.grad, z2.grad])

    loss, gradient = found(600 * 600)
    for most in (600 * 600 - 1, 600 * 70):  # two parts, 599 anchors and the last one, and nine
        own_loss, own_gradient = found(most)
        assert own_loss == pytest.approx(loss, rel=1e-6)
        assert (own_gradient - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("name", ["nt_xent", "sup_con"])
def test_few_anchors_at_a_time_take_less_memory(monkeypatch, name):
    """No similarity is kept for the backward pass: what is kept is of the size of the embeddings."""
    monkeypatch.setattr(losses.contrastive, "MOST_SIMILARITIES", 600 * 70)
    largest, real = [], losses.contrastive.checkpoint

    def watched(of_anchors, rows, **settings):
        largest.append(rows.stop - rows.start)
        return real(of_anchors, rows, **settings)

    monkeypatch.setattr(losses.contrastive, "checkpoint", watched)
    z1, z2 = (z.requires_grad_() for z in embeddings(300, 16, torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: largest.append(x.numel() // 16) or x, lambda x: x):
        losses.nt_xent(z1, z2, 0.2) if name == "nt_xent" else losses.sup_con(z1, z2, torch.arange(300) % 7, 0.1)
    assert 70 <= max(largest) <= 600


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - WITH_STOP_GRADIENT))
def test_gradient(name):
    z1, z2 = (z.requires_grad_() for z in embeddings(8, 3))
    assert torch.autograd.gradcheck(OBJECTIVES[name], (z1, z2))


def test_gradient_beside_a_stop_gradient():
    """Where the objective holds its target fixed, so does the check."""
    p1, p2, z1, z2 = embeddings(4, 3, count=4)
    constants = [of_type(x, p1) for x in (QUEUE, PROTOTYPES, TEACHER_PROTOTYPES)]
    codes = [losses.sinkhorn(losses.prototype_scores(z, constants[1]), 0.05, 3) for z in (p1, p2)]

    def swav_with_fixed_codes(a, b):
        log_p = [F.log_softmax(losses.prototype_scores(z, constants[1]) / 0.1, dim=1) for z in (a, b)]
        return -(codes[0] * log_p[1] + codes[1] * log_p[0]).sum() / 8

    p1.requires_grad_(), p2.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: losses.info_nce(a, z1, constants[0], 0.2), (p1,))
    assert torch.autograd.gradcheck(lambda a, b: losses.byol(a, b, z1, z2), (p1, p2))
    assert torch.autograd.gradcheck(lambda a, b: losses.simsiam(a, b, z1, z2), (p1, p2))
    assert torch.autograd.gradcheck(
        lambda a, b: dino(a, b, z1, z2, prototypes=constants[1], teacher_prototypes=constants[2])[0], (p1, p2)
    )
    ours = torch.autograd.grad(swav(p1, p2, prototypes=constants[1]), (p1, p2))
    theirs = torch.autograd.grad(swav_with_fixed_codes(p1, p2), (p1, p2))
    torch.testing.assert_close(ours, theirs)


def test_targets_get_no_gradient():
    z1, z2 = (z.requires_grad_() for z in embeddings())
    p1, p2 = (p.requires_grad_() for p in embeddings(seed=1))
    for loss in (losses.byol(p1, p2, z1, z2), losses.simsiam(p1, p2, z1, z2), losses.info_nce(p1, z1, QUEUE, 0.2)):
        loss.backward()
    assert z1.grad is None
    assert z2.grad is None


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e18, 1e-30])
def test_finite_at_identical_zero_and_huge_embeddings(name, value, dtype):
    z = torch.full((8, 4), value, dtype=dtype, requires_grad=True)
    loss = OBJECTIVES[name](z, z)
    loss.backward()
    if name in ("barlow_twins", "vicreg") and (value, dtype) == (1e18, torch.float32):
        assert loss == torch.inf  # rounding of the mean is all that is left; the loop reports an infinite loss in words
        return
    assert loss.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"vicreg"}))
def test_finite_at_huge_different_embeddings(name):
    z1, z2 = (1e17 * z for z in embeddings(8, 4, torch.float32))
    z1.requires_grad_(), z2.requires_grad_()
    loss = OBJECTIVES[name](z1, z2)
    loss.backward()
    assert loss.isfinite()
    assert z1.grad.isfinite().all()


def test_vicreg_at_huge_embeddings_is_infinite_not_nan():
    """Its covariance term has the fourth power of the scale; the loop reports an infinite loss in words."""
    assert losses.vicreg(*(1e17 * z for z in embeddings(8, 4, torch.float32)), 25, 25, 1)[0] == torch.inf


# ------------------------------------------------------------------------------------------------ contrastive


def nt_xent_word_for_word(z1, z2, temperature):
    """Algorithm 1 of the paper, anchor by anchor."""
    z = [v / v.norm() for v in torch.cat([z1, z2])]
    n, batch = len(z), len(z1)
    found = []
    for i in range(n):
        j = (i + batch) % n
        positive = torch.exp(z[i] @ z[j] / temperature)
        everything = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(n) if k != i)
        found.append(-torch.log(positive / everything))
    return sum(found) / n


def test_nt_xent_is_the_papers_algorithm():
    z1, z2 = embeddings()
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent_word_for_word(z1, z2, 0.3))


def test_nt_xent_closed_forms():
    """All embeddings alike: log(2B - 1). Orthogonal images, identical views: the softmax of one 1 and 2B - 2 zeros."""
    same = torch.ones(4, 3)
    assert math.isclose(nt_xent(same, same, 0.2).item(), math.log(7), rel_tol=1e-6)
    eye = torch.eye(4)
    assert math.isclose(nt_xent(eye, eye, 0.5).item(), math.log(math.exp(2) + 6) - 2, rel_tol=1e-6)


def test_info_nce_closed_form():
    """Query and key alike and orthogonal to all K of the queue: log(e^(1/T) + K) - 1/T."""
    eye = torch.eye(5)
    loss = losses.info_nce(3 * eye[:2], eye[:2], 2 * eye[2:], 0.5)
    assert math.isclose(loss.item(), math.log(math.exp(2) + 3) - 2, rel_tol=1e-6)


def test_sup_con_is_equation_2_and_without_classmates_nt_xent():
    z1, z2 = embeddings()
    labels = LABELS[:6]
    z, both = [v / v.norm() for v in torch.cat([z1, z2])], torch.cat([labels, labels])
    total = 0
    for i in range(12):
        others = [k for k in range(12) if k != i]
        log_sum = torch.stack([z[i] @ z[k] / 0.3 for k in others]).logsumexp(0)
        classmates = [k for k in others if both[k] == both[i]]
        total += -sum(z[i] @ z[k] / 0.3 - log_sum for k in classmates) / len(classmates)
    torch.testing.assert_close(losses.sup_con(z1, z2, labels, 0.3), total / 12)
    torch.testing.assert_close(losses.sup_con(z1, z2, torch.arange(6), 0.3), nt_xent(z1, z2, 0.3))


# ------------------------------------------------------------------------------------------------ prediction


def test_byol_and_simsiam_at_known_angles():
    """Agreement 0 and -1, opposition 4 and 1, a right angle 2 and 0."""
    eye = torch.eye(3)
    for target, byol, simsiam in ((5 * eye, 0, -1), (-eye, 4, 1), (eye.roll(1, dims=0), 2, 0)):
        assert losses.byol(eye, eye, target, target).item() == pytest.approx(byol, abs=1e-6)
        assert losses.simsiam(eye, eye, target, target).item() == pytest.approx(simsiam, abs=1e-6)


def test_predictions_meet_the_other_view():
    p1, p2, z1, z2 = embeddings(count=4)
    expected = sum((F.normalize(p, dim=1) - F.normalize(z, dim=1)).square().sum(dim=1).mean() for p, z in ((p1, z2), (p2, z1)))
    torch.testing.assert_close(losses.byol(p1, p2, z1, z2), expected / 2)


# ------------------------------------------------------------------------------------------------ decorrelation


def test_barlow_twins_closed_forms():
    """Identical views with uncorrelated dimensions: 0 but for the 1e-5; constant views: E on the diagonal, nothing beside it."""
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert losses.barlow_twins(signs, signs, 0.005)[0].item() == pytest.approx(0, abs=1e-9)
    loss, terms = losses.barlow_twins(torch.ones(4, 2), torch.ones(4, 2), 0.005)
    assert (loss.item(), terms["on_diagonal"].item(), terms["off_diagonal"].item()) == (2, 2, 0)
    copies = signs[:, :1].repeat(1, 3)  # three equal dimensions: six off-diagonal ones
    assert losses.barlow_twins(copies, copies, 0.5)[0].item() == pytest.approx(3, rel=1e-4)


def test_vicreg_closed_forms():
    """All zero: 25 · (1 - √1e-4) = 24.75 (REFERENCE 3). Each term alone on embeddings made for it."""
    zero = torch.zeros(8, 4)
    assert losses.vicreg(zero, zero, 25, 25, 1)[0].item() == pytest.approx(24.75)
    signs = 2 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    terms = losses.vicreg(signs, signs + 3, 25, 25, 1)[1]
    assert {k: v.item() for k, v in terms.items()} == {"invariance": 9, "variance": 0, "covariance": 0}
    copies = signs[:, :1].repeat(1, 2)  # covariance 16/3 between its two dimensions, twice, over E = 2, in both views
    assert losses.vicreg(copies, copies, 25, 25, 1)[1]["covariance"].item() == pytest.approx(2 * (16 / 3) ** 2)


def test_whitening():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(50, 6, generator=g, dtype=torch.float64) @ torch.randn(6, 6, generator=g, dtype=torch.float64) + 3
    white = losses.whiten(z, 0.0)
    torch.testing.assert_close(white.T.cov(), torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(losses.whiten(1000 * z, 0.01), losses.whiten(z, 0.01))


def test_w_mse_does_not_see_a_triangular_map():
    """Cholesky whitening undoes a lower-triangular mixing, so equal views that were mixed differently are at distance 0."""
    z = embeddings(50, 4)[0]
    mix = torch.eye(4, dtype=torch.float64) + torch.tril(torch.ones(4, 4, dtype=torch.float64))
    assert losses.w_mse(z, z @ mix.T, 0.0).item() == pytest.approx(0, abs=1e-9)
    assert losses.w_mse(z, -z, 0.0).item() == pytest.approx(4)


def test_too_few_samples_to_whiten_give_nan():
    assert losses.w_mse(*embeddings(4, 8), 0.0).isnan()


def test_zca_whitens_and_turns_nothing():
    z = embeddings(50, 6)[0] @ embeddings(6, 6, seed=1)[0] + 3
    white = losses.zca(z, 0.0)
    torch.testing.assert_close(white.T.cov(), torch.eye(6, dtype=torch.float64))
    across = (z - z.mean(dim=0)).T @ white  # of a symmetric map
    torch.testing.assert_close(across, across.T)
    torch.testing.assert_close(losses.zca(white, 0.0), white)
    torch.testing.assert_close(losses.zca(1000 * z, 0.01), losses.zca(z, 0.01))
    assert losses.zca(embeddings(4, 8)[0], 0.0).isnan().any()  # fewer samples than dimensions
    assert losses.zca(z * torch.nan, 0.0).isnan().all()  # and no error of the eigenvalues', which says nothing of a loss


def test_the_gradient_of_an_inverse_root_needs_no_different_eigenvalues():
    """At C = I it is -1/2 of the symmetric part, where the gradient of eigenvectors is infinite."""
    weights = embeddings(4, 4)[0]
    c = torch.eye(4, dtype=torch.float64, requires_grad=True)
    losses.InverseRoot.apply(c).mul(weights).sum().backward()
    torch.testing.assert_close(c.grad, -(weights + weights.T) / 4)


def test_shuffled_dbn_sees_no_map_of_a_group_and_no_order():
    """Whitening a group undoes any scaling of its dimensions; what is mixed over groups it sees."""
    z = embeddings(50, 4)[0]
    order, scale = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    uncorrelated = losses.zca(z, 0.0)
    assert losses.shuffled_dbn(uncorrelated, uncorrelated * scale, order, 2, 0.0).item() == pytest.approx(0, abs=1e-9)
    assert losses.shuffled_dbn(z, -z, order, 2, 0.0).item() == pytest.approx(4)
    whole = losses.whitened_distance(*embeddings(50, 4), lambda z: losses.zca(z, 0.0))
    for size in (4, 100):  # one group
        assert losses.shuffled_dbn(*embeddings(50, 4), order, size, 0.0).item() == pytest.approx(whole.item())
    assert losses.shuffled_dbn(*embeddings(50, 4), order, 3, 0.0).isfinite()  # the last group is of one dimension


def test_newtons_iterations():
    """In one dimension C over its trace is 1, and P = I the answer at once; of white embeddings P is a number's iteration."""
    one = embeddings(20, 1)[0]
    expected = (one - one.mean()) / one.std()
    torch.testing.assert_close(losses.newton_whiten(one, 1, 0.0), expected)
    white, p = losses.zca(embeddings(50, 4)[0], 0.0), 1.0
    for _ in range(3):
        p = (3 * p - p**3 / 4) / 2
    torch.testing.assert_close(losses.newton_whiten(white, 3, 0.0), white * p / 2, rtol=1e-6, atol=1e-9)
    z = embeddings(50, 6)[0] @ embeddings(6, 6, seed=1)[0]
    torch.testing.assert_close(losses.newton_whiten(z, 60, 0.0), losses.zca(z, 0.0), rtol=1e-6, atol=1e-8)
    few = losses.newton_whiten(embeddings(4, 8)[0], 5, 0.0)
    assert few.isfinite().all()


def test_the_nearest_places_of_maps():
    """Of a map whose places are in another order all are found; of two the nearest, in the order of their places."""
    a = embeddings(9, 5)[0].view(1, 9, 5).repeat(2, 1, 1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    found, matched = losses.nearest_places(a, a[:, order], 9)
    torch.testing.assert_close(found, matched)
    b = torch.tensor([[[0.0], [10.0], [20.0]]])
    near, other = losses.nearest_places(b, torch.tensor([[[18.0], [1.5], [11.0]]]), 2)
    assert (near.flatten().tolist(), other.flatten().tolist()) == ([0, 10], [1.5, 11])


def test_vicreg_of_places_is_over_images_so_that_position_alone_does_not_satisfy_it():
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    a, b = (z.view(10, 4, 6) for z in embeddings(40, 6))
    loss, terms = losses.vicreg_of_places(a, b, **weights)
    by_place = [losses.vicreg(a[:, place], b[:, place], **weights) for place in range(4)]
    torch.testing.assert_close(loss, sum(found for found, _ in by_place) / 4)
    for name, term in terms.items():
        torch.testing.assert_close(term, sum(found[name] for _, found in by_place) / 4)
    positions = embeddings(4, 6)[0].expand(10, 4, 6)
    assert losses.vicreg_of_places(positions, positions, **weights)[1]["variance"].item() == pytest.approx(0.99)  # 1 - √1e-4


# ------------------------------------------------------------------------------------------------ prototypes


def test_deepcluster_word_for_word():
    views, assigned, total = embeddings(8, 5), LABELS.clone(), 0.0
    assigned[3] = -2  # of the second clustering -1: nobody knows
    for m, order in enumerate((0, 1)):
        prototypes = F.normalize(PROTOTYPES.roll(order, 0), dim=1)
        for z in views:
            for i in range(8):
                if i != 3:
                    p = (F.normalize(z, dim=1)[i] @ prototypes.T / 0.1).softmax(dim=0)
                    total -= p[assigned[i] + m].log() / (2 * 2 * 7)
    known = assigned.where(assigned >= 0, -1)
    both = F.normalize(torch.stack([PROTOTYPES, PROTOTYPES.roll(1, 0)]), dim=2)
    found = losses.deepcluster(
        *views, prototypes=both, assigned=torch.stack([known, known.where(known < 0, known + 1)]), temperature=0.1
    )
    torch.testing.assert_close(found, total)
    assert losses.deepcluster(*views, prototypes=both, assigned=torch.full((2, 8), -1), temperature=0.1) == 0


def test_spherical_kmeans_finds_directions(monkeypatch):
    basis = torch.eye(3, dtype=torch.float64)
    z = F.normalize(basis.repeat_interleave(10, 0) + 0.1 * embeddings(30, 3)[0], dim=1)
    z[4] = 0  # nobody knows it
    starts = torch.cat([z[[0, 12, 25]], -torch.ones(1, 3, dtype=torch.float64) / 3**0.5])
    prototypes, nearest = losses.spherical_kmeans(z, starts, 10)
    assert nearest.tolist() == [0] * 4 + [-1] + [0] * 5 + [1] * 10 + [2] * 10
    torch.testing.assert_close(prototypes[:3], F.normalize(torch.stack([part.sum(dim=0) for part in z.split(10)]), dim=1))
    assert torch.equal(prototypes[3], starts[3])  # near nobody
    monkeypatch.setattr(losses.prototypes, "MOST_SCORES", 4 * 7)
    in_parts, alike = losses.spherical_kmeans(z, starts, 10)
    torch.testing.assert_close(in_parts, prototypes)
    assert torch.equal(alike, nearest)


def test_sinkhorn_shares_the_batch_equally():
    scores = embeddings(12, 4)[0]
    codes = losses.sinkhorn(scores, 0.5, 200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0, dtype=torch.float64))
    assert losses.sinkhorn(1e4 * scores, 0.05, 3).isfinite().all()  # exp(2e5) would not be


def test_swav_closed_form():
    """Each image sits on a prototype of its own: codes and predictions are both that softmax."""
    eye = torch.eye(4)
    code, log_p = (eye / 0.05).softmax(dim=1), (eye / 0.1).log_softmax(dim=1)
    expected = -(code * log_p).sum(dim=1).mean()
    torch.testing.assert_close(swav(eye, eye, prototypes=3 * eye), expected)


def test_dino_word_for_word():
    z1, z2, t1, t2 = embeddings(count=4)
    w, v = PROTOTYPES, TEACHER_PROTOTYPES

    def h(t, s):
        t = ((F.normalize(t, dim=1) @ F.normalize(v, dim=1).T - CENTRE) / 0.04).softmax(dim=1)
        return -(t * (F.normalize(s, dim=1) @ F.normalize(w, dim=1).T / 0.1).log_softmax(dim=1)).sum(dim=1).mean()

    loss, mean = dino(z1, z2, t1, t2)
    torch.testing.assert_close(loss, (h(t1, z2) + h(t2, z1)) / 2)
    torch.testing.assert_close(mean, losses.prototype_scores(torch.cat([t1, t2]), v).mean(dim=0))
    local = embeddings(count=3, seed=7)
    pairs = [h(t1, z2), h(t2, z1), *(h(t, s) for s in local for t in (t1, t2))]
    torch.testing.assert_close(dino(z1, z2, t1, t2, *local)[0], sum(pairs) / 8)


def test_swav_with_local_views_word_for_word():
    """Both global views' codes are predicted by all other views, and by nobody themselves."""
    views = embeddings(count=4)
    scores = [F.normalize(z, dim=1) @ F.normalize(PROTOTYPES, dim=1).T for z in views]
    total, pairs = 0.0, 0
    for i in range(2):
        code = losses.sinkhorn(scores[i], 0.05, 3)
        for v in range(4):
            if v != i:
                total, pairs = total - (code * (scores[v] / 0.1).log_softmax(dim=1)).sum(dim=1).mean(), pairs + 1
    assert pairs == 6
    torch.testing.assert_close(swav(*views, prototypes=PROTOTYPES), total / 6)


# ------------------------------------------------------------------------------------------------ generative


def test_reconstruction_is_the_mean_over_the_chosen_pixels():
    target, weight = torch.zeros(2, 3, 2, 2), torch.tensor([[[[1.0, 0], [0, 0]]], [[[1.0, 1], [0, 0]]]])
    decoded = torch.arange(24.0).view(2, 3, 2, 2)
    expected = [(0 + 16 + 64) / 3, ((144 + 256 + 400) / 3 + (169 + 289 + 441) / 3) / 2]
    torch.testing.assert_close(losses.reconstruction(decoded, target, weight), torch.tensor(expected))


@pytest.mark.parametrize("patch", [1, 3, 4, 7])
def test_standardised_patches(patch):
    x = 5 + 3 * torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    y = standardise_patches(x, patch)
    assert y.shape == x.shape
    corner = x[1, :, :patch, :patch]
    torch.testing.assert_close(y[1, :, :patch, :patch], (corner - corner.mean()) / corner.std(), atol=1e-5, rtol=1e-5)
    assert torch.equal(standardise_patches(torch.ones(1, 1, 8, 8), 4), torch.zeros(1, 1, 8, 8))


# ------------------------------------------------------------------------------------------------ contrastive and its kin


def test_decoupled_is_nt_xent_without_its_positive():
    """In words: for each anchor the logarithm of the sum over the views of other images, less the positive's similarity."""
    a, b = (F.normalize(z, dim=1) for z in embeddings(4, 3))
    z, total = torch.cat([a, b]), 0.0
    for i in range(8):
        negatives = sum(math.exp(z[i] @ z[j] / 0.2) for j in range(8) if j % 4 != i % 4)
        total += math.log(negatives) - z[i] @ z[(i + 4) % 8] / 0.2
    assert losses.decoupled(a, b, 0.2) == pytest.approx((total / 8).item())


def test_weights_of_pairs_are_one_in_the_mean_and_larger_for_the_unlike():
    a, b = (F.normalize(z, dim=1) for z in embeddings(6, 3))
    cosine = (a * b).sum(dim=1)
    weight = 2 - (cosine / 0.5).exp() / (cosine / 0.5).exp().mean()
    assert weight.mean() == pytest.approx(1)
    assert torch.equal(weight.argsort(), cosine.argsort(descending=True))
    expected = losses.decoupled(a, b, 0.2) + ((1 - weight) * cosine).mean() / 0.2
    torch.testing.assert_close(losses.decoupled(a, b, 0.2, sigma=0.5), expected)


def test_moco_v3_in_words():
    q1, q2, k1, k2 = (F.normalize(z, dim=1) for z in embeddings(4, 3, count=4))
    total = 0.0
    for q, k in ((q1, k2), (q2, k1)):
        for i in range(4):
            total -= math.log(math.exp(q[i] @ k[i] / 0.5) / sum(math.exp(q[i] @ k[j] / 0.5) for j in range(4))) / 4
    assert losses.moco_v3(q1, q2, k1, k2, 0.5).item() == pytest.approx(2 * 0.5 * total)


def test_the_nearest_of_a_queue():
    queue = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = losses.nearest(torch.tensor([[0.1, 5.0], [1.0, 0.9], [-4.0, 1.0]]), queue)
    assert torch.equal(found, torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))


def test_nnclr_in_words():
    p1, p2, n1, n2 = (F.normalize(z, dim=1) for z in embeddings(4, 3, count=4))
    total = 0.0
    for n, p in ((n1, p2), (n2, p1)):
        for i in range(4):
            total -= math.log(math.exp(n[i] @ p[i] / 0.2) / sum(math.exp(n[i] @ p[j] / 0.2) for j in range(4))) / 8
    assert losses.nnclr(p1, p2, n1, n2, 0.2).item() == pytest.approx(total)


def test_relations_are_lowest_where_both_see_the_same():
    z = embeddings(6, 5)[0]
    same, entropy = losses.relations(z, z, QUEUE, 0.1, 0.1), 0.0
    p = (F.normalize(z, dim=1) @ F.normalize(QUEUE, dim=1).T / 0.1).softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(same, entropy)
    assert losses.relations(embeddings(6, 5, seed=3)[0], z, QUEUE, 0.1, 0.1) > same


# ------------------------------------------------------------------------------------------------ moments and distributions


def test_vibcregs_covariance_term_is_of_correlations():
    a, b = embeddings(20, 4)
    _, terms = losses.vibcreg(a, 5 * b, 25, 25, 200)
    expected = 0.0
    for z in (a, b):
        correlation = torch.corrcoef(z.T)
        expected += (correlation.square().sum() - 4) / 16
    torch.testing.assert_close(terms["covariance"], expected)


def test_msn_is_the_cross_entropy_to_sharpened_codes_and_what_the_mean_lacks_in_entropy():
    (target, first), (second, _) = embeddings(6, 3), embeddings(7, 3)
    second, prototypes = second[:6], PROTOTYPES.double()[:, :3]
    loss, terms = losses.msn(target, first, second, prototypes=prototypes, **{**MSN, "iterations": 0, "regularisation": 0.5})
    directions = F.normalize(prototypes, dim=1)
    codes, ours = [], []
    for z, temperature, found in ((target, 0.025, codes), (first, 0.1, ours), (second, 0.1, ours)):
        found += [(directions @ (row / row.norm()) / temperature).softmax(dim=0) for row in z]
    expected = sum(-(codes[i % 6] * p.log()).sum() for i, p in enumerate(ours)) / 12
    mean = sum(ours) / 12
    torch.testing.assert_close(terms["cross_entropy"], expected)
    torch.testing.assert_close(terms["missing_entropy"], math.log(len(prototypes)) + (mean * mean.log()).sum())
    assert loss == terms["cross_entropy"] + 0.5 * terms["missing_entropy"]
    even, _ = losses.msn(target, target, prototypes=torch.eye(3).double().repeat(2, 1), **{**MSN, "student_temperature": 1e9})
    assert even.item() == pytest.approx(math.log(6))  # a student that says nothing lacks no entropy


def test_tico_moves_its_second_moment_and_penalises_what_is_often_there():
    a, b = embeddings(8, 3)
    before = torch.eye(3, dtype=torch.float64)
    loss, after = losses.tico(a, b, before, 0.9, 8.0)
    z, target = F.normalize(a, dim=1), F.normalize(b, dim=1)
    torch.testing.assert_close(after, 0.9 * before + 0.1 * sum(torch.outer(x, x) for x in z) / 8)
    expected = 1 - (z * target).sum(dim=1).mean() + 8 * sum(x @ after @ x for x in z) / 8
    torch.testing.assert_close(loss, expected)


def test_mmcr_is_lowest_where_views_agree_and_images_are_orthogonal():
    basis = torch.eye(4, dtype=torch.float64)
    assert losses.mmcr(basis, basis, 0.0).item() == pytest.approx(-4)  # four centroids of length 1, all orthogonal
    assert losses.mmcr(basis, basis.roll(1, 0), 0.0) > -4
    together = basis[:1].expand(4, 4)
    assert losses.mmcr(together, together, 0.0).item() == pytest.approx(-2)  # √B, the least of any
    assert losses.mmcr(basis, basis, 0.5).item() == pytest.approx(-4 + 0.5 * 2**0.5)  # two equal views: one singular value √2


def test_frossl_is_lowest_for_a_flat_spectrum():
    flat = torch.linalg.qr(embeddings(8, 4)[0]).Q
    loss, terms = losses.frossl(flat, flat, 1.0)
    assert loss.item() == pytest.approx(2 * math.log(1 / 4))  # Σ λ² of four eigenvalues of 1/4, twice
    assert terms["invariance"] == 0
    narrow = flat.clone()
    narrow[:, 1:] = flat[:, :1]
    assert losses.frossl(narrow, narrow, 1.0)[0].item() == pytest.approx(0, abs=1e-9)


def test_sigreg_knows_a_standard_normal_sample_from_others():
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = embeddings(3, 16, seed=1)[0]
    normal = losses.sigreg(z, directions)
    assert normal < 1.5  # of B · ∫ of a mean squared error of 1 / B
    assert losses.sigreg(2 * z, directions) > 100 * normal
    assert losses.sigreg(z + 1, directions) > 100 * normal
    assert losses.sigreg(torch.zeros_like(z), directions) > 100 * normal
    torch.testing.assert_close(losses.sigreg(z, 3 * directions), normal)


def test_sigreg_of_a_point_is_the_integral():
    """All embeddings at 0: φ = 1, and ∫ (1 - exp(-t²/2))² exp(-t²/2) dt = √2π · (1 - 2/√2 + 1/√3)."""
    integral = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    found = losses.sigreg(torch.zeros(10, 2, dtype=torch.float64), embeddings(2, 4)[0], furthest=8.0, knots=401)
    assert found.item() == pytest.approx(10 * integral, rel=1e-6)
