"""Long products and sums of floats, with the rounding of every operation carried along.

The rule. The rounding error of one float64 product or sum is itself a float64 and can be computed exactly (Dekker 1971,
Knuth TAOCP 2, 4.2.2). Summed beside the result, the errors of a million operations cost one rounding at the end, on any
platform: no wider type is needed, which some do not have.

Sources: Ogita, Rump & Oishi 2005, Accurate sum and dot product, SIAM J. Sci. Comput. 26(6); Graillat 2009, Accurate
floating-point product and exponentiation, IEEE Trans. Comput. 58(7), algorithm 3.1. u = 2**-53 is a rounding.
"""

from __future__ import annotations

import numpy as np

_SCALE = 2.0**900  # products are kept in 2**-960 .. 2**900, where their rounding errors do not underflow
_BLOCK = 1 << 14  # what fits into a processor's cache


def ratio_products(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """(m,) products of the first k ratios over/under, k = 1..m, for whole numbers 0 < over <= under < 2**53.

    Each is within u (1 + 3 m**2 u) of its true value, relatively; below 2**-1022 it is rounded to what float64 has.

    Ratio k is q (1 + d) with q rounded and d its remainder, product k is p (1 + e) with p rounded and e the error of
    that product; so the true one is p exp(sum of log1p(d) + log1p(e)). Each term is at most u and has a relative error
    of u, log1p(x) - x is at most u**2, and the running sum of 2 m terms errs by at most m u times its 2 m u.

    >>> ratio_products(np.array([1.0, 1.0]), np.array([2.0, 4.0]))
    array([0.5  , 0.125])
    """
    products = np.zeros(len(over))
    last, drift = _SCALE, 0.0
    for start in range(0, len(over), _BLOCK):
        here = slice(start, start + _BLOCK)
        above, below = over[here], under[here]
        ratios = above / below
        whole = ratios * below
        remainders = (above - whole - product_errors(ratios, below, whole)) / above
        rounded = np.cumprod(np.concatenate(([last], ratios)))
        errors = product_errors(rounded[:-1], ratios, rounded[1:])
        drifts = remainders + np.divide(errors, rounded[1:], out=np.zeros(len(errors)), where=rounded[1:] > 1 / _SCALE)
        drifts = drift + np.cumsum(drifts)
        products[here] = (rounded[1:] + rounded[1:] * np.expm1(drifts)) / _SCALE
        last, drift = rounded[-1], drifts[-1]
        if last < 1 / _SCALE:
            break  # what follows is below 2**-1800
    return products


def product_errors(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """a * b - product, exactly, where `product` is a * b rounded (Dekker 1971).

    >>> a = np.array([1 + 2.0**-30])  # its square is 1 + 2**-29 + 2**-60, and the last does not fit
    >>> product_errors(a, a, a * a) * 2.0**60
    array([1.])
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return (a_high * b_high - product) + a_high * b_low + a_low * b_high + a_low * b_low


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two floats of 26 bits each whose sum is a (Veltkamp)."""
    spread = (2.0**27 + 1) * a
    high = spread - (spread - a)
    return high, a - high


def accurate_sum(terms: np.ndarray) -> float:
    """The sum of (m,) floats, within u |sum| + 2 (log2(m) + 1)**2 u**2 sum(|terms|): as if in twice the precision.

    Added in pairs, so log2(m) times, and the errors of the additions, each at most u |terms|, are added plainly.

    >>> accurate_sum(np.array([1e100, 1.0, -1e100]))
    1.0
    """
    total, errors = np.array(terms, dtype=np.float64), 0.0
    while len(total) > 1:
        half = len(total) // 2
        first, second, rest = total[:half], total[half : 2 * half], total[2 * half :]
        added = first + second
        shadow = added - first
        errors += float(np.sum((first - (added - shadow)) + (second - shadow)))
        total = np.concatenate((added, rest)) if len(rest) else added
    return float(total.sum()) + errors
