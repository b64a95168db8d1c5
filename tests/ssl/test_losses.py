import math

import torch

from sparsehead_cli.ssl.losses import nt_xent


def embeddings(batch=6, dim=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, generator=g, dtype=dtype), torch.randn(batch, dim, generator=g, dtype=dtype)


def nt_xent_word_for_word(z1, z2, temperature):
    """Algorithm 1 of the paper, anchor by anchor."""
    z = [v / v.norm() for v in torch.cat([z1, z2])]
    n, batch = len(z), len(z1)
    losses = []
    for i in range(n):
        j = (i + batch) % n
        positive = torch.exp(z[i] @ z[j] / temperature)
        everything = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(n) if k != i)
        losses.append(-torch.log(positive / everything))
    return sum(losses) / n


def test_nt_xent_is_the_papers_algorithm():
    z1, z2 = embeddings()
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent_word_for_word(z1, z2, 0.3))


def test_nt_xent_is_symmetric_and_blind_to_scale():
    z1, z2 = embeddings()
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent(z2, z1, 0.3))
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent(7 * z1, z2, 0.3))


def test_nt_xent_closed_forms():
    """All embeddings alike: log(2B - 1). Orthogonal images, identical views: the softmax of one 1 and 2B - 2 zeros."""
    same = torch.ones(4, 3)
    assert math.isclose(nt_xent(same, same, 0.2).item(), math.log(7), rel_tol=1e-6)
    eye = torch.eye(4)
    assert math.isclose(nt_xent(eye, eye, 0.5).item(), math.log(math.exp(2) + 6) - 2, rel_tol=1e-6)


def test_nt_xent_gradient():
    z1, z2 = (z.requires_grad_() for z in embeddings(batch=3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.2), (z1, z2))


def test_nt_xent_is_finite_at_the_extremes():
    for z in (torch.zeros(4, 3), torch.ones(4, 3), torch.full((4, 3), 1e18), torch.full((4, 3), 1e-30)):
        z = z.clone().requires_grad_()
        loss = nt_xent(z, z, 0.05)
        loss.backward()
        assert loss.isfinite()
        assert z.grad.isfinite().all()
