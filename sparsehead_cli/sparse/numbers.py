"""Numbers as users give them: Python's, NumPy's, and tensors without dimensions."""

import math
import numbers


def plain_number(given: object) -> float | None:
    """`given` as a float; None for what is no finite real number, such as True, "0.1", NaN or a vector."""
    if getattr(given, "ndim", None) == 0 and hasattr(given, "item"):
        given = given.item()
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        return None
    try:
        number = float(given)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
