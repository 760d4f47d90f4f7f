"""Numbers with 40 digits: the precision of all tables, and how a value is written down."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mpf

mpmath.mp.dps = 60


def digits(value: Any) -> Any:
    """40 significant digits, element by element of a nested list."""
    if isinstance(value, list):
        return [digits(item) for item in value]
    if isinstance(value, Fraction):
        value = mpf(value.numerator) / value.denominator
    return mpmath.nstr(mpf(value), 40, min_fixed=-30, max_fixed=30)
