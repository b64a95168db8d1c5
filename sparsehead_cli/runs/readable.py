"""Numbers as people read them: what is not defined (empty in the CSV, NaN in memory) is "–", never 0, nan or -0.0."""

import math

UNDEFINED = "–"


def number(value: object) -> float:
    """A cell of a row, as text or as what it was before it was written, as a number; NaN where it is not defined."""
    return math.nan if value is None or value == "" else float(value)


def readable(value: object, digits: int, scale: float = 1, suffix: str = "", sign: str = "") -> str:
    """scale · value with so many digits and its suffix; "–" for what is not defined. `sign` is "+" for differences."""
    scaled = scale * number(value)
    return UNDEFINED if math.isnan(scaled) else f"{scaled:{sign}z.{digits}f}{suffix}"


def share(part: object, whole: object) -> float:
    """part / whole of two counts; NaN where one is not defined or there is nothing to have a part of."""
    parts, wholes = number(part), number(whole)
    return parts / wholes if wholes else math.nan


def counted(number: float, name: str) -> str:
    """A number of things: "1 epoch", "2.5 epochs"."""
    return f"{number:g} {name}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A number of seconds as people say it: 80 s, 5 minutes, 2.5 hours, 3.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"
