"""Positions of other people's vision transformers for images of another size, made as the authors make them."""

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.assumptions import GUESSED, KNOWN
from sparsehead_cli.foreign.vit import order_of, sines
from tests.foreign.test_timm import SMALL, assert_same, found_in, msns_head, reference
from tests.foreign.vits import behind, bicubic, fixed, in_chunks, resized

pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_positions_of_another_size_name_the_size_that_fits():
    vit = reference(heads=2, image=64)
    with pytest.raises(SparseheadError, match=r"positions are for images of 64 pixels, .* 160. Add --image-size 64, or another"):
        found_in("test_vit", vit.state_dict(), size=None)
    found, _ = found_in("test_vit", vit.state_dict(), size=64)
    assert_same(found, vit, size=64)
    with pytest.raises(SparseheadError, match="images of 8 pixels hold no patch of 16"):
        found_in("test_vit", vit.state_dict(), size=8)


def dino(vit):
    state, last = vit.state_dict(), {"head.last_layer.weight_v": torch.ones(9, 8)}
    return {"teacher": behind("backbone.", state) | last, "student": behind("module.backbone.", state)}


@pytest.mark.parametrize(
    ("wrap", "matrix", "way"),
    [
        (dino, lambda old, new: bicubic(old, new, (new + 0.1) / old), "offset"),
        (lambda vit: {"model": vit.state_dict(), "x": {"decoder_embed.weight": torch.zeros(2, 2)}}, bicubic, "bicubic"),
        (lambda vit: {"target_encoder": vit.state_dict() | msns_head()}, bicubic, "bicubic"),
        (lambda vit: behind("module.base_encoder.", vit.state_dict()), bicubic, "bicubic"),
    ],
    ids=["dino", "mae", "msn", "moco-v3 with learned ones"],
)
@pytest.mark.parametrize("size", [48, 112])
def test_learned_positions_are_interpolated_as_the_authors_do(wrap, matrix, way, size):
    vit = reference(heads=2, image=64)
    found, facts = found_in("test_vit", wrap(vit), size=size)
    positions = resized(vit.pos_embed, matrix(4, size // 16))
    assert_same(found, vit, size, positions)
    assert facts["positions"] == (way, KNOWN)
    torch.testing.assert_close(found.backbone.net.pos_embed[:, :1], vit.pos_embed[:, :1])


def test_positions_of_an_unknown_layout_are_interpolated_as_timm_does_and_that_is_a_guess():
    from timm.layers import resample_abs_pos_embed

    vit = reference(heads=2, image=64)
    found, facts = found_in("test_vit", vit.state_dict(), size=48)
    assert_same(found, vit, 48, resample_abs_pos_embed(vit.pos_embed.data, [3, 3]))
    assert facts["positions"] == ("antialias", GUESSED)
    found, facts = found_in("test_vit", vit.state_dict(), "positions=offset", size=48)
    assert_same(found, vit, 48, resized(vit.pos_embed, bicubic(4, 3, 3.1 / 4)))


@pytest.mark.parametrize(
    ("order", "has_class", "wrap"),
    [("rows", True, lambda state: behind("base_encoder.", state)), ("columns", False, lambda state: {"target_encoder": state})],
    ids=["moco-v3", "i-jepa"],
)
def test_fixed_positions_are_computed_anew(order, has_class, wrap):
    vit = reference(order, heads=2, image=64, has_class=has_class, tokens="class" if has_class else "average")
    found, facts = found_in("test_vit", wrap(vit.state_dict()), size=80)
    assert_same(found, vit, 80, fixed(5, 64, rows_first=order == "rows", has_class=has_class))
    assert facts["positions"] == (order, KNOWN)


# ---------------------------------------------------------------------------------------------- DINOv2


def published(vit):
    """As the weights of the hub are: one state_dict, with the token for masked patches."""
    return {**vit.state_dict(), "mask_token": torch.randn(1, vit.pos_embed.shape[2])}


def test_dinov2s_published_weights_are_for_518_pixels():
    vit = reference(heads=6, patch=14, image=518, scale=True, **SMALL)
    found, facts = found_in("short_dinov2", published(vit), size=56)
    assert_same(found, vit, 56, resized(vit.pos_embed, bicubic(37, 4, 4.1 / 37)))
    assert facts["heads"] == ("6", KNOWN)
    assert facts["positions"] == ("offset", KNOWN)
    found, facts = found_in("short_dinov2", published(vit), size=518)
    assert "positions" not in facts
    assert torch.equal(found.backbone.net.pos_embed, vit.pos_embed)


@pytest.mark.parametrize("name", ["short_reg4_dinov2", "short_dinov2"])
def test_dinov2_with_registers(name):
    vit = reference(heads=6, patch=14, image=70, scale=True, registers=4, **SMALL)
    found, _ = found_in(name, published(vit), size=70)
    assert_same(found, vit, 70)
    found, facts = found_in(name, published(vit), size=42)
    grid = vit.pos_embed[:, 1:].data.reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", antialias=True)
    positions = torch.cat([vit.pos_embed[:, :1].data, grid.flatten(2).transpose(1, 2)], dim=1)
    assert_same(found, vit, 42, positions)
    assert facts["positions"] == ("antialias", KNOWN)


def test_timms_own_registers_are_read_as_they_are():
    import timm

    model = timm.create_model("short_reg4_dinov2", img_size=42, num_classes=0).eval()
    torch.nn.init.normal_(model.pos_embed), torch.nn.init.normal_(model.reg_token)
    found, _ = found_in("short_reg4_dinov2", model.state_dict(), size=42)
    images = torch.randn(2, 3, 42, 42)
    torch.testing.assert_close(found.backbone(images), model(images), rtol=1e-4, atol=1e-5)


def test_dinov2s_training_files_have_blocks_in_chunks_and_a_teacher():
    vit = reference(heads=2, scale=True)
    own = behind("backbone.", {**in_chunks(vit.state_dict(), 2), "mask_token": torch.randn(1, 64)})
    other = {name: value + 1 for name, value in own.items()}
    found, facts = found_in("test_vit", {"model": {**behind("teacher.", own), **behind("student.", other)}})
    assert_same(found, vit)
    assert facts["branch"] == ("teacher", KNOWN)


def test_fixed_positions_are_told_from_learned_ones():
    for order, rows_first in (("rows", True), ("columns", False)):
        for has_class in (True, False):
            assert order_of(fixed(3, 16, rows_first=rows_first, has_class=has_class)) == order
        torch.testing.assert_close(sines(3, 16, rows_first=rows_first), fixed(3, 16, rows_first=rows_first, has_class=False))
    assert order_of(torch.randn(1, 10, 16)) is None
    assert order_of(torch.randn(1, 8, 16)) is None
    assert order_of(torch.randn(10)) is None
