"""Views: exact where torchvision's functional form can be called, in distribution where only its transforms exist."""

import math
from itertools import combinations

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode

from sparsehead_cli.data.augment import (
    RECIPES,
    Augmentation,
    Draw,
    ImageViews,
    gaussian_blur,
    jitter,
    make_view,
    random_boxes,
    resize_weights,
    separable,
)
from sparsehead_cli.data.colour import blend, luma, shift_hue
from sparsehead_cli.data.contract import GLOBAL, Normalisation

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rgb():
    return torch.rand(16, 3, 20, 24, generator=generator(1))


@pytest.mark.parametrize("box", [(0, 0, 20, 24), (3, 5, 8, 6), (2, 0, 17, 9), (19, 23, 1, 1)])
@pytest.mark.parametrize("size", [7, 20, 31])
def test_crop_is_torchvisions_antialiased_bicubic(rgb, box, size):
    top, left, rows, columns = box
    a_y = resize_weights(torch.tensor([float(top)]), torch.tensor([float(rows)]), 20, size)
    a_x = resize_weights(torch.tensor([float(left)]), torch.tensor([float(columns)]), 24, size)
    ours = separable(rgb[:1], a_y, a_x)
    theirs = TF.resized_crop(rgb[:1], top, left, rows, columns, [size, size], InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_full_box_at_the_same_size_is_the_identity(rgb):
    images = (rgb[:, :, :20, :20] * 255).byte()
    view = Augmentation(area=(1, 1), ratio=(1, 1), jitter_p=0, grey_p=0, flip_p=0)
    torch.testing.assert_close(make_view(images, view, 20, generator()), images / 255, atol=1e-6, rtol=0)


def test_flip_mirrors(rgb):
    images = (rgb[:, :, :20, :20] * 255).byte()
    view = Augmentation(area=(1, 1), ratio=(1, 1), jitter_p=0, grey_p=0, flip_p=1)
    torch.testing.assert_close(make_view(images, view, 20, generator()), images.flip(3) / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("area", "height", "width"), [((0.08, 1.0), 32, 32), ((0.2, 1.0), 28, 28), ((0.9, 1.0), 20, 60)])
def test_boxes_are_distributed_as_torchvisions(area, height, width):
    n = 4000
    ours = torch.stack(random_boxes(Augmentation(area=area), height, width, Draw(n, generator(), CPU)), dim=1)
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(8, scale=area)
    image = torch.zeros(1, height, width)
    theirs = torch.tensor([list(crop.make_params([image]).values()) for _ in range(n)], dtype=torch.float32)
    top, left, rows, columns = ours.T
    assert (rows >= 1).all()
    assert (columns >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(rows * columns, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.1, 0.37])
def test_hue_is_torchvisions(rgb, shift):
    rgb[0] = 0.5  # grey has no hue
    rgb[1, 1:] = 0
    ours = shift_hue(rgb, torch.full((16, 1, 1, 1), shift))
    torch.testing.assert_close(ours, TF.adjust_hue(rgb, shift), atol=2e-5, rtol=0)


def test_hue_of_equal_channels_is_torchvisions():
    """Of 64 colours, among them all greys and those whose largest or smallest channels are two."""
    levels = torch.tensor([0, 0.25, 0.5, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels)[:, :, None, None]
    for shift in (-0.5, -0.2, 0.0, 0.1):
        ours = shift_hue(colours, torch.full((64, 1, 1, 1), shift))
        torch.testing.assert_close(ours, TF.adjust_hue(colours, shift), atol=2e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.7])
def test_contrast_and_saturation_are_torchvisions(rgb, factor):
    f = torch.full((16, 1, 1, 1), factor)
    contrast = blend(rgb, luma(rgb).mean(dim=(1, 2, 3), keepdim=True), f)
    torch.testing.assert_close(contrast, TF.adjust_contrast(rgb, factor), atol=2e-4, rtol=0)  # they round 0.2989 …
    torch.testing.assert_close(blend(rgb, luma(rgb), f), TF.adjust_saturation(rgb, factor), atol=2e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(rgb, sigma):
    ours = gaussian_blur(rgb, torch.full((16,), sigma), 2.0)
    torch.testing.assert_close(ours, TF.gaussian_blur(rgb, [13, 13], [sigma, sigma]), atol=1e-5, rtol=0)


def test_blur_wider_than_the_image_keeps_the_mean_brightness():
    flat = torch.full((2, 1, 4, 4), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.1, 2.0]), 2.0), flat)


def test_jitter_is_distributed_as_color_jitter_with_probability():
    """Each image's mean per channel after jitter, ours and torchvision's, over a few hundred batches and orders."""
    image = torch.rand(3, 6, 6, generator=generator(3))
    view = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter_p=0.8)
    ours = torch.cat([jitter(image.repeat(8, 1, 1, 1), view, Draw(8, generator(s), CPU)) for s in range(300)])
    torch.manual_seed(0)
    reference = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    theirs = torch.stack([reference(image) for _ in range(2400)])
    for statistic in (lambda x: x[:, 0].mean(dim=(1, 2)), lambda x: x[:, 2].mean(dim=(1, 2)), lambda x: x.std(dim=(1, 2, 3))):
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3
    untouched = (ours - image).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert math.isclose(float(untouched.double().mean()), 0.2, abs_tol=0.03)


@pytest.mark.parametrize(("name", "p"), [("grey_p", 0.3), ("solarize_p", 0.3), ("blur_p", 0.3), ("flip_p", 0.3)])
def test_probabilities_are_per_image(name, p):
    images = torch.randint(0, 256, (3000, 3, 6, 6), generator=generator(2), dtype=torch.uint8)
    plain = {"area": (1, 1), "ratio": (1, 1), "jitter_p": 0, "grey_p": 0, "flip_p": 0, "blur_sigma": (1, 1)}
    changed = make_view(images, Augmentation(**{**plain, name: p}), 6, generator())
    untouched = make_view(images, Augmentation(**plain), 6, generator())
    share = float((changed - untouched).abs().amax(dim=(1, 2, 3)).gt(1e-3).double().mean())
    assert math.isclose(share, p, abs_tol=0.03)


def test_solarize_and_grey_are_torchvisions(rgb):
    images = (rgb[:, :, :20, :20] * 255).byte()
    plain = {"area": (1, 1), "ratio": (1, 1), "jitter_p": 0, "grey_p": 0, "flip_p": 0}
    grey = make_view(images, Augmentation(**{**plain, "grey_p": 1}), 20, generator())
    torch.testing.assert_close(grey, TF.rgb_to_grayscale(images / 255, 3), atol=2e-4, rtol=0)
    solarized = make_view(images, Augmentation(**plain, solarize_p=1), 20, generator())
    torch.testing.assert_close(solarized, TF.solarize(images / 255, 0.5), atol=1e-5, rtol=0)


def made(images, recipe, part=(0, 1)):
    """The views of a recipe, 12 pixels wide where they are global, of images whose mean is 0.5."""
    channels = images.shape[1]
    normalise = Normalisation((0.5,) * channels, (0.25,) * channels)
    views = ImageViews(RECIPES[recipe], normalise, 12, part)
    assert views.roles == tuple(view.role for view in views(images, generator()))
    return [view.inputs for view in views(images, generator())]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_recipes_give_views_for_grey_and_colour(recipe, channels):
    images = torch.randint(0, 256, (5, channels, 14, 14), generator=generator(4), dtype=torch.uint8)
    views = made(images, recipe)
    sides = [12 if view.role == GLOBAL else 5 for view in RECIPES[recipe]]  # 3/7 of 12
    assert [v.shape for v in views] == [(5, channels, side, side) for side in sides]
    assert all(v.dtype == torch.float32 and v.min() >= -2 and v.max() <= 2 for v in views)
    assert all(not torch.equal(a, b) for a, b in combinations(views, 2) if a.shape == b.shape)
    again = made(images, recipe)
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))


def test_views_do_not_touch_the_global_generator():
    state = torch.get_rng_state()
    make_view(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), RECIPES["symmetric"][0], 8, generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_are_the_same_on_a_gpu():
    images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    here = make_view(images, RECIPES["symmetric"][0], 16, generator())
    there = make_view(images.to("cuda"), RECIPES["symmetric"][0], 16, generator())
    torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", ["symmetric", "asymmetric"])
def test_parts_of_a_batch_get_the_views_that_they_have_in_the_whole(recipe):
    """However many processes share a batch; a part is told apart from the others."""
    images = torch.randint(0, 256, (8, 3, 20, 20), generator=generator(), dtype=torch.uint8)
    whole = made(images, recipe)
    for of in (2, 4):
        parts = [made(images.chunk(of)[i], recipe, (i, of)) for i in range(of)]
        for view, shares in zip(whole, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(shares), view, atol=1e-4, rtol=0)
