"""What experiments.yaml says of its entries beside their settings: the comment above each. Imports no torch."""

import re
from pathlib import Path

from sparsehead_cli.machine.plain import read_text

ENTRY = re.compile(r"^(\"[^\"]+\"|'[^']+'|[^\s#:'\"][^:#]*):")


def comments_in(path: Path) -> dict[str, str]:
    """name -> the comment right above it, without lines that are commands; "" for an entry without."""
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in read_text(path).splitlines():
        if line.startswith("#"):
            above.append(line.lstrip("#- ").rstrip())
            continue
        if entry := ENTRY.match(line):
            text = " ".join(part for part in above if not part.startswith(("sparsehead ", "torchrun ")))
            comments[entry[1].strip("'\"")] = text
        above = []
    return comments
