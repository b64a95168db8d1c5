import hashlib
from dataclasses import replace

import numpy as np
import pytest

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.data.factors import CLASSES, SHAPES, Factors, changed_by, code, colours, factors_of, read_factors, rendered

STILL = Augmentation(area=(1.0, 1.0), flip_p=0.0, jitter_p=0.0, grey_p=0.0)


def of(**values):
    """The factors of one image: a plain red disc in the middle of a black ground, or as given."""
    usual = {"shape": 0, "texture": 0, "colour": 0.0, "x": 16.0, "y": 16.0, "size": 8.0, "ground": 0.0} | values
    return Factors(**{name: np.array([value]) for name, value in usual.items()})


def test_the_images_are_the_same_bytes_everywhere():
    """Rounding is IEEE 754's alone, so this digest is that of any machine; another one means other images."""
    factors = factors_of(train=False)
    images = rendered(Factors(*(values[:200] for values in vars(factors).values())))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "fa3ab8e4d973ed56"


def test_training_and_test_images_are_others():
    (train, labels), (test, _) = read_factors(train=True), read_factors(train=False)
    assert (train.shape, test.shape, train.dtype) == ((22_000, 3, 32, 32), (4_000, 3, 32, 32), np.uint8)
    assert np.bincount(labels).min() > 0.95 * len(labels) / len(SHAPES)
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in test)


def test_a_disc_is_where_its_factors_say():
    image = rendered(of(x=12.0, y=20.0, size=6.0, ground=0.2))[0].astype(int)
    figure = image[0] > 128
    y, x = np.nonzero(figure)
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((12, 20), abs=0.1)
    assert figure.sum() == pytest.approx(np.pi * 36, rel=0.07)
    assert (image[:, 0, 0] == 51).all()  # the ground, 0.2
    assert tuple(image[:, 20, 12]) == (255, 0, 0)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_shapes_have_about_the_same_area_and_are_symmetric(shape):
    figure = rendered(of(shape=shape))[0, 0] > 128
    assert figure.sum() == pytest.approx(180, rel=0.2)
    assert (figure == figure[:, ::-1]).all()
    assert (figure == figure[::-1]).all()


def test_textures_differ_and_keep_the_figure():
    images = [rendered(of(shape=2, texture=texture))[0, 0].astype(int) for texture in range(4)]
    assert all(((image > 0) == (images[0] > 0)).all() for image in images)
    assert len({image.tobytes() for image in images}) == 4
    upright, level = images[1][10:22, 10:22], images[2][10:22, 10:22]
    assert (upright == upright[:1]).all()  # every row is the first
    assert (level == level[:, :1]).all()


def test_the_colour_circle():
    expected = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    assert colours(np.arange(6) / 6) == pytest.approx(np.array(expected), abs=1e-9)


def test_codes_have_one_unit_of_variance_a_factor():
    factors = factors_of(train=False)
    for name in vars(factors):
        assert code(factors, [name]).var(0).sum() == pytest.approx(1)
        assert code(factors, [name]).mean(0) == pytest.approx(0, abs=1e-9)
    assert code(factors, ["shape", "colour", "x"]).shape == (4_000, len(CLASSES["shape"]) + 2 + 1)


@pytest.mark.parametrize(
    ("view", "changed"),
    [
        (STILL, set()),
        (replace(STILL, area=(0.5, 1.0)), {"x", "y", "size"}),
        (replace(STILL, flip_p=0.5), {"x"}),
        (replace(STILL, jitter_p=0.8), {"colour", "ground"}),
        (replace(STILL, jitter_p=0.8, hue=0.0), {"ground"}),
        (replace(STILL, grey_p=0.2), {"colour"}),
    ],
)
def test_what_views_change(view, changed):
    assert changed_by((STILL, view)) == changed
    assert changed_by(RECIPES["colour-small"]) == {"x", "y", "size", "colour", "ground"}
