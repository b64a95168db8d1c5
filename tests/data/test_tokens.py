"""Tokens and the views that are made of them."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.data.text import TEXT, decoded
from sparsehead_cli.data.text_views import READ, TEXT_VIEWS, TextViews
from sparsehead_cli.data.tokens import learn_pieces, tokenised, train_vocabulary

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def val():
    return load_split("wordnet10k", "val", Path("data"))


@pytest.fixture(scope="module")
def vocabulary(val):
    return train_vocabulary(decoded(val.inputs[TEXT]), 600)


@pytest.fixture(scope="module")
def tokens(val, vocabulary):
    return tokenised(val, vocabulary, others=True)


def words_of(vocabulary, row):
    """The pieces of one row of tokens, without those at its ends."""
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary)
    ids = row["input_ids"][row["attention_mask"].bool()].tolist()
    return [tokenizer.id_to_token(i) for i in ids][1:-1]


def test_a_vocabulary_is_a_function_of_the_sentences(val, vocabulary):
    sentences = decoded(val.inputs[TEXT])
    assert train_vocabulary(sentences, 600) == vocabulary
    assert train_vocabulary(sentences[::-1], 600) == vocabulary
    assert tokenizers.Tokenizer.from_str(vocabulary).get_vocab_size() == 600


def test_the_most_frequent_neighbours_are_joined_first():
    pieces = learn_pieces(Counter({"low": 5, "lower": 2, "newest": 6, "widest": 3}), 15)  # the example of Sennrich et al. 2016
    letters = {"l", "##o", "##w", "##e", "##r", "n", "##s", "##t", "w", "##i", "##d"}
    assert set(pieces[: len(letters)]) == letters
    assert pieces[len(letters) : len(letters) + 2] == ["##es", "##est"]


def test_tokens_are_what_the_tokenizer_says(val, vocabulary, tokens):
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary)
    for i, sentence in enumerate(decoded(val.inputs["example"])[:50]):
        ids = tokens.inputs["example.input_ids"][i][tokens.inputs["example.attention_mask"][i].bool()].tolist()
        assert ids == (tokenizer.encode(sentence).ids if sentence else [])
    assert set(tokenised(val, vocabulary).inputs) == {"input_ids", "attention_mask", "word"}
    assert tokens.fingerprint() == val.fingerprint()  # a run is on sentences, whatever reads them


def test_without_a_vocabulary_sentences_stay_what_they_are(val):
    assert tokenised(val, "") is val


@pytest.mark.parametrize("kind", TEXT_VIEWS)
def test_views_are_functions_of_their_generator_and_of_the_place_in_the_batch(tokens, kind):
    inputs = {name: table[:40] for name, table in tokens.inputs.items()}
    whole = TextViews(kind)(inputs, torch.Generator().manual_seed(3))
    again = TextViews(kind)(inputs, torch.Generator().manual_seed(3))
    halves = []
    for number in range(2):
        rows = {name: table[20 * number : 20 * (number + 1)] for name, table in inputs.items()}
        halves.append(TextViews(kind, (number, 2))(rows, torch.Generator().manual_seed(3)))
    for i, view in enumerate(whole):
        assert set(view.inputs) == {*READ, "seed"}
        for name in view.inputs:
            assert torch.equal(view.inputs[name], again[i].inputs[name])
            assert torch.equal(view.inputs[name], torch.cat([half[i].inputs[name] for half in halves]))
        assert len(view.inputs["seed"].unique()) > 35
    assert not torch.equal(whole[0].inputs["seed"], whole[1].inputs["seed"])


def test_dropout_views_are_the_sentence_twice(tokens):
    first, second = TextViews("dropout")(tokens.inputs, torch.Generator())
    for view in (first, second):
        assert all(torch.equal(view.inputs[name], tokens.inputs[name]) for name in READ)


def test_deletion_leaves_out_three_words_of_ten_and_spans_are_a_stretch(vocabulary, tokens):
    rows = [{name: table[i] for name, table in tokens.inputs.items()} for i in range(len(tokens))]
    originals = [words_of(vocabulary, row) for row in rows]
    for kind, low, high in (("deletion", 0.66, 0.74), ("span", 0.72, 0.82)):
        view = TextViews(kind)(tokens.inputs, torch.Generator().manual_seed(0))[0].inputs
        kept = [words_of(vocabulary, {name: view[name][i] for name in READ}) for i in range(len(tokens))]
        assert all(kept)  # one word is always left
        assert low < sum(map(len, kept)) / sum(map(len, originals)) < high
        for some, all_ in zip(kept, originals, strict=True):
            rest = iter(all_)
            assert all(piece in rest for piece in some)  # in their order
            if kind == "span":
                assert " ".join(some) in " ".join(all_)


def test_pairs_are_other_wordings_where_there_are_some(val, vocabulary, tokens):
    first, second = (view.inputs for view in TextViews("pairs")(tokens.inputs, torch.Generator().manual_seed(0)))
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary)
    others = [decoded(val.inputs[name]) for name in ("words", "example", "hypernym")]
    glosses = decoded(val.inputs[TEXT])
    used = Counter()
    for i, gloss in enumerate(glosses):
        ids = second["input_ids"][i][second["attention_mask"][i].bool()].tolist()
        allowed = [column[i] for column in others if column[i]] or [gloss]
        matching = [k for k, text in enumerate(allowed) if tokenizer.encode(text).ids == ids]
        assert matching
        used[matching[0]] += 1
        assert first["input_ids"][i][first["attention_mask"][i].bool()].tolist() == tokenizer.encode(gloss).ids
    assert min(used[0], used[1]) > 100
