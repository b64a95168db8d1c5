import pytest
import torch
import torchvision

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.backbones import BACKBONES, make_backbone, stem_for


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_weights_go_to_and_from_torchvision(name):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    theirs.fc = torch.nn.Identity()
    ours = make_backbone(name, channels=3, image_size=224).eval()
    ours.load_state_dict(theirs.state_dict())  # the same keys and shapes
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", BACKBONES)
def test_output_has_the_stated_width(name):
    backbone = make_backbone(name, channels=1, image_size=28)
    assert backbone(torch.randn(2, 1, 28, 28)).shape == (2, backbone.dim)


def test_default_is_four_blocks_with_256_features():
    backbone = make_backbone("narrow", channels=1, image_size=28)
    assert backbone.dim == 256
    assert sum(len(getattr(backbone, stage)) for stage in backbone.layers) == 4


def test_widths_and_blocks_are_free():
    backbone = make_backbone("narrow", channels=3, image_size=32, widths=(4, 8, 12), blocks=(1, 2, 3))
    assert (backbone.dim, [len(getattr(backbone, s)) for s in backbone.layers]) == (12, [1, 2, 3])
    with pytest.raises(SparseheadError, match="same number of stages"):
        make_backbone("narrow", channels=3, image_size=32, blocks=(1, 2))


@pytest.mark.parametrize(("size", "stem", "map_size"), [(32, "small", 32), (64, "small", 64), (96, "imagenet", 24)])
def test_stem_follows_the_image_size(size, stem, map_size):
    backbone = make_backbone("resnet18", channels=3, image_size=size)
    assert stem_for(size) == backbone.stem == stem
    x = backbone.maxpool(backbone.conv1(torch.zeros(1, 3, size, size)))
    assert x.shape[2:] == (map_size, map_size)


def test_unknown_name():
    with pytest.raises(SparseheadError, match='unknown backbone "resnet81".*Did you mean "resnet18"'):
        make_backbone("resnet81", channels=3, image_size=32)
