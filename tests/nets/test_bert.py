"""BERT: equal to Hugging Face's, dropout by the seeds of rows, and rows that do not depend on each other."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparsehead_cli.data.contract import joined
from sparsehead_cli.data.text_views import TextViews
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.bert import MIXERS, ODD, STRIDE, Bert, kept, vocabulary_from
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.ssl.methods import METHODS
from tests.texts import SMALL

VOCABULARY = '{"of": "no interest"}'


def some_tokens(rows=70, seed=0):
    """Token tables of sentences of 3 to 20 tokens."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 21, (rows, 1), generator=draw)
    mask = (torch.arange(24) < lengths).to(torch.uint8)
    ids = torch.randint(5, SMALL.words, (rows, 24), generator=draw, dtype=torch.int32) * mask
    seeds = torch.randint(0, 2**24, (rows,), generator=draw, dtype=torch.int32)
    return {"input_ids": ids, "attention_mask": mask, "seed": seeds}


def made(seed=0, **changes):
    torch.manual_seed(seed)
    return Bert(SMALL, VOCABULARY, **changes)


def plain(inputs):
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def their(kind="bert"):
    """Hugging Face's network of our sizes, without dropout, and its state in our names."""
    transformers = pytest.importorskip("transformers")
    config, network = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    }[kind]
    torch.manual_seed(1)
    made = config(
        vocab_size=SMALL.words,
        hidden_size=SMALL.width,
        num_hidden_layers=SMALL.depth,
        num_attention_heads=SMALL.heads,
        intermediate_size=SMALL.hidden,
        max_position_embeddings=SMALL.positions,
        layer_norm_eps=1e-5 if kind == "roberta" else 1e-12,
        type_vocab_size=1 if kind == "roberta" else 2,
        pad_token_id=1 if kind == "roberta" else 0,
    )
    made._attn_implementation = "eager"
    return network(made)


def loaded(theirs, **shape):
    ours = Bert(SMALL._replace(**shape), VOCABULARY)
    state = {name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()}
    ours.load_state_dict(state | {"vocabulary": ours.vocabulary})
    return ours


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_it_is_the_network_of_hugging_face(kind):
    theirs = their(kind).eval()
    ours = loaded(theirs) if kind == "bert" else loaded(theirs, types=1, eps=1e-5, first_position=2)
    inputs = plain(some_tokens())
    ids = inputs["input_ids"].long()
    if kind == "roberta":
        ids = torch.where(inputs["attention_mask"].bool(), ids, 1)
    with torch.no_grad():
        states = theirs(input_ids=ids, attention_mask=inputs["attention_mask"].long()).last_hidden_state
        weight = inputs["attention_mask"].unsqueeze(2).float()
        torch.testing.assert_close(ours(inputs), (states * weight).sum(1) / weight.sum(1), rtol=1e-5, atol=1e-6)
        ours.pooling = "cls"
        torch.testing.assert_close(ours(inputs), states[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seeded", [False, True])
def test_a_row_does_not_depend_on_the_others_nor_on_padding(seeded):
    network, inputs = made(), some_tokens()
    inputs = inputs if seeded else plain(inputs)
    whole = network(inputs)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network({name: x[order] for name, x in inputs.items()}), whole[order], rtol=1e-5, atol=1e-6)
    alone = torch.cat([network({name: x[i : i + 1] for name, x in inputs.items()}) for i in range(70)])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.encode(inputs), whole, rtol=1e-5, atol=1e-6)  # as a device has it, padding and all


def test_dropout_is_where_there_are_seeds_and_nowhere_else():
    network, inputs = made().train(), some_tokens()
    assert torch.equal(network(plain(inputs)), network.eval()(plain(inputs)))
    assert not torch.allclose(network(inputs), network(plain(inputs)), atol=1e-3)
    other = inputs | {"seed": inputs["seed"] + 1}
    assert not torch.allclose(network(inputs), network(other), atol=1e-3)


def test_masks_are_as_likely_as_they_should_be_and_independent():
    seeds = torch.arange(400, dtype=torch.int32)
    masks = kept(seeds, (20, 30), 4, 0.1).double()
    assert abs(masks.mean() - 0.9) < 0.002
    for one, other in ((masks[1:], masks[:-1]), (masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.01
    layers = torch.stack([kept(seeds, (20, 30), number, 0.1).double().flatten() for number in (4, 5)])
    assert abs(torch.corrcoef(layers)[0, 1]) < 0.01


def mask_by_hand(seeds, shape, number, p):
    """`kept`, in Python's whole numbers."""

    def int32(x):
        return (x + 2**31) % 2**32 - 2**31

    result = np.empty((len(seeds), *shape), dtype=bool)
    for index in np.ndindex(result.shape):
        place = 0
        for axis in index[1:]:
            place = int32(place * STRIDE + axis)
        x = int(seeds[index[0]]) ^ int32(int32(place * ODD) + number * 7919)
        for factor in MIXERS:
            x = int32((x ^ (x >> 15)) * factor)
        result[index] = ((x ^ (x >> 16)) & 0x7FFFFFFF) >= int(p * 2**31)
    return torch.from_numpy(result)


def test_the_contrast_of_two_dropout_passes_is_that_of_an_independent_computation(monkeypatch):
    """Unsupervised SimCSE with the negatives of NT-Xent: Hugging Face's network, masks made by hand, the loss by its definition."""
    theirs = their().double()
    ours = loaded(theirs).double()
    projector = make_projector(SMALL.width, [12], 8, batch_norm=True, kind="mlp").double()
    method = METHODS["simclr"](ours, projector, temperature=0.05)
    tokens = plain(some_tokens(rows=10)) | {"word": torch.zeros(10, 24, dtype=torch.int16)}
    views = TextViews("dropout")(tokens, torch.Generator().manual_seed(5))
    loss, _ = method(views, None)
    loss.backward()

    both = joined(views)
    ids, mask, seeds = both["input_ids"].long(), both["attention_mask"].long(), both["seed"].tolist()
    numbers = iter(range(1 + 3 * SMALL.depth))
    drop = lambda x, *_, **__: x * mask_by_hand(seeds, x.shape[1:], next(numbers), 0.1) / 0.9  # noqa: E731
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: drop(x))
    monkeypatch.setattr(F, "dropout", drop)
    states = theirs.train()(input_ids=ids, attention_mask=mask).last_hidden_state
    assert next(numbers, None) is None  # each place of dropout was passed, in our order
    weight = mask.unsqueeze(2).double()
    z = F.normalize(projector((states * weight).sum(1) / weight.sum(1)), dim=1)
    expected = 0
    for i in range(20):
        alike = torch.exp(z @ z[i] / 0.05)
        expected = expected - torch.log(alike[(i + 10) % 20] / (alike.sum() - alike[i])) / 20
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    expected.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    differences = []
    for name, p in ours.named_parameters():
        if name in gradients and p.grad is not None:
            differences.append((p.grad - gradients[name]).flatten())
    assert len(differences) > 30
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients.values()]))
    assert torch.linalg.vector_norm(torch.cat(differences)) < 1e-6 * norm


def test_a_checkpoint_has_the_vocabulary():
    assert vocabulary_from(made().state_dict()["vocabulary"]) == VOCABULARY


def test_poolings():
    assert made(pooling="cls-mlp").pooler is not None
    with pytest.raises(SparseheadError, match='unknown pooling "max"; known: mean, cls, cls-mlp'):
        made(pooling="max")
