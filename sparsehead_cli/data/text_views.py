"""Tokens -> two views of the same sentences, on the device of the tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.contract import GLOBAL, Inputs, View

Draw = Callable[..., Tensor]  # shape of a row -> uniforms [B, *shape] of this process's rows
DELETED = 0.3  # of the words
READ = ("input_ids", "attention_mask")  # by an encoder
KEPT = 0.5  # of the words, at least, that a span has


@dataclass(frozen=True)
class PlainTokens:
    """Tokens as they are, as they are measured: what an encoder reads of them, without dropout."""

    def __call__(self, inputs: Inputs) -> Inputs:
        return {name: inputs[name] for name in READ}

    def for_views(self, inputs: Inputs) -> Inputs:
        """What the views of a run are made of: all of it."""
        return inputs

    def example(self, device: torch.device) -> Inputs:
        """One sentence of one token, made up."""
        return {name: torch.ones(1, 1, dtype=torch.int32, device=device) for name in READ}


@dataclass(frozen=True)
class TextViews:
    """Two views of a kind of TEXT_VIEWS; a `Views` of the contract. Each row of a view has a seed for the dropout of an encoder.

    The sentences may be one of several equal parts of a batch, `part` = (number from 0, of how many): they get the views that they
    have in the whole batch.
    """

    kind: str
    part: tuple[int, int] = (0, 1)
    roles = (GLOBAL, GLOBAL)
    plain = PlainTokens()

    def __call__(self, inputs: Inputs, generator: torch.Generator) -> list[View]:
        number, of = self.part
        rows, device = len(inputs["input_ids"]), inputs["input_ids"].device

        def draw(*shape: int) -> Tensor:
            return torch.rand(of, rows, *shape, generator=generator)[number].to(device, non_blocking=True)

        made = TEXT_VIEWS[self.kind](inputs, draw)
        return [View({**self.plain(one), "seed": (draw() * 2**24).to(torch.int32)}) for one in made]

    def read(self, seed: int, step: int, first: int) -> None:
        """Nothing is done where sentences are read."""
        return


def dropout(inputs: Inputs, draw: Draw) -> list[Inputs]:
    """The sentence twice: only the encoder's dropout differs. Source: Gao et al. 2021 (SimCSE)."""
    return [inputs, inputs]


def deletion(inputs: Inputs, draw: Draw) -> list[Inputs]:
    """Twice, without three words of ten; one is always left. Source: Wu et al. 2020 (CLEAR)."""
    return [without(inputs, draw(int(inputs["word"].shape[1])) < DELETED) for _ in range(2)]


def span(inputs: Inputs, draw: Draw) -> list[Inputs]:
    """Twice, a stretch of at least half of the words."""
    return [without(inputs, ~stretch(inputs["word"], draw(2))) for _ in range(2)]


def pairs(inputs: Inputs, draw: Draw) -> list[Inputs]:
    """The sentence, and another wording of it, drawn from those that it has; where it has none, itself."""
    names = [name.removesuffix("input_ids") for name in inputs if name.endswith("input_ids")]  # "" and "example."
    width = max(inputs[f"{name}input_ids"].shape[1] for name in names)
    choices = [widened({column: inputs[name + column] for column in READ}, width) for name in names]
    there = torch.stack([one["attention_mask"].bool().any(dim=1) for one in choices], dim=1)
    there[:, 0] = ~there[:, 1:].any(dim=1)
    chosen = (draw(len(choices)) * there).argmax(dim=1)
    rows = torch.arange(len(chosen), device=chosen.device)
    other = {name: torch.stack([one[name] for one in choices], dim=1)[rows, chosen] for name in choices[0]}
    return [choices[0], other]


def without(inputs: Inputs, dropped: Tensor) -> Inputs:
    """Tokens [B, T] without the words in `dropped`, bool [B, T] by the number of the word; the rest moves together."""
    words = inputs["word"].long()
    gone = dropped.gather(1, words.clamp(min=0)) & (words >= 0)
    alone = (gone | (words < 0)).all(dim=1, keepdim=True)
    kept = inputs["attention_mask"].bool() & ~(gone & ~alone)
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    return {"input_ids": inputs["input_ids"].gather(1, order), "attention_mask": kept.to(torch.uint8).gather(1, order)}


def stretch(words: Tensor, at: Tensor) -> Tensor:
    """Which words, by number [B, T], are in a stretch whose length and begin the uniforms [B, 2] say."""
    count = words.max(dim=1, keepdim=True).values + 1
    length = (count * (KEPT + (1 - KEPT) * at[:, :1])).ceil()
    begin = ((count - length + 1) * at[:, 1:]).floor()
    number = torch.arange(words.shape[1], device=words.device)
    return (number >= begin) & (number < begin + length)


def widened(tokens: Inputs, width: int) -> Inputs:
    """Tokens with padding up to a width."""
    return {name: torch.nn.functional.pad(table, (0, width - table.shape[1])) for name, table in tokens.items()}


TEXT_VIEWS = {"dropout": dropout, "deletion": deletion, "span": span, "pairs": pairs}
