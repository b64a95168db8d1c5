"""What numbers a setting may be: stated once, where the setting is, and said in the same words everywhere."""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparsehead_cli.errors import shown


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both among them, or between `above` and `below`, which are not.

    A bound may be the name of another setting. Of a list every number keeps to the bounds, `count` is how many it has, and
    `together` the most that they may add up to; where it is `rising`, none is less than the one before. `note` ends the sentence
    about a number that is out of range.
    """

    least: float | None = None
    above: float | None = None
    most: float | str | None = None
    below: float | None = None
    multiple: int | None = None
    count: int | None = None
    together: int | None = None
    rising: bool = False
    note: str = ""

    def problem(self, name: str, value: object, others: Mapping[str, object]) -> str:
        """A sentence where `value` is out of range, else ""; `others` are the settings that a bound may name."""
        if value is None or isinstance(value, bool | str) or not isinstance(value, int | float | tuple):
            return ""
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, int | float) for number in numbers):
            return ""
        if not all(math.isfinite(number) for number in numbers):
            return f"{name} must be finite, given {shown(value)}."
        most = others.get(self.most) if isinstance(self.most, str) else self.most
        wanted = self.count is None or len(numbers) == self.count
        if not (wanted and all(self.holds(number, most) for number in numbers)):
            several = f"{self.count or ''} numbers of ".lstrip() if isinstance(value, tuple) else ""
            return f"{name} must be {several}{self.words(most)}{self.note}, given {shown(value)}."
        if self.together is not None and sum(numbers) > self.together:
            return f"{name} must be {self.together} together at most, given {shown(value)}."
        if self.rising and list(numbers) != sorted(numbers):
            return f"{name} must not fall, given {shown(value)}."
        return ""

    def holds(self, number: float, most: float | None) -> bool:
        """Whether one number keeps to all bounds, of which `most` may have been another setting's name."""
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (most is None or number <= most)
            and (self.below is None or number < self.below)
            and (self.multiple is None or (number > 0 and number % self.multiple == 0))
        )

    def words(self, most: float | None) -> str:
        """The bounds in words, such as "between 1 and 8"."""
        if self.multiple is not None:
            return f"a multiple of {self.multiple}"
        upper = f"{self.most} ({most})" if isinstance(self.most, str) else most
        if self.least is not None and most is not None:
            return f"between {self.least} and {upper}"
        if self.least is not None and self.below is not None:
            return f"in [{self.least}, {self.below})"
        bounds = {"at least": self.least, "above": self.above, "at most": upper, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


UNBOUNDED = Range()


def keywords_of(function: Callable) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a function or a constructor, with annotations as values where they were written as text."""
    function = function.__init__ if isinstance(function, type) else function
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # somebody's annotation that names what is not there at run time
        signature = inspect.signature(function)
    return {name: p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def stated_range(annotation: object) -> tuple[object, Range]:
    """The type and the range that an annotation states: Annotated[float, Range(above=0)] gives float and that."""
    if typing.get_origin(annotation) is not typing.Annotated:
        return annotation, UNBOUNDED
    kind, *facts = typing.get_args(annotation)
    return kind, next((fact for fact in facts if isinstance(fact, Range)), UNBOUNDED)
