"""Numbers of tables as people read them: what is not defined (empty in the CSV, NaN in memory) is "–", never 0, nan or -0.0."""

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
