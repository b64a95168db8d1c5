"""Makes wordnet10k.tsv.gz from the data files of WordNet 3.0, byte for byte reproducibly.

    apt-get install wordnet-base
    python -m sparsehead_cli.data.wordnet10k /usr/share/wordnet

12,000 glosses, 10,000 to train on and 2,000 to test on, no gloss twice. Their classes are WordNet's 45 lexicographer files, as
evenly as these allow: of each as many as of every other, or all that there are; a sixth of each is the test part. Drawn with
numpy's PCG64(0). Beside a gloss stand the words of its synset, its first example sentence and the gloss of its first hypernym, ""
where there is none: what means the same in other words. WordNet's licence is in wordnet10k.LICENSE.
"""

import gzip
import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

OUT = Path(__file__).with_name("wordnet10k.tsv.gz")
TRAIN, TEST = 10_000, 2_000
FILES = ("noun", "verb", "adj", "adv")
LEXICOGRAPHER_FILES = (  # lexnames(5WN), in the order of their numbers
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute", "noun.body"),
    *("noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group", "noun.location"),
    *("noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process"),
    *("noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change"),
    *("verb.cognition", "verb.communication", "verb.competition", "verb.consumption", "verb.contact", "verb.creation"),
    *(
        "verb.emotion",
        "verb.motion",
        "verb.perception",
        "verb.possession",
        "verb.social",
        "verb.stative",
        "verb.weather",
        "adj.ppl",
    ),
)
HYPERNYMS = ("@", "@i")  # of a synset, and of a single thing such as a park


class Synset(NamedTuple):
    """A line of a data file: the number of its lexicographer file, and texts."""

    lexicographer: int
    gloss: str
    words: str
    example: str
    hypernym: str  # its key


def read_synsets(path: Path, part: str) -> dict[str, Synset]:
    """Part of speech and offset -> synset, in the order of the file. Source: wndb(5WN)."""
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        data, _, text = line.partition(" | ")
        fields = data.split()
        count = int(fields[3], 16)
        words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
        pointers = fields[5 + 2 * count :]
        named = zip(pointers[::4], pointers[1::4], pointers[2::4], strict=False)
        hypernym = next((f"{pos}{offset}" for symbol, offset, pos in named if symbol in HYPERNYMS), "")
        definition, *examples = re.split(r';\s*(?=")', text.strip())
        example = examples[0].strip('" ') if examples else ""
        synsets[f"{part}{fields[0]}"] = Synset(int(fields[1]), definition.strip(" ;"), ", ".join(words), example, hypernym)
    return synsets


def fair_counts(available: list[int], wanted: int) -> list[int]:
    """How many to take of each class: the same of all, or all that there are, `wanted` together."""
    level = next(level for level in range(1, wanted + 1) if sum(min(count, level) for count in available) >= wanted)
    counts = [min(count, level) for count in available]
    over = sum(counts) - wanted
    for place in [i for i, count in enumerate(counts) if count == level][:over]:
        counts[place] -= 1
    return counts


def main(folder: Path) -> None:
    """Write wordnet10k.tsv.gz beside this script and print its SHA-256."""
    synsets: dict[str, Synset] = {}
    for name in FILES:
        synsets |= read_synsets(folder / f"data.{name}", {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}[name])
    by_class: dict[int, list[Synset]] = {number: [] for number in range(len(LEXICOGRAPHER_FILES))}
    seen: set[str] = set()
    for synset in synsets.values():
        if synset.gloss.lower() not in seen and len(synset.gloss.split()) > 1 and "\t" not in synset.gloss:
            seen.add(synset.gloss.lower())
            by_class[synset.lexicographer].append(synset)
    draw = np.random.Generator(np.random.PCG64(0))
    counts = fair_counts([len(of_class) for of_class in by_class.values()], TRAIN + TEST)
    tests = fair_counts([round(count / (1 + TRAIN / TEST)) + 1 for count in counts], TEST)
    rows: dict[str, list[tuple[str, ...]]] = {"train": [], "test": []}
    for (number, of_class), count, test in zip(by_class.items(), counts, tests, strict=True):
        chosen = [of_class[i] for i in draw.permutation(len(of_class))[:count]]
        for place, synset in enumerate(chosen):
            part = "test" if place < test else "train"
            above = synsets[synset.hypernym].gloss if synset.hypernym else ""
            rows[part].append((part, LEXICOGRAPHER_FILES[number], synset.gloss, synset.words, synset.example, above))
    lines = ["part\tclass\tgloss\twords\texample\thypernym"]
    for of_part in rows.values():
        lines += ["\t".join(of_part[i]) for i in draw.permutation(len(of_part))]
    text = ("\n".join(lines) + "\n").encode()
    OUT.write_bytes(gzip.compress(text, mtime=0))
    print(f"{hashlib.sha256(text).hexdigest()}  {OUT.stem}: {len(rows['train'])} and {len(rows['test'])} glosses")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
