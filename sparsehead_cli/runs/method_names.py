"""Methods by the names that people know, SimCLR for simclr.

A name stands with its method: it is the class's, or its `title`. Read off the source, so that a page waits for no torch.
"""

import re
from functools import cache
from pathlib import Path

ROOM = Path(__file__).parents[1] / "ssl"
ENTRY = re.compile(r'^    "(\w+)": (\w+),$', re.MULTILINE)
TITLE = re.compile(r'^class (\w+)\(.*\):\n(?:(?!class ).*\n)*?    title = "([^"]+)"$', re.MULTILINE)


def method_name(method: str) -> str:
    """What people call a method that tables have under this name; one that is not ours keeps it."""
    return method_names().get(method, method)


@cache
def method_names() -> dict[str, str]:
    """The names of METHODS -> what people call them."""
    titles = {name: title for path in ROOM.glob("*.py") for name, title in TITLE.findall(path.read_text(encoding="utf-8"))}
    _, _, table = (ROOM / "methods.py").read_text(encoding="utf-8").partition("\nMETHODS")
    return {method: titles.get(name, name) for method, name in ENTRY.findall(table)}
