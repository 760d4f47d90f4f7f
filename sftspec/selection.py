"""Best-of-N selection: of the N completions of a prompt, the one with the largest reward.

The rule. Per prompt, the candidates are ordered by three keys, and nothing else decides:

  1. a candidate that has a reward stands before one that has none (NaN, None, or a completion that is missing);
  2. a larger reward stands before a smaller one, as IEEE 754 orders them: -inf < finite < +inf, and -0.0 ties with 0.0;
  3. of equal rewards the candidate that was sampled first.

Selection is per prompt (no statistic over prompts enters), and on the raw reward: a sigmoid maps 18, 20 and 25 to the
same float32, bfloat16 maps 256 and 257 to the same number, and both turn the winner into a tie.

Why selectors get it wrong: `argmax`, `topk` and `sort` of NumPy and PyTorch order NaN above every number, so the one
candidate whose scoring broke is trained on; Python's `max` keeps a NaN only where it comes first, so the winner depends
on the order. A NaN multiplied by a mask stays NaN. Replacing NaN by -inf lets it tie with a true -inf.

Sources: Llama-2 §3.2.3 (rejection sampling, arXiv 2307.09288); laws BN-ARGMAX, BN-TIE, BN-NAN, BN-TOPK.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from sftspec.counted import counted

UNRANKED = -1
"""The index that stands where no candidate with a reward is left (only with on_unranked="skip")."""


def best_of_n(rewards: Any, on_unranked: Literal["error", "skip"] = "error") -> Any:
    """The index of the winner of each prompt.

    rewards       (P, N) array, tensor or nested lists, one row per prompt: rows may differ in length, None and NaN mean
                  that a candidate has no reward. Or (N,), the candidates of a single prompt
    on_unranked   what to do with a prompt that has no reward at all: "error", or "skip": its index is UNRANKED (-1), so
                  that the number of skipped prompts is `(winners == UNRANKED).sum()`

    Returns int64 indices of shape (P,), or () for a single prompt: a tensor for a tensor, otherwise NumPy.
    Raises ValueError for an unranked prompt (by default), and for rewards that are not numbers in 1 or 2 dimensions.

    >>> best_of_n([[0.5, float("nan"), 2.0], [1.0, 1.0, None]]).tolist()
    [2, 0]
    """
    return top_k(rewards, 1, on_unranked)[..., 0][()]


def top_k(rewards: Any, k: int, on_unranked: Literal["error", "skip"] = "error") -> Any:
    """The indices of the k best candidates of each prompt, best first: (P, k), or (k,) for a single prompt.

    Ties, missing rewards, types and errors as in `best_of_n`; with on_unranked="skip" a prompt that has fewer than k
    rewards is filled up with UNRANKED.

    >>> top_k([3.0, 1.0, 3.0, 2.0], 3).tolist()
    [0, 2, 3]
    """
    if on_unranked not in ("error", "skip"):
        raise ValueError(f"on_unranked is 'error' or 'skip', not {on_unranked!r}")
    values = reward_table(rewards)
    table = np.atleast_2d(values)
    if not 1 <= k <= table.shape[1]:
        raise ValueError(f"k = {k} of {counted(table.shape[1], 'candidate')} of a prompt: choose 1 <= k <= candidates")
    best = ranking(table)[:, :k]
    # BN-NAN: what has no reward ranks last, and is never handed out as a winner.
    ranked = np.take_along_axis(has_reward(table), best, axis=1)
    if on_unranked == "error" and not ranked.all():
        short = np.flatnonzero(~ranked.all(axis=1)).tolist()
        raise ValueError(
            f"fewer than {counted(k, 'reward')} for {len(short)} of {counted(len(table), 'prompt')}"
            f" (prompts {short[:8]}): drop them, or pass on_unranked='skip' and count the indices that equal {UNRANKED}"
        )
    best = np.where(ranked, best, UNRANKED).reshape(*values.shape[:-1], k)
    return torch.as_tensor(best, device=rewards.device) if isinstance(rewards, torch.Tensor) else best


def ranking(table: np.ndarray) -> np.ndarray:
    """All N candidates of each row of `table` (P, N), best first, in the order that the module declares.

    >>> ranking(np.array([[2.0, np.nan, 5.0, 2.0, -np.inf]])).tolist()
    [[2, 0, 3, 4, 1]]
    """
    # A stable ascending sort of the mirrored row, read backwards: the first of equals comes first without negating a
    # reward (the smallest integer has no negative), and NaN cannot tie with -inf: validity is a key of its own.
    mirrored = table[:, ::-1]
    ranked = has_reward(mirrored)
    ascending = np.lexsort((np.where(ranked, mirrored, False), ranked), axis=-1)
    # BN-TIE: read backwards, the mirrored row gives the first of equals first.
    return (table.shape[1] - 1 - ascending)[:, ::-1].astype(np.int64)


def has_reward(table: np.ndarray) -> np.ndarray:
    """Where a reward stands: NaN is what does not equal itself, in an array of any type.

    >>> has_reward(np.array([1.0, np.nan]))
    array([ True, False])
    """
    return table == table


def reward_table(rewards: Any) -> np.ndarray:
    """Rewards as one array (P, N) or (N,), NaN where a candidate has none, and every other number the one given.

    Lists that hold more than floats become an array of Python's numbers: an integer and a float compare exactly, and
    no type that one prompt needs rounds another's.

    >>> reward_table([[1.0], [2.0, 3.0]]).tolist()
    [[1.0, nan], [2.0, 3.0]]
    """
    if isinstance(rewards, torch.Tensor):
        rewards = rewards.detach().cpu()
        # BN-ARGMAX: the rewards as they are. Types only widen, so that no two become equal.
        values = (rewards.double() if rewards.is_floating_point() else rewards).numpy()
    elif _is_row(rewards) and getattr(rewards, "dtype", "O") == "O":
        values = _listed(rewards)
    else:
        values = np.asarray(rewards)
    if values.dtype.kind not in "biufO" or values.ndim not in (1, 2) or values.shape[-1] == 0:
        raise ValueError(
            f"rewards of shape {values.shape} and type {values.dtype}: expected numbers, (prompts, candidates) or"
            " (candidates,) with at least one candidate"
        )
    return values


def _is_row(rewards: Any) -> bool:
    return isinstance(rewards, Iterable) and getattr(rewards, "ndim", 1) > 0


def _listed(rewards: Iterable) -> np.ndarray:
    """Rows filled up to one length with NaN (a completion that is missing has no reward), or a single row."""
    rows = list(rewards)
    nested = all(map(_is_row, rows))
    table = [[_number(reward) for reward in row] for row in (rows if nested else [rows])]
    width = max(map(len, table), default=0)
    # A completion that is missing has no reward: a row is filled up, never cut.
    filled = [row + [math.nan] * (width - len(row)) for row in table]
    types = {type(reward) for row in filled for reward in row}
    values = np.array(filled, dtype=float if types <= {float} else object)
    return values if nested else values[0]


def _number(reward: Any) -> Real:
    number = math.nan if reward is None else reward.item() if hasattr(reward, "item") else reward
    if not isinstance(number, Real):
        raise ValueError(f"a reward is {number!r:.60}: expected a number, or None where there is none")
    return number
