"""Batches of logits and labels for the properties that read the loss, and the roundings that a loss may differ by.

Logits are drawn by seed, so that hypothesis shrinks shapes and not floats. Drawn vocabularies stay at 64 or below: the
worst-case bound grows with V and would let mistakes through at 32,000 (BOUND-LOSS).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from sftspec.step import IGNORE

ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Types of logits, and the type that their loss is computed in (law ST-UPCAST).
REDUCED_IN = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


@dataclass(frozen=True)
class Problem:
    """logits (B, T, V) and labels (B, T) of one loss; labels are aligned with ids, -100 ignored."""

    logits: Tensor
    labels: Tensor

    def leaf(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.logits.to(dtype).detach().clone().requires_grad_(True)

    @property
    def scored(self) -> list[tuple[int, int]]:
        """(row, position) of the logits that are scored."""
        return [
            (b, t) for b, row in enumerate(self.labels.tolist()) for t, label in enumerate(row[1:]) if label != IGNORE
        ]

    def target(self, place: tuple[int, int]) -> int:
        return int(self.labels[place[0], place[1] + 1])

    def losses(self) -> list[float]:
        """The loss of each target by hand: exact sums (math.fsum) of plain floats, no tensor library."""
        result, logits, labels = [], self.logits.double().tolist(), self.labels.tolist()
        for b, t in self.scored:
            row = logits[b][t]
            top = max(row)
            result.append(top + math.log(math.fsum(math.exp(z - top) for z in row)) - row[labels[b][t + 1]])
        return result

    def pulls(self) -> dict[tuple[int, int], list[float]]:
        """softmax(z) - onehot(y) of each target by hand: the gradient of its own loss."""
        result = {}
        for place in self.scored:
            row = self.logits[place].tolist()
            top = max(row)
            total = math.fsum(math.exp(z - top) for z in row)
            result[place] = [math.exp(z - top) / total for z in row]
            result[place][self.target(place)] -= 1
        return result

    @property
    def largest(self) -> float:
        return float(self.logits.abs().max())


def make_problem(seed: int, batch: int, length: int, vocabulary: int, scale: float, share: float) -> Problem:
    """At least one target; logits uniform in [-scale, scale]; about `share` of the labels are targets."""
    draw = random.Random(seed)
    logits = torch.tensor(
        [[[draw.uniform(-scale, scale) for _ in range(vocabulary)] for _ in range(length)] for _ in range(batch)],
        dtype=torch.float64,
    )
    labels = torch.tensor(
        [[draw.randrange(vocabulary) if draw.random() < share else IGNORE for _ in range(length)] for _ in range(batch)]
    )
    labels[draw.randrange(batch), draw.randrange(1, length)] = draw.randrange(vocabulary)
    return Problem(logits, labels)


def logits_like(problem: Problem, seed: int, scale: float) -> torch.Tensor:
    """Other logits of the same shape."""
    batch, length, vocabulary = problem.logits.shape
    return make_problem(seed, batch, length, vocabulary, scale, 1.0).logits


problems = st.builds(
    make_problem,
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(2, 9),
    st.integers(2, 64),
    st.sampled_from([0.0, 1.0, 10.0, 1000.0]),
    st.sampled_from([0.2, 0.6, 1.0]),
)
mild_problems = st.builds(
    make_problem,
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(2, 16),
    st.just(5.0),
    st.sampled_from([0.3, 0.8]),
)

# One target in the first row and many in the second: a mean of row means is not the token mean (trap H6).
UNEQUAL = Problem(
    make_problem(7, 2, 9, 11, 3.0, 1.0).logits,
    torch.tensor([[-100, 4] + [-100] * 7, [1, 2, 3, 4, 5, 6, 7, 8, 9]]),
)
# More targets than twice what a fused kernel takes at a time (1,024 to 4,096), or more columns than a block of them has
# (1,024), and no multiple of it: the last chunk may be lost, and what comes after the second.
LONG = make_problem(5, 2, 4200, 2, 3.0, 1.0)
BROAD = make_problem(6, 1, 4, 1100, 3.0, 1.0)
# A label on the first token (nothing precedes it), none on the last.
FIRST_LABELLED = Problem(make_problem(3, 1, 4, 5, 2.0, 1.0).logits, torch.tensor([[2, 3, -100, -100]]))


def loss_bound(problem: Problem, dtype: torch.dtype = torch.float64) -> float:
    """Largest error of the mean cross-entropy by rounding (BOUND-LOSS)."""
    vocabulary, count, largest = problem.logits.shape[-1], len(problem.scored), problem.largest
    log = math.log(vocabulary)
    return ROUNDOFF[dtype] * (vocabulary + 4 + 5 * log + 3 * largest + count * (2 * largest + log))


def gradient_bound(problem: Problem, dtype: torch.dtype = torch.float64) -> float:
    """Largest error of an entry of dL/dlogits by rounding (BOUND-GRAD), and one division more."""
    vocabulary, count, largest = problem.logits.shape[-1], len(problem.scored), problem.largest
    return ROUNDOFF[dtype] / count * (vocabulary + 8.4 + 4 * math.log(vocabulary) + largest)


def stored_bound(problem: Problem, dtype: torch.dtype, factor: float, roundings: int = 1) -> float:
    """Largest error of factor * (softmax - onehot), computed in float32 at least and kept in the logits' type
    (BOUND-LOW).

    In 16 bits each rounding is one of a number that is at most `factor`, or of one that is below the least normal.
    """
    reduced = REDUCED_IN[dtype]
    computed = 2 * factor * len(problem.scored) * gradient_bound(problem, reduced)
    return computed + (roundings * (ROUNDOFF[dtype] * factor + torch.finfo(dtype).tiny) if dtype != reduced else 0.0)


class Example(NamedTuple):
    """Ids and labels of one example."""

    input_ids: list[int]
    labels: list[int]


class FirstAndLast(torch.nn.Module):
    """A language model of one table: the logits of the next token are the row of the last token and that of its
    example's first, through two dropouts and a product with the identity, which is exact where nothing is cast."""

    def __init__(self, vocabulary: int, seed: int, dropout: float, dtype: torch.dtype = torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(
            torch.randn(vocabulary, vocabulary, generator=generator, dtype=torch.float64).to(dtype)
        )
        self.register_buffer("identity", torch.eye(vocabulary, dtype=dtype))
        self.dropouts = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.Dropout(dropout))

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **_) -> SimpleNamespace:
        places = torch.arange(input_ids.shape[1])
        starts = torch.zeros_like(input_ids) if position_ids is None else places - position_ids
        rows = self.table[input_ids] + self.table[input_ids.gather(1, starts)]
        return SimpleNamespace(logits=self.dropouts(rows) @ self.identity)
