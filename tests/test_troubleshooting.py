"""docs/troubleshooting.md quotes what the code says: the fixed words of every message are there, in one text and in their order."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PART = "\0"  # in place of what differs each time


def text_of(node: ast.expr) -> str | None:
    """A literal text with PART for what is filled in; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else PART for part in node.values)
    return None


def texts_of(tree: ast.Module) -> list[str]:
    """Every literal text of a module but its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [text for node in ast.walk(tree) if id(node) not in docstrings and (text := text_of(node)) is not None]


TEXTS = [text for path in sorted((ROOT / "sparsehead_cli").rglob("*.py")) for text in texts_of(ast.parse(path.read_text()))]
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text().partition("## No message")[0], re.MULTILINE)


def has(text: str, message: str) -> bool:
    """Whether the words of a message between its … stand in a text, one behind the other."""
    place = 0
    for words in message.split("…"):
        place = text.find(words, place)
        if place < 0:
            return False
        place += len(words)
    return True


def test_every_line_begins_with_a_message():
    """Or else the page has lines that nobody compares."""
    lines = re.findall(r"^\| (?!what it says|---)", PAGE.read_text().partition("## No message")[0], re.MULTILINE)
    assert len(lines) == len(MESSAGES) >= 90
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_what_the_code_says(message):
    words = [part.strip(' .,:;()"') for part in message.split("…")]
    assert max(map(len, words)) >= 5, "too little of it is fixed to find it"
    assert any(has(text, message) for text in TEXTS), "no text of the code has these words"
