"""Vision transformers: what torch's own layers compute, what hidden patches do not reach, and timm's weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.vit import Block, Predictor, Shape, VisionTransformer, make_vit, squares


def net(pooling="mean", image=(2, 12, 12)):
    torch.manual_seed(0)
    return VisionTransformer(Shape(width=16, depth=2, heads=4), image, patch=4, pooling=pooling)


def images(batch=3, size=12):
    return torch.randn(batch, 2, size, size, generator=torch.Generator().manual_seed(1))


def test_patches_are_a_convolution_without_overlap():
    made, x = net(), images(size=14)  # of which two pixels are left over
    expected = made.patch_embed["proj"](x).permute(0, 2, 3, 1)
    torch.testing.assert_close(made.patches(x), expected)
    assert torch.equal(squares(x, 4)[1, 2, 0], x[1, :, 8:12, :4].flatten())


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_torchs_layer_with_norms_before(masked):
    torch.manual_seed(0)
    block = Block(16, 4)
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {"attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj.", "mlp.fc1": "linear1.", "mlp.fc2": "linear2."}
    state = {}
    for name, value in block.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        state[f"{names.get(layer, f'{layer}.')}{kind}"] = value
    theirs.load_state_dict(state)
    x, visible = torch.randn(3, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [0, 1, 0, 0, 0]]).bool()
    ours = block(x, visible if masked else None)
    torch.testing.assert_close(ours, theirs(x, src_key_padding_mask=~visible if masked else None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_r_is_the_mean_of_the_patches_or_the_class_token(pooling):
    made, x = net(pooling).eval(), images()
    tokens = made({"patches": made.patches(x)})
    assert tokens.shape == (3, 9 + (pooling == "cls"), 16)
    assert torch.equal(made(x), tokens[:, 0] if pooling == "cls" else tokens.mean(dim=1))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_is_not_visible_reaches_no_other_token(pooling):
    made = net(pooling)
    patches, visible = made.patches(images()), torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.5
    other = torch.where(visible.unsqueeze(3), patches, patches + 1)
    a, b = (made({"patches": p, "visible": visible}) for p in (patches, other))
    seen = F.pad(visible.flatten(1), (made.prefix, 0), value=True)
    assert torch.equal(a[seen], b[seen])
    assert (a[~seen] != b[~seen]).any(dim=1).all()
    assert torch.equal(made.pool(a, visible), made.pool(b, visible))
    by_hand = torch.stack([row[keep].mean(dim=0) for row, keep in zip(a, seen, strict=True)])
    torch.testing.assert_close(made.pool(a, visible), a[:, 0] if pooling == "cls" else by_hand)


def test_positions_follow_the_size_of_the_images():
    made = net("cls")
    assert torch.equal(made.positions((3, 3)), made.pos_embed[:, 1:])
    with torch.no_grad():  # positions that rise from left to right do so on any grid
        made.pos_embed[:, 1:] = torch.arange(3.0).repeat(3)[None, :, None]
    spread = made.positions((2, 6)).unflatten(1, (2, 6))
    assert spread.shape == (1, 2, 6, 16)
    assert (spread.diff(dim=2) > 0).all()
    torch.testing.assert_close(spread[:, 0], spread[:, 1])
    assert made(images(size=7)).shape == made(images(size=24)).shape == (3, 16)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_timms_weights_are_ours(pooling):
    timm = pytest.importorskip("timm", reason="pip install -e '.[timm]'")
    ours = make_vit("vit-tiny", channels=1, image_size=32, pooling=pooling, blocks=(2,)).eval()
    more = {"global_pool": "token"} if pooling == "cls" else {"global_pool": "avg", "class_token": False, "fc_norm": False}
    sizes = {"img_size": 32, "patch_size": 4, "in_chans": 1, "depth": 2}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes, **more).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_a_predictor_reads_its_context_and_no_other_set():
    torch.manual_seed(0)
    predictor = Predictor(6, 16, Shape(width=8, depth=2, heads=2), (3, 3))
    z, context = torch.randn(2, 3, 3, 6), torch.zeros(2, 3, 3, dtype=torch.bool)
    context[:, 0] = True
    targets = torch.zeros(2, 3, 3, 3, dtype=torch.bool)
    targets[:, 0, 1], targets[:, 1, 2], targets[:, 2, 1:, 1] = True, True, True
    said = predictor(z, context, targets)
    assert said.shape == (2, 3, 9, 16)
    asked = targets.flatten(2)
    elsewhere = predictor(torch.where(context.unsqueeze(3), z, z + 1), context, targets)
    assert torch.equal(said[asked], elsewhere[asked])
    alone = predictor(z, context, targets[:, 1:2])
    torch.testing.assert_close(said[:, 1][asked[:, 1]], alone[:, 0][asked[:, 1]])
    other = predictor(torch.where(context.unsqueeze(3), z + 1, z), context, targets)
    assert (said[asked] != other[asked]).any(dim=1).all()


def test_sizes():
    made = make_vit("vit-small", channels=3, image_size=224, pooling="cls")
    assert (made.dim, made.patch, made.grid, len(made.blocks), made.heads) == (384, 16, (14, 14), 12, 6)
    assert sum(p.numel() for p in made.parameters()) == 21_665_664  # DeiT-S without its classifier
    narrow = make_vit("vit-mini", channels=1, image_size=28, pooling="mean", widths=(40,), blocks=(1,))
    assert (narrow.dim, narrow.patch, narrow.heads, len(narrow.blocks), len(narrow.stages())) == (40, 4, 1, 1, 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pooling": "cls-mlp"}, 'unknown pooling "cls-mlp"; known: mean, cls'),
        ({"widths": (8, 8)}, r"a vision transformer has one stage: widths takes one number, given \[8, 8\]"),
        ({"blocks": (1, 1)}, "blocks takes one number"),
        ({"image_size": 3}, "needs images of 4 pixels or more, given 3"),
    ],
)
def test_what_cannot_be(settings, says):
    with pytest.raises(SparseheadError, match=says):
        make_vit("vit-mini", **{"channels": 1, "image_size": 28, "pooling": "mean", **settings})
