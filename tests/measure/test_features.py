import torch

from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.measure.features import eval_mode, extract
from tests.ssl.test_methods import build


def test_extraction_leaves_the_method_as_it_was():
    method = build("simclr").train()
    method.projector.eval()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    images = torch.randint(0, 256, (7, 1, 12, 12), dtype=torch.uint8)
    r, z = extract(method, images, Normalisation((0.5,), (0.5,)))
    assert r.shape == (7, method.backbone.dim)
    assert z.shape == (7, 6)
    assert method.training
    assert not method.projector.training
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def test_batches_do_not_matter(monkeypatch):
    method, images = build("simclr"), torch.randint(0, 256, (7, 1, 12, 12), dtype=torch.uint8)
    whole = extract(method, images, Normalisation((0.5,), (0.5,)))
    monkeypatch.setattr("sparsehead_cli.measure.features.BATCH", 3)
    for a, b in zip(whole, extract(method, images, Normalisation((0.5,), (0.5,))), strict=True):
        torch.testing.assert_close(a, b)


def test_eval_mode_restores_after_an_error():
    layer = torch.nn.BatchNorm1d(2)
    try:
        with eval_mode(layer):
            raise KeyError
    except KeyError:
        assert layer.training
