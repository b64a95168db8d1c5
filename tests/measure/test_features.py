import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from sparsehead_cli.data.contract import Normalisation
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.prepare import Prepare, resize, with_channels
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.measure.features import EncoderAndHead, Features, Pixels, cached, eval_mode, extract, widths_of
from tests.damage import DAMAGES, every_nth, flip_bit
from tests.ssl.test_methods import build

PREPARE = Prepare((1, 12, 12), Normalisation((0.5,), (0.5,)))


def encoder():
    method = build("simclr")
    return EncoderAndHead(method.backbone, method.projector)


def images(n=7, channels=1, side=12):
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(0))
    return Memory(pixels.to(torch.uint8), torch.arange(n) % 3)


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


LABELS = torch.tensor([0, 1, 1, 2])


class Kept:
    """A file of kept features; `read()` reads it or makes it anew, and says what was told and how often it was made."""

    def __init__(self, path, skipped=0):
        self.path, self.made, self.told = path, 0, []
        self.features = Features({"r": torch.rand(4 - skipped, 2)}, LABELS[skipped:], skipped=skipped)

    def make(self):
        self.made += 1
        return self.features

    def read(self):
        self.told.clear()
        return cached(self.path, self.make, torch.device("cpu"), labels=LABELS, widths={"r": 2}, on_damage=self.told.append)

    def write(self, **changes):
        torch.save({**vars(self.features), **changes}, self.path)


@pytest.fixture
def kept_features(tmp_path):
    found = Kept(tmp_path / "features" / "x.pt")
    found.read()
    return found


@pytest.mark.parametrize("skipped", [0, 1])
def test_kept_features_are_read_and_nothing_is_said(tmp_path, skipped):
    file = Kept(tmp_path / "features" / "x.pt", skipped)
    first, again = file.read(), file.read()
    assert torch.equal(first["r"], again["r"])
    assert (again.labels.tolist(), again.skipped) == (LABELS[skipped:].tolist(), skipped)
    assert (file.made, file.told) == (1, [])
    assert not list(file.path.parent.glob("*.part"))


def test_every_flipped_bit_of_kept_features_is_noticed_or_harmless(kept_features):
    whole = kept_features.path.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        kept_features.path.write_bytes(flip_bit(whole, bit))
        made = kept_features.made
        assert torch.equal(kept_features.read()["r"], kept_features.features["r"])
        assert (kept_features.made > made) == bool(kept_features.told)  # made anew if and only if it is said
    assert kept_features.made > 10


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_made_anew_and_it_is_said(kept_features, damage):
    whole = kept_features.path.read_bytes()
    kept_features.path.write_bytes(DAMAGES[damage](every_nth(whole, 97), 1))
    assert torch.equal(kept_features.read()["r"], kept_features.features["r"])
    assert kept_features.made == 2
    assert len(kept_features.told) == 1
    assert f"{kept_features.path} are damaged" in kept_features.told[0]
    assert "made anew" in kept_features.told[0]
    kept_features.read()
    assert kept_features.told == []


WRONG = {
    "another's rows": ({"by_name": {"r": torch.rand(3, 2)}}, "another shape"),
    "another's width": ({"by_name": {"r": torch.rand(4, 3)}}, "another shape"),
    "another type": ({"by_name": {"r": torch.rand(4, 2).double()}}, "another shape or type"),
    "NaN": ({"by_name": {"r": torch.full((4, 2), float("nan"))}}, "NaN"),
    "more features": ({"by_name": {"r": torch.rand(4, 2), "z": torch.rand(4, 2)}}, "other features"),
    "other labels": ({"labels": LABELS.flip(0)}, "labels"),
    "fewer labels": ({"labels": LABELS[1:], "by_name": {"r": torch.rand(3, 2)}}, "labels"),
    "labels of another type": ({"labels": LABELS.int()}, "labels"),
    "more skipped than there are": ({"skipped": 9}, "counts"),
    "a flag for a count": ({"skipped": True}, "counts"),
    "something else": ({"by_name": 3}, "something else"),
    "an unknown field": ({"more": 3}, "something else"),
    "one number shown as many": ({"by_name": {"r": torch.rand(1, 1).expand(4, 2)}}, "more numbers than it holds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_features_that_are_whole_but_of_something_else_are_not_believed(kept_features, name):
    changes, reason = WRONG[name]
    kept_features.write(**changes)
    assert torch.equal(kept_features.read()["r"], kept_features.features["r"])
    assert reason in kept_features.told[0]


def test_features_of_another_network_under_this_name_are_not_believed(kept_features, tmp_path):
    other = Kept(tmp_path / "features" / "y.pt")
    other.read()
    other.path.replace(kept_features.path)
    assert torch.equal(kept_features.read()["r"], kept_features.features["r"])
    assert "another file's" in kept_features.told[0]


def test_features_without_checksums_or_in_a_pipe_are_not_believed(kept_features):
    torch.serialization.set_crc32_options(False)
    try:
        kept_features.write()
    finally:
        torch.serialization.set_crc32_options(True)
    kept_features.read()
    assert "CRC" in kept_features.told[0]
    kept_features.path.unlink()
    os.mkfifo(kept_features.path)
    kept_features.read()
    assert "a pipe" in kept_features.told[0]


def test_features_that_are_no_numbers_are_an_error_and_not_kept(tmp_path):
    file = Kept(tmp_path / "features" / "x.pt")
    file.features["r"][1, 1] = float("inf")
    with pytest.raises(SparseheadError, match="NaN or infinite"):
        file.read()
    assert not file.path.exists()


def test_a_lock_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "features" / "x.lock").mkdir(parents=True)
    with pytest.raises(SparseheadError, match=r"cannot write .*x\.lock: Is a directory"):
        Kept(tmp_path / "features" / "x.pt").read()


def test_of_several_that_want_the_same_features_one_makes_them(tmp_path):
    made = []

    def make():
        made.append(1)
        time.sleep(0.1)
        return Features({"r": torch.ones(4, 2)}, LABELS)

    read = lambda _: cached(tmp_path / "features" / "x.pt", make, torch.device("cpu"), labels=LABELS, widths={"r": 2})  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, range(4)))
    assert len(made) == 1
    assert all(torch.equal(features["r"], torch.ones(4, 2)) for features in found)


def test_the_widths_of_features_are_those_that_are_extracted():
    network = encoder().train()
    features = extract(network, images(), PREPARE)
    assert widths_of(network, PREPARE, torch.device("cpu")) == {name: features[name].shape[1] for name in ("r", "z")}
    assert network.training


@pytest.mark.parametrize("size", [8, 12, 30])
def test_resizing_is_torchvisions(size):
    x = images(channels=3, side=16).inputs.float() / 255
    theirs = torchvision_resize(x, [size, size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    torch.testing.assert_close(resize(x, (size, size)), theirs, atol=2e-5, rtol=0)


def test_an_image_that_fits_is_only_normalised():
    x = images().inputs
    torch.testing.assert_close(PREPARE(x), (x / 255 - 0.5) / 0.5)
    assert PREPARE(x).is_contiguous(memory_format=torch.channels_last)


def test_channels_are_adapted_both_ways():
    grey = images().inputs
    assert torch.equal(with_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert torch.equal(with_channels(with_channels(grey, 3), 1), grey)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None]
    assert with_channels(red, 1).item() == 76  # 0.299 · 255
    assert Prepare((3, 20, 20), Normalisation((0.5,) * 3, (0.5,) * 3))(grey).shape == (7, 3, 20, 20)


def test_pixels_are_the_images_and_large_ones_their_averages():
    plain = Prepare(None, Normalisation((0.0,), (1.0,)))
    small, large = images(), images(side=64)
    torch.testing.assert_close(extract(Pixels(), small, plain)["pixels"], small.inputs.flatten(1) / 255)
    assert extract(Pixels(), large, plain)["pixels"].shape == (7, 32 * 32)
