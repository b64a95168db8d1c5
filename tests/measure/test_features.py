import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.data.datasets import Split
from sparsehead_cli.measure.features import Encoder, Features, Pixels, Prepare, cached, eval_mode, extract, resize, with_channels
from tests.ssl.test_methods import build

PREPARE = Prepare((1, 12, 12), Normalisation((0.5,), (0.5,)))


def encoder():
    method = build("simclr")
    return Encoder(method.backbone, method.projector)


def images(n=7, channels=1, side=12):
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(0))
    return Split(pixels.to(torch.uint8), torch.arange(n) % 3)


def test_extraction_leaves_the_network_as_it_was():
    network = encoder().train()
    network.projector.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    features = extract(network, images(), PREPARE)
    assert (features["r"].shape, features["z"].shape) == ((7, network.backbone.dim), (7, 6))
    assert features.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert network.training
    assert not network.projector.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_batches_do_not_matter(monkeypatch):
    network = encoder()
    whole = extract(network, images(), PREPARE)
    monkeypatch.setattr("sparsehead_cli.measure.features.BATCH", 3)
    parts = extract(network, images(), PREPARE)
    for name in ("r", "z"):
        torch.testing.assert_close(whole[name], parts[name])


def test_eval_mode_restores_after_an_error():
    layer = torch.nn.BatchNorm1d(2)
    with pytest.raises(KeyError), eval_mode(layer):
        raise KeyError
    assert layer.training


def test_kept_features_are_read_and_damaged_ones_made_anew(tmp_path):
    path, made = tmp_path / "features" / "x.pt", []

    def make():
        made.append(1)
        return Features({"r": torch.rand(3, 2)}, torch.arange(3), skipped=2)

    first = cached(path, make, torch.device("cpu"))
    again = cached(path, make, torch.device("cpu"))
    assert torch.equal(first["r"], again["r"])
    assert (again.labels.tolist(), again.skipped, len(made)) == ([0, 1, 2], 2, 1)
    path.write_bytes(path.read_bytes()[:200])
    cached(path, make, torch.device("cpu"))
    assert len(made) == 2
    assert not list(path.parent.glob("*.part"))


def test_of_several_that_want_the_same_features_one_makes_them(tmp_path):
    made = []

    def make():
        made.append(1)
        time.sleep(0.1)
        return Features({"r": torch.ones(3, 2)}, torch.arange(3))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached(tmp_path / "features" / "x.pt", make, torch.device("cpu")), range(4)))
    assert len(made) == 1
    assert all(torch.equal(features["r"], torch.ones(3, 2)) for features in found)


@pytest.mark.parametrize("size", [8, 12, 30])
def test_resizing_is_torchvisions(size):
    x = images(channels=3, side=16).images.float() / 255
    theirs = torchvision_resize(x, [size, size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    torch.testing.assert_close(resize(x, (size, size)), theirs, atol=2e-5, rtol=0)


def test_an_image_that_fits_is_only_normalised():
    x = images().images
    torch.testing.assert_close(PREPARE(x), (x / 255 - 0.5) / 0.5)
    assert PREPARE(x).is_contiguous(memory_format=torch.channels_last)


def test_channels_are_adapted_both_ways():
    grey = images().images
    assert torch.equal(with_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert torch.equal(with_channels(with_channels(grey, 3), 1), grey)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None]
    assert with_channels(red, 1).item() == 76  # 0.299 · 255
    assert Prepare((3, 20, 20), Normalisation((0.5,) * 3, (0.5,) * 3))(grey).shape == (7, 3, 20, 20)


def test_pixels_are_the_images_and_large_ones_their_averages():
    plain = Prepare(None, Normalisation((0.0,), (1.0,)))
    small, large = images(), images(side=64)
    torch.testing.assert_close(extract(Pixels(), small, plain)["pixels"], small.images.flatten(1) / 255)
    assert extract(Pixels(), large, plain)["pixels"].shape == (7, 32 * 32)
