"""What came of a kernel in one way of using it: it passes, it fails, or it is not measured and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor


class AbsentError(RuntimeError):
    """A kernel that this machine does not have, or that has not this way; says why."""


@dataclass(frozen=True)
class Outcome:
    """kernel, way: which kernel, used how. status: "pass", "fail" or "not-measured".

    reason   what failed, or why nothing was measured
    figures  relative errors, what rounding explains, seconds, MB
    """

    kernel: str
    way: str
    dtype: str
    status: str
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a kernel failed in, its figures, and what was left out."""

    failures: list[str]
    figures: dict[str, float]
    reason: str = ""


def measured(kernel: str, way: str, dtype: torch.dtype, run: Callable[[], Found]) -> Outcome:
    """The outcome of a run. What a kernel refuses was not measured, whatever it, or its compiler, raises."""
    name = str(dtype).removeprefix("torch.")
    try:
        found = run()
    except (AbsentError, ImportError, NotImplementedError) as error:
        return Outcome(kernel, way, name, "not-measured", said(error))
    except Exception as error:
        return Outcome(kernel, way, name, "not-measured", f"it refuses: {said(error)}")
    status, reason = ("fail", "; ".join(found.failures)) if found.failures else ("pass", found.reason)
    return Outcome(kernel, way, name, status, reason, found.figures)


def outcomes(
    kernels: Mapping[str, Any], ways: Mapping[str, Any], dtypes: Sequence[torch.dtype], judge: Callable[..., Found]
) -> Iterator[Outcome]:
    """The outcome of each kernel in each way and dtype.

    judge: (kernel, way, dtype) -> what was found
    """
    for name, kernel in kernels.items():
        for way, how in ways.items():
            for dtype in dtypes:
                yield measured(name, way, dtype, partial(judge, kernel, how, dtype))


def said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def distance(found: Iterable[Tensor], exact: Iterable[Tensor]) -> list[float]:
    """||found - exact|| / ||exact|| of each pair of tensors, in float64. Infinite where an entry is not finite."""
    pairs = (
        (one.detach().double().cpu(), other.detach().double().cpu()) for one, other in zip(found, exact, strict=True)
    )
    return [float((a - b).norm() / b.norm()) if a.isfinite().all() else float("inf") for a, b in pairs]


def beyond(
    names: Iterable[str], errors: Iterable[float], own: Iterable[float], dtype: torch.dtype, terms: int
) -> list[str]:
    """What is further from float64 than BOUND-SELF explains: four times the largest error that the plain way makes of
    these in that dtype, four roundings, and those of a sum of so many terms in another order, which is made in float32
    at least (Higham and Mary 2019, theorem 2.4).
    """
    bound = 4 * max(own) + 4 * torch.finfo(dtype).eps / 2 + math.sqrt(terms) * 2.0**-24
    return [
        f"{name} differs by {error:.2e}, {bound:.2e} is rounding"
        for name, error in zip(names, errors, strict=True)
        if not error <= bound
    ]
