"""Tokens -> two views of the same sentences, on the device of the tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.contract import GLOBAL, Inputs, View
from sparsehead_cli.data.text import TextSpec

Draw = Callable[..., Tensor]  # shape of a row -> uniforms [B, *shape] of this process's rows
DELETED = 0.3  # of the words
KEPT = 0.5  # of the words, at least, that a crop has


@dataclass(frozen=True)
class TextViews:
    """Two views of a kind of TEXT_VIEWS; a `Views` of the contract. Each row of a view has a seed for the dropout of an encoder.

    The sentences may be one of several equal parts of a batch, `part` = (number from 0, of how many): they get the views that they
    have in the whole batch.
    """

    kind: str
    spec: TextSpec
    part: tuple[int, int] = (0, 1)
    roles = (GLOBAL, GLOBAL)

    def __call__(self, inputs: Inputs, generator: torch.Generator) -> list[View]:
        number, of = self.part
        rows, device = len(inputs["input_ids"]), inputs["input_ids"].device

        def draw(*shape: int) -> Tensor:
            return torch.rand(of, rows, *shape, generator=generator)[number].to(device, non_blocking=True)

        made = TEXT_VIEWS[self.kind](inputs, self.spec.others, draw)
        seeds = [(draw() * 2**31).to(torch.int64).clamp(max=2**31 - 1).to(torch.int32) for _ in made]
        return [View(self.plain(one) | {"seed": seed}) for one, seed in zip(made, seeds, strict=True)]

    def plain(self, inputs: Inputs) -> Inputs:
        """What an encoder reads of the tokens as they are, as they are measured."""
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def read(self, seed: int, step: int, first: int) -> None:
        """Nothing is done where sentences are read."""
        return


def dropout(inputs: Inputs, others: tuple[str, ...], draw: Draw) -> list[Inputs]:
    """The sentence twice: only the encoder's dropout differs. Source: Gao et al. 2021 (SimCSE)."""
    return [inputs, inputs]


def deletion(inputs: Inputs, others: tuple[str, ...], draw: Draw) -> list[Inputs]:
    """Twice, without three words of ten; one is always left. Source: Wu et al. 2020 (CLEAR)."""
    return [without(inputs, draw(int(inputs["word"].shape[1])) < DELETED) for _ in range(2)]


def crop(inputs: Inputs, others: tuple[str, ...], draw: Draw) -> list[Inputs]:
    """Twice, a stretch of at least half of the words."""
    return [without(inputs, ~stretch(inputs["word"], draw(2))) for _ in range(2)]


def pairs(inputs: Inputs, others: tuple[str, ...], draw: Draw) -> list[Inputs]:
    """The sentence, and another wording of it, drawn from those that it has; where it has none, itself."""
    wordings = [{name: inputs[f"{other}.{name}"] for name in ("input_ids", "attention_mask")} for other in others]
    width = max([inputs["input_ids"].shape[1], *(one["input_ids"].shape[1] for one in wordings)])
    choices = [widened(one, width) for one in ({n: inputs[n] for n in ("input_ids", "attention_mask")}, *wordings)]
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


TEXT_VIEWS = {"dropout": dropout, "deletion": deletion, "crop": crop, "pairs": pairs}
