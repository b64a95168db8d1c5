"""Sentences -> tokens, once, by the tokenizer of an encoder, which `tokenizers` of Hugging Face is."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.text import TEXT, TextSpec, decoded, encoded
from sparsehead_cli.errors import SparseheadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONGEST = 128  # tokens of a sentence that are kept, the two at its ends among them
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OF_TOKENS = ("input_ids", "attention_mask", "word")


def tokenised(source: Memory, vocabulary: str, *, others: bool = False) -> Memory:
    """Sentences as tokens: {"input_ids": int32, "attention_mask": uint8, "word": int16}, [N, T] each; or, without a vocabulary, as
    they are.

    `word` is the number of the word that a token belongs to, -1 for those at the ends and behind them. With `others` other wordings
    stand beside them, under names such as "example.input_ids"; of an empty one no token is in the mask.

    Raises: SparseheadError without the extra `text`.
    """
    if not vocabulary:
        return source
    tokenizer, inputs = tokenizer_of(vocabulary), {}
    for name, rows in source.inputs.items() if others else ((TEXT, source.inputs[TEXT]),):
        prefix = "" if name == TEXT else f"{name}."
        sentences = decoded(rows)
        for column, values in zip(OF_TOKENS, arrays(tokenizer, sentences), strict=True):
            inputs[prefix + column] = values
    return Memory(inputs, source.labels, replace(source.spec, vocabulary=vocabulary), source.fingerprint())


def tokens_of(sentences: list[str], vocabulary: str) -> Memory:
    """Sentences of no data set as tokens, without labels. Raises: SparseheadError as `tokenised`."""
    return tokenised(Memory({TEXT: encoded(sentences)}, torch.full((len(sentences),), -1), TextSpec()), vocabulary)


def arrays(tokenizer: "Tokenizer", sentences: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """The three tables of tokens, as wide as the longest sentence has."""
    encodings = tokenizer.encode_batch(sentences)
    width = max((len(encoding.ids) for encoding in encodings), default=1)
    ids = np.full((len(sentences), width), tokenizer.token_to_id("[PAD]") or 0, dtype=np.int32)
    mask, words = np.zeros(ids.shape, dtype=np.uint8), np.full(ids.shape, -1, dtype=np.int16)
    for row, (sentence, encoding) in enumerate(zip(sentences, encodings, strict=True)):
        count = len(encoding.ids)
        ids[row, :count] = encoding.ids
        words[row, :count] = [-1 if word is None else word for word in encoding.word_ids]
        mask[row, :count] = bool(sentence)
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(words)


def tokenizer_of(vocabulary: str) -> "Tokenizer":
    """The tokenizer that a JSON describes, cutting at LONGEST tokens. Raises: SparseheadError without the extra `text`."""
    tokenizer = library().Tokenizer.from_str(vocabulary)
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def train_vocabulary(sentences: Iterable[str], size: int) -> str:
    """The JSON of a WordPiece tokenizer of `size` pieces, learnt from sentences in lower case; the same for the same sentences."""
    tokenizers = library()
    normalizer, splitter = tokenizers.normalizers.BertNormalizer(lowercase=True), tokenizers.pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for sentence in sentences:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence)))
    pieces = [*SPECIAL, *learn_pieces(words, size - len(SPECIAL))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    ends = [(name, vocabulary[name]) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = tokenizers.processors.BertProcessing(*ends)
    return tokenizer.to_str()


def learn_pieces(words: Counter[str], size: int) -> list[str]:
    """At most `size` pieces of words: all letters, then what the most frequent neighbours make together, one pair after the other.

    Pieces that continue a word begin with ##. Of equally frequent pairs the first by the alphabet: the trainer of `tokenizers`
    takes another one each time. Source: byte-pair encoding, Sennrich et al. 2016, with the pieces of WordPiece.
    """
    split = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in words}
    pieces = dict.fromkeys(sorted({piece for of_word in split.values() for piece in of_word}))
    counts: Counter[tuple[str, str]] = Counter()
    inside: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, of_word in split.items():
        for pair in pairwise(of_word):
            counts[pair] += words[word]
            inside[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)
    while heap and len(pieces) < size:
        count, pair = heappop(heap)
        if counts[pair] != -count or not count:
            continue  # it has become rarer since
        joined = pair[0] + pair[1].removeprefix("##")
        pieces[joined] = None
        changed = set()
        for word in sorted(inside.pop(pair)):
            for old in pairwise(split[word]):
                counts[old] -= words[word]
                changed.add(old)
            split[word] = merged(split[word], pair, joined)
            for new in pairwise(split[word]):
                counts[new] += words[word]
                inside[new].add(word)
                changed.add(new)
        for other in changed - {pair}:
            heappush(heap, (-counts[other], other))
    return list(pieces)[:size]


def merged(of_word: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    """The pieces of a word with each such pair as one."""
    result: list[str] = []
    for piece in of_word:
        if result and (result[-1], piece) == pair:
            result[-1] = joined
        else:
            result.append(piece)
    return result


def library() -> object:
    """The package tokenizers. Raises: SparseheadError where it is not installed."""
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
    except ImportError:
        raise SparseheadError("sentences need the package tokenizers: pip install 'sparsehead[text]'") from None
    return tokenizers
