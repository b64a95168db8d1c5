"""A fact about somebody else's network that no shape shows, what it rests on, and how the column `assumed` of tables says it."""

from collections.abc import Iterable
from dataclasses import dataclass

GIVEN, READ, KNOWN, GUESSED = "given by you", "read off the file", "known of this layout", "guessed"


@dataclass(frozen=True)
class Assumption:
    """One fact that no shape shows: `key=value` as --assume takes it, and which of the four it rests on."""

    key: str
    value: str
    rests_on: str

    def __str__(self) -> str:
        return f"{self.key}={self.value} ({self.rests_on})"


def in_words(assumptions: Iterable[Assumption]) -> str:
    """Assumptions as the column `assumed` holds them."""
    return "; ".join(map(str, assumptions))


def guesses_in(assumed: str) -> list[str]:
    """`key=value` of those in a column `assumed` that are guessed."""
    return [part.removesuffix(f" ({GUESSED})") for part in assumed.split("; ") if part.endswith(f" ({GUESSED})")]
