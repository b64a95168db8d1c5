"""Sentences for tests: a small table of real glosses, and an encoder so small that it trains in a fraction of a second."""

import collections

from sparsehead_cli.data.text import TEXT, read_wordnet
from sparsehead_cli.nets.bert import BERTS, Shape

SMALL = Shape(words=400, width=16, depth=2, heads=2, hidden=32, positions=128)
BERTS["bert-tiny"] = SMALL  # known wherever this is imported
TINY = {  # settings of a run on a table of these
    "backbone": "bert-tiny",
    "views": "dropout",
    "projector_hidden": 16,
    "projector_out": 8,
    "epochs": 2,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 1e-3,
    "precision": "float32",
}
CLASSES = ("noun.animal", "noun.food", "verb.motion")


def write_table(path, test=True, each=1_000):
    """A .tsv with at most `each` glosses of each of three classes of WordNet, and their split."""
    texts = read_wordnet()
    lines = ["sentence\tlabel\tsplit"]
    for train in (True, False) if test else (True,):
        written = collections.Counter()
        for gloss, label in zip(texts.columns[train][TEXT], texts.labels[train], strict=True):
            written[label] += 1
            if texts.classes[label] in CLASSES and written[label] <= each:
                lines.append(f"{gloss}\t{texts.classes[label]}\t{'train' if train else 'test'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
