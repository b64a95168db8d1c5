"""Hugging Face's vision transformers through timm: names mapped, query, key and value joined, and the same numbers."""

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.assumptions import KNOWN
from sparsehead_cli.foreign.vit import timms_names
from tests.foreign.test_timm import assert_same, found_in, reference
from tests.foreign.vits import behind, bicubic, hugging_face, resized

pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def decoder():
    layer = "decoder.decoder_encoder.layer.0.output.dense.weight"
    return {"decoder.decoder_embed.weight": torch.randn(8, 64), layer: torch.randn(8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("layout", "settings", "prefix", "scaled", "beside"),
    [
        ("Hugging Face's ViT", {}, "", False, {"pooler.dense.weight": torch.ones(64, 64)}),
        ("Hugging Face's ViT", {}, "vit.", False, {"classifier.weight": torch.ones(5, 64)}),
        ("Hugging Face's ViTMAE", {"positions": "columns"}, "", False, {}),
        ("Hugging Face's ViTMAE", {}, "vit.", False, decoder()),
        ("Hugging Face's I-JEPA", {"has_class": False, "tokens": "average"}, "", False, {}),
        ("Hugging Face's DINOv2", {"scale": True}, "dinov2.", True, {"embeddings.mask_token": torch.ones(1, 64)}),
        ("Hugging Face's DINOv2 with registers", {"scale": True, "registers": 4}, "", True, {}),
    ],
)
def test_hugging_faces_vits(layout, settings, prefix, scaled, beside, version):
    vit = reference(heads=2, image=64, **settings)
    file = behind(prefix, hugging_face(vit.state_dict(), scaled=scaled, version=version)) | beside
    found, facts = found_in("test_vit", file, size=64)
    assert_same(found, vit, 64)
    assert f"layout: {layout}" in found.report
    assert facts["tokens"][0] == settings.get("tokens", "class")
    if settings.get("registers"):
        return
    found, facts = found_in("test_vit", file, size=80)
    assert_same(found, vit, 80, resized(vit.pos_embed, bicubic(4, 5), first=int(vit.has_class)))
    assert facts["positions"] == ("bicubic", KNOWN)


def test_a_file_that_lacks_a_key_is_not_whole():
    file = hugging_face(reference(heads=2).state_dict())
    del file["encoder.layer.3.attention.attention.key.weight"]
    with pytest.raises(SparseheadError, match=r"1 missing: blocks.3.attn.qkv.weight; 2 unexpected: blocks.3.attn.[qv].weight"):
        found_in("test_vit", file)


def test_other_names_stay_as_they_are():
    names = {"layers.0.attention.q_proj.weight": torch.ones(2, 2), "encoder.layer.0.output.dense.bias": torch.ones(2)}
    assert timms_names(names) == names


TRANSFORMERS = [
    ("ViTModel", {}, None),
    ("ViTMAEModel", {"mask_ratio": 0.0}, None),
    ("ViTMSNModel", {}, None),
    ("IJepaModel", {}, "average"),
    ("Dinov2Model", {}, None),
    ("Dinov2WithRegistersModel", {}, None),
]


@pytest.mark.parametrize(("kind", "settings", "tokens"), TRANSFORMERS)
@pytest.mark.parametrize("size", [64, 96])
@torch.no_grad()
def test_the_same_numbers_as_transformers(kind, settings, tokens, size):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, kind)
    shape = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "patch_size": 16, "image_size": 64}
    shape |= {"mlp_ratio": 3} if kind.startswith("Dinov2") else {"intermediate_size": 192}
    model = cls(cls.config_class(**shape, **settings)).eval()
    for name, value in model.named_parameters():
        if not name.endswith("position_embeddings"):  # fixed ones tell whose file it is
            torch.nn.init.normal_(value, mean=float("norm" in name and name.endswith("weight")), std=0.15)
    images = torch.randn(3, 3, size, size)
    more = {} if kind.startswith("Dinov2") else {"interpolate_pos_encoding": size != 64}
    out = model(images, **more).last_hidden_state
    found, _ = found_in("test_vit", model.state_dict(), size=size)
    expected = out.mean(dim=1) if tokens else out[:, 0]
    torch.testing.assert_close(found.backbone(images), expected, rtol=1e-3, atol=1e-3)
