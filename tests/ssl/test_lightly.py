"""Objective values and gradients against lightly's, in float32, wherever lightly has the objective."""

import pytest
import torch

from sparsehead_cli.ssl import losses, masked_prototypes, regularisers

pytest.importorskip("lightly", reason="pip install -e '.[peers]'")
from lightly.loss import (
    BarlowTwinsLoss,
    DCLLoss,
    DCLWLoss,
    DINOLoss,
    IBOTPatchLoss,
    KoLeoLoss,
    MMCRLoss,
    MSNLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    TiCoLoss,
    VICRegLLoss,
    VICRegLoss,
    WMSELoss,
)

BATCH, DIM = 32, 12


def tensors(count, shape=(BATCH, DIM), seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for _ in range(count)]


def agree(ours, theirs, inputs):
    """Values within 1e-6 of their size, gradients of theirs."""
    found = []
    for loss in (ours, theirs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = loss(*leaves)
        found.append((value.detach(), torch.autograd.grad(value, leaves)))
    (value, gradients), (their_value, their_gradients) = found
    torch.testing.assert_close(value, their_value, rtol=1e-6, atol=1e-6)
    for a, b in zip(gradients, their_gradients, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-9, f"gradients differ by {((a - b).norm() / b.norm()).item():.1e}"


def test_simclr():
    theirs = NTXentLoss(temperature=0.2)
    agree(lambda a, b: losses.nt_xent(a, b, 0.2), theirs, tensors(2))


def test_moco():
    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(64, DIM))
    theirs(*tensors(2))  # makes the bank
    bank = theirs.memory_bank.bank.clone()
    keys = tensors(1, seed=1)[0]
    queue = bank.T if bank.shape[0] == DIM else bank
    agree(lambda q: losses.info_nce(q, keys, queue, 0.2), lambda q: theirs(q, keys), tensors(1, seed=2))


def test_byol_and_simsiam():
    z1, z2 = tensors(2, seed=3)
    cosine = NegativeCosineSimilarity()

    def symmetric(p1, p2):
        return (cosine(p1, z2) + cosine(p2, z1)) / 2

    agree(lambda p1, p2: losses.simsiam(p1, p2, z1, z2), symmetric, tensors(2))
    agree(lambda p1, p2: losses.byol(p1, p2, z1, z2), lambda p1, p2: 2 + 2 * symmetric(p1, p2), tensors(2))


def test_barlow_twins():
    agree(lambda a, b: losses.barlow_twins(a, b, 0.005)[0], BarlowTwinsLoss(lambda_param=0.005), tensors(2))


def test_vicreg():
    agree(lambda a, b: losses.vicreg(a, b, 25, 25, 1)[0], VICRegLoss(), tensors(2))


def test_w_mse():
    theirs = WMSELoss(embedding_dim=DIM, w_size=BATCH, num_samples=2)
    agree(lambda a, b: losses.w_mse(a, b, 0.0), lambda a, b: theirs(torch.cat([a, b])), tensors(2))


def test_swav():
    prototypes = tensors(1, (9, DIM), seed=4)[0]
    loss = SwaVLoss()

    def theirs(a, b):
        scores = [losses.prototype_scores(z, prototypes) for z in (a, b, *local)]
        return loss(scores[:2], scores[2:]).squeeze()

    constants = {"prototypes": prototypes, "temperature": 0.1, "epsilon": 0.05, "iterations": 3}
    for local in ((), tensors(3, seed=8)):
        agree(lambda a, b, local=local: losses.swav(a, b, *local, **constants), theirs, tensors(2))


def test_dino():
    (prototypes, teacher_prototypes), (t1, t2) = tensors(2, (9, DIM), seed=5), tensors(2, seed=6)
    loss = DINOLoss(output_dim=9, warmup_teacher_temp_epochs=1)
    centre = torch.linspace(-0.2, 0.2, 9)

    def theirs(a, b):
        loss.center.copy_(centre)
        teacher = [losses.prototype_scores(t, teacher_prototypes) for t in (t1, t2)]
        return loss(teacher, [losses.prototype_scores(z, prototypes) for z in (a, b, *local)])

    constants = {"prototypes": prototypes, "teacher_prototypes": teacher_prototypes, "centre": centre}
    constants |= {"student_temperature": 0.1, "teacher_temperature": 0.04}
    for local in ((), tensors(3, seed=8)):
        agree(lambda a, b, local=local: losses.dino(a, b, t1, t2, *local, **constants)[0], theirs, tensors(2))


def test_ibot():
    """Theirs has the hidden patches alone, and each view has one: without any it divides by one, as ours does."""
    (prototypes, teacher_prototypes), centre = tensors(2, (9, DIM), seed=5), torch.linspace(-0.2, 0.2, 9)
    hidden = torch.rand(6, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    hidden[2] = False
    (t,) = tensors(1, (6, 20, DIM), seed=6)
    loss = IBOTPatchLoss(output_dim=9, teacher_temp=0.04, student_temp=0.1)
    constants = {"prototypes": prototypes, "teacher_prototypes": teacher_prototypes, "centre": centre}
    constants |= {"student_temperature": 0.1, "teacher_temperature": 0.04}

    def ours(z):
        return masked_prototypes.ibot(z, t, hidden.flatten(1).float(), **constants)[0]

    def theirs(z):
        loss.center.value.copy_(centre)
        scores = (losses.prototype_scores(x[hidden.flatten(1)], of) for x, of in ((t, teacher_prototypes), (z, prototypes)))
        return loss(*scores, hidden)

    agree(ours, theirs, tensors(1, (6, 20, DIM), seed=7))


@pytest.mark.parametrize("iterations", [0, 3])
def test_msn(iterations):
    prototypes, target, *local = tensors(1, (9, DIM), seed=5) + tensors(3, seed=6)
    constants = {"student_temperature": 0.1, "teacher_temperature": 0.025, "regularisation": 1.5, "iterations": iterations}
    loss = MSNLoss(temperature=0.1, sinkhorn_iterations=iterations, regularization_weight=1.5)

    def ours(a, p):
        return losses.msn(target, a, *local, prototypes=p, **constants)[0]

    agree(ours, lambda a, p: loss(torch.cat([a, *local]), target, p, target_sharpen_temperature=0.25), [*tensors(1), prototypes])


def test_koleo():
    agree(regularisers.koleo, KoLeoLoss(), tensors(1))


def test_dcl_and_dclw():
    """Theirs takes embeddings as they come, and ours normalises them."""

    def normalised(loss):
        return lambda a, b: loss(torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1))

    agree(lambda a, b: losses.decoupled(a, b, 0.1), normalised(DCLLoss(temperature=0.1)), tensors(2))
    agree(lambda a, b: losses.decoupled(a, b, 0.1, sigma=0.5), normalised(DCLWLoss(temperature=0.1, sigma=0.5)), tensors(2))


def test_tico():
    z2, before = tensors(1, seed=3)[0], torch.eye(DIM) / DIM

    def theirs(a):
        loss = TiCoLoss(beta=0.9, rho=8.0)
        loss.C = before
        return loss(a, z2)

    agree(lambda a: losses.tico(a, z2, before, 0.9, 8.0)[0], theirs, tensors(1))


def test_mmcr():
    """Theirs has other views of a teacher beside them; here each image has one view of either."""

    def theirs(a, b):
        a, b = (torch.nn.functional.normalize(z, dim=1)[:, None] for z in (a, b))
        return MMCRLoss(lmda=0.05)(a, b)

    agree(lambda a, b: losses.mmcr(a, b, 0.05), theirs, tensors(2))


def test_frossl():
    frossl = pytest.importorskip("lightly.loss.frossl_loss", reason="a lightly with FroSSL")
    agree(lambda a, b: losses.frossl(a, b, 1.0)[0], lambda a, b: frossl.FroSSLLoss(1.0)([a, b]), tensors(2))


def test_lejepa(monkeypatch):
    lejepa = pytest.importorskip("lightly.loss.lejepa_loss", reason="a lightly with LeJEPA")
    directions = torch.nn.functional.normalize(tensors(1, (DIM, 20), seed=4)[0], dim=0)
    theirs = lejepa.SIGReg(knots=9, t_max=5.0, num_vectors=20)  # half of our places: it counts the others double
    monkeypatch.setattr(theirs, "_generate_unit_vectors", lambda *_, **__: directions)
    agree(lambda a: losses.sigreg(a, directions), theirs, tensors(1))
    whole = lejepa.LeJEPALoss(lambda_param=0.05)
    whole.sigreg = theirs
    local = tensors(3, seed=8)
    agree(
        lambda a, b: losses.lejepa(a, b, *local, directions=directions, regularisation=0.05)[0],
        lambda a, b: whole(local_proj=torch.stack(local), global_proj=torch.stack([a, b])),
        tensors(2),
    )


def test_nearest_places():
    nearest_neighbors = pytest.importorskip("lightly.models.utils").nearest_neighbors
    a, b = tensors(2, (4, 9, DIM))
    ours, theirs = (
        torch.cat(pairs, dim=2) for pairs in (losses.nearest_places(a, b, 5), nearest_neighbors(a, b, torch.cdist(a, b), 5))
    )
    for mine, other in zip(ours, theirs, strict=True):  # theirs are in the order of their distances
        torch.testing.assert_close(mine, other[[int((other == row).all(dim=1).nonzero()) for row in mine]])


def test_vicregl():
    """Theirs halves the covariance of places and of whole images, as `VICRegL` does."""
    theirs = VICRegLLoss().vicreg_loss
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 0.5}
    agree(lambda a, b: losses.vicreg_of_places(a, b, **weights)[0], theirs, tensors(2, (6, 5, DIM)))
    grid = [torch.zeros(6, 1, 1, 2)] * 2
    whole = lambda a, b: VICRegLLoss(alpha=1.0)([(z, z[:, None, None]) for z in (a, b)], grid)[0]  # noqa: E731
    agree(lambda a, b: losses.vicreg(a, b, **weights)[0], whole, tensors(2))
