"""The reference as named functions, some of them broken: for the areas whose properties call functions and read no run.

A mutant's row shows what its bug touches and nothing else, because every other part is sftspec's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sftspec import encode, render
from sftspec.order_statistics import (
    best_of_n_kl_bound,
    best_of_n_law,
    expected_best_of_n,
    expected_gold,
    expected_max_normal,
    pass_at_n,
    win_rate,
)
from sftspec.rejection_sampling import rejection_sample
from sftspec.selection import best_of_n, top_k

REFERENCE: dict[str, dict[str, Callable[..., Any]]] = {
    "template": {"render": render, "encode": encode},
    "best_of_n": {
        "best_of_n": best_of_n,
        "top_k": top_k,
        "rejection_sample": rejection_sample,
        "expected_max_normal": expected_max_normal,
        "expected_best_of_n": expected_best_of_n,
        "expected_gold": expected_gold,
        "pass_at_n": pass_at_n,
        "best_of_n_law": best_of_n_law,
        "best_of_n_kl_bound": best_of_n_kl_bound,
        "win_rate": win_rate,
    },
}


@dataclass(frozen=True)
class Parts:
    """What the judge reads of a trainer that is no Pipeline.

    parts   the function behind each seam
    claims  the area that they belong to
    """

    parts: Mapping[str, Callable[..., Any]]
    claims: frozenset[str]
    name: str = "reference with a broken part"


def broken(area: str, **parts: Callable[..., Any]) -> Parts:
    """The functions of an area, with these instead of sftspec's."""
    unknown = parts.keys() - REFERENCE[area].keys()
    if unknown:
        raise ValueError(f"{area} has no function {', '.join(sorted(unknown))}; known: {', '.join(REFERENCE[area])}")
    return Parts(REFERENCE[area] | parts, frozenset({area}))
