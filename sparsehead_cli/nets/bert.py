"""BERT as an encoder of sentences: tokens -> r. Its parameters are called as Hugging Face calls them, so that its files fit.

Source: Devlin et al. 2019 (arXiv 1810.04805); sizes of MiniLM: Wang et al. 2020; pooling: Reimers & Gurevych 2019; Gao et al. 2021.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Inputs
from sparsehead_cli.errors import unknown

# over the tokens of a sentence; of its first, as it is or behind a layer with tanh
POOLINGS = ("mean", "cls", "cls-mlp")


class Shape(NamedTuple):
    """What a BERT is made of."""

    words: int  # of its vocabulary
    width: int
    depth: int
    heads: int
    hidden: int
    positions: int = 512
    dropout: float = 0.1
    types: int = 2
    eps: float = 1e-12  # of its norms
    first_position: int = 0


class Bert(nn.Module):
    """Tokens {"input_ids", "attention_mask"} [B, T] -> r [B, D] by `pooling`. `vocabulary` is the JSON of its tokenizer.

    The vocabulary is a buffer, so that a checkpoint has it. Dropout is of views whose rows have a "seed" int32 [B]: a row's masks
    are functions of its seed alone, and without seeds there is none, whether it trains or not. On a CPU rows of like length pass
    together, and what is padding in all of them is left out.
    """

    def __init__(self, shape: Shape, vocabulary: str, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        self.dim, self.pooling = shape.width, pooling
        self.register_buffer("vocabulary", torch.tensor(list(vocabulary_bytes(vocabulary)), dtype=torch.uint8))
        self.embeddings, self.encoder = Embeddings(shape), Layers(shape)
        self.pooler = nn.Linear(shape.width, shape.width) if pooling == "cls-mlp" else None
        self.apply(initialise)

    def forward(self, inputs: Inputs) -> Tensor:
        mask = inputs["attention_mask"]
        if mask.device.type != "cpu":  # to know the lengths one would wait for it
            return self.encode(inputs)
        lengths = mask.sum(dim=1, dtype=torch.int64)
        order = lengths.argsort(stable=True)
        parts = []
        for rows in order.split(ROWS):
            width = int(lengths[rows[-1]])
            parts.append(self.encode({n: x[rows, :width] if x.ndim == 2 else x[rows] for n, x in inputs.items()}))
        return torch.cat(parts)[order.argsort()]

    def encode(self, inputs: Inputs) -> Tensor:
        """r [B, D] of tokens that are all of one width."""
        ids, mask, seeds = inputs["input_ids"], inputs["attention_mask"], inputs.get("seed")
        x = self.encoder(self.embeddings(ids.long(), seeds), mask.bool(), seeds)
        if self.pooling == "mean":
            weight = mask.unsqueeze(2).to(x.dtype)
            return (x * weight).sum(dim=1) / weight.sum(dim=1)
        return x[:, 0] if self.pooler is None else torch.tanh(self.pooler(x[:, 0]))

    def stages(self) -> list[nn.Module]:
        """From input to output, for fine-tuning."""
        return [self.embeddings, *self.encoder.layer]


class Embeddings(nn.Module):
    """Words, positions and the type of the first sentence, summed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.words, shape.width)
        self.position_embeddings = nn.Embedding(shape.positions, shape.width)
        self.token_type_embeddings = nn.Embedding(shape.types, shape.width)
        self.LayerNorm, self.dropout = nn.LayerNorm(shape.width, eps=shape.eps), Dropout(shape.dropout, 0)
        self.first = shape.first_position

    def forward(self, ids: Tensor, seeds: Tensor | None) -> Tensor:
        positions = self.position_embeddings.weight[self.first : self.first + ids.shape[1]]
        x = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x), seeds)


class Layers(nn.Module):
    """Transformer layers, one behind the other."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape, 1 + 3 * i) for i in range(shape.depth))

    def forward(self, x: Tensor, mask: Tensor, seeds: Tensor | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask, seeds)
        return x


class Layer(nn.Module):
    """Attention and a perceptron, each with a residual and a norm behind it. `number` is that of its first dropout."""

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(shape, number), "output": Output(shape.width, shape, number + 1)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.width, shape.hidden)})
        self.output = Output(shape.hidden, shape, number + 2)

    def forward(self, x: Tensor, mask: Tensor, seeds: Tensor | None) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask, seeds), x, seeds)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x, seeds)


class SelfAttention(nn.Module):
    """Each token reads all tokens that are no padding."""

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, Dropout(shape.dropout, number)
        self.query, self.key, self.value = (nn.Linear(shape.width, shape.width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor, seeds: Tensor | None) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in layers)
        if seeds is None:
            read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        else:
            scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
            read = self.dropout(scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=3), seeds) @ value
        return read.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, dropout, the residual and a norm."""

    def __init__(self, inputs: int, shape: Shape, number: int) -> None:
        super().__init__()
        self.dense, self.dropout = nn.Linear(inputs, shape.width), Dropout(shape.dropout, number)
        self.LayerNorm = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(self, x: Tensor, residual: Tensor, seeds: Tensor | None) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x), seeds) + residual)


class Dropout(nn.Module):
    """Dropout [B, ..., T, C] whose masks are functions of each row's seed, of its own `number` and of the place in the row.

    So a row has the same masks in any batch, on any number of processes and whatever padding was left out. Numbers are mixed as
    MurmurHash3's finaliser does, in int32.
    """

    def __init__(self, p: float, number: int) -> None:
        super().__init__()
        self.p, self.number = p, number

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        if seeds is None or not self.p:
            return x
        return x * kept(seeds, x.shape[1:], self.number, self.p) / (1 - self.p)


def kept(seeds: Tensor, shape: torch.Size, number: int, p: float) -> Tensor:
    """Which numbers of rows of a `shape` dropout keeps, bool [B, *shape], each with probability 1 - p."""
    place = torch.zeros((), dtype=torch.int32, device=seeds.device)
    for axis, size in enumerate(shape):
        along = torch.arange(size, dtype=torch.int32, device=seeds.device).view(-1, *[1] * (len(shape) - axis - 1))
        place = place * STRIDE + along
    mixed = seeds.view(-1, *[1] * len(shape)) ^ (place * ODD + number * 7919)
    for factor in MIXERS:
        mixed = (mixed ^ (mixed >> 15)) * factor
    return ((mixed ^ (mixed >> 16)) & 0x7FFFFFFF) >= int(p * 2**31)


def initialise(module: nn.Module) -> None:
    """As Devlin et al.: normal with standard deviation 0.02, biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def vocabulary_bytes(vocabulary: str) -> bytes:
    """A vocabulary as its buffer has it."""
    return vocabulary.encode()


def vocabulary_from(buffer: Tensor) -> str:
    """The vocabulary in a buffer uint8 [n]."""
    return bytes(buffer.cpu().numpy()).decode()


STRIDE = 4_099  # more than any axis has places
ODD, MIXERS = -1_640_531_535, (-2_048_144_789, -1_028_477_387)  # of int32: the golden ratio, and MurmurHash3's factors
ROWS = 32  # that pass together on a CPU
VOCABULARY = "backbone.vocabulary"  # where a checkpoint has it
BERTS: dict[str, Shape] = {
    "minilm": Shape(words=30_522, width=384, depth=6, heads=12, hidden=1536),
    "bert-mini": Shape(words=8_000, width=256, depth=4, heads=4, hidden=1024, positions=128),
}
