"""Distillation: what is refused, because any number that came of it would be taken for a loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from sftspec.properties import must, number_or_nan, should, takes
from sftspec.properties.cases.distillation import ASYMMETRIC, Case, cases


def answer(loss: Callable, case: Case, **options: Any) -> float:
    """The loss; NaN if it is refused."""
    return number_or_nan(lambda: loss(*case.tensors(), **options).detach())


@must(
    seam="distillation_loss",
    laws="KD-MASK",
    floor=20,
    given={"case": cases("random"), "alpha": st.sampled_from([0.0, 0.25, 0.5]), "off": st.integers(0, 5)},
    examples=[{"case": ASYMMETRIC, "alpha": 0.5, "off": 0}],
)
def a_label_that_is_no_token_is_refused(loss, case, alpha, off):
    """A label that is neither a token nor -100 is refused, or gives NaN, where the cross-entropy reads it.

    Ignored, an end-of-turn token that was added after the model was made is silently not trained; -1 counted from the
    end is another token.
    """
    b, t = case.rows[0]
    for label in (case.vocabulary + off, -1 - off):
        labels = [list(row) for row in case.labels]
        labels[b][t + 1] = label
        seen = answer(loss, Case(case.student, case.teacher, labels), temperature=2.0, alpha=alpha)
        yield (labels, label), math.isnan(seen), f"label {label} of {case.vocabulary} tokens gives {seen!r}"


def out_of_range(vocabulary: int) -> list[dict[str, Any]]:
    return [
        *({"temperature": value} for value in (0.0, -1.0, math.inf, math.nan)),
        *({"alpha": value} for value in (-0.25, 1.25, math.nan)),
        *({"divergence": "jsd", "beta": value} for value in (-0.25, 1.25, math.nan)),
        *({"top_k": value} for value in (0, vocabulary + 1)),
        *({"vocab_size": value} for value in (0, vocabulary + 1)),
    ]


@should(
    seam="distillation_loss",
    laws="KD-MIX",
    floor=40,
    given={"case": cases("random")},
    examples=[{"case": ASYMMETRIC}],
)
def an_option_out_of_range_is_refused(loss, case):
    """A temperature, alpha, beta, top_k or vocab_size that is out of its range is refused, or gives NaN.

    T is positive and finite, alpha and beta are in [0, 1], top_k and vocab_size from 1 to the vocabulary.
    A setting in percent, a 0 that was to mean "off", a vocabulary of another model: alpha = 1.25 trains away from the
    label, and a slice is cut to what there is without a word.
    """
    for option in out_of_range(case.vocabulary):
        if all(takes(loss, name) for name in option):
            seen = answer(loss, case, **{"temperature": 2.0, "alpha": 0.5, **option})
            yield (case, option), math.isnan(seen), f"{option} gives {seen!r}"
