"""What a recorder of any framework writes down: calls, gradients that came back, steps, and calls made again.

`jax_recorder` and `mlx_recorder` hear; this is their notebook, in numpy. Its records have the fields of `tap.Call`,
`tap.StepRecord` and `replay.Replay`, which the judge reads.
"""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sftspec.conformance.witness.array_file import as_stored
from sftspec.conformance.witness.asked import said_by
from sftspec.conformance.witness.provenance import Provenance
from sftspec.job import Job


class RecorderError(RuntimeError):
    """A trainer that cannot be heard as it was handed over; says what to do."""


@dataclass
class Heard:
    """What a trainer did with a job; the fields are those of `listening.Heard`."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    replays: list[dict[str, Any]] = field(default_factory=list)
    final: Mapping[str, np.ndarray] = field(default_factory=dict)
    unheard: str = ""
    saved: tuple[str, ...] = ()
    unread: str = ""
    head_name: str = ""
    reported: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""
    accepted: list[int] = field(default_factory=list)
    refused: int = 0
    ended: float = 0.0


class Notebook:
    """Calls and steps of one job, in the order in which they happened.

    given  parameters of job.model by name: training has to begin with these, bit for bit
    """

    def __init__(self, job: Job, provenance: Provenance, max_replays: int):
        self.provenance, self.max_replays, self.given = provenance, max_replays, job.model.stored
        self.calls: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.replays: list[dict[str, Any]] = []

    def call(
        self, hidden: Any, input_ids: Any, position_ids: Any, attention_mask: Any, arguments: Iterable[str]
    ) -> int:
        """Write down a call: hidden (B, T, H), input_ids (B, T). Returns its number."""
        ids = np.asarray(input_ids).astype(np.int64)
        where = np.arange(ids.shape[1])[None] if position_ids is None else np.asarray(position_ids).astype(np.int64)
        self.calls.append(
            {
                "index": len(self.calls),
                "step": len(self.steps),
                "rank": 0,
                "input_ids": ids,
                "position_ids": np.broadcast_to(where, ids.shape).copy(),
                "hidden": np.array(hidden),
                "attended": attended(attention_mask, ids),
                "arguments": tuple(sorted(arguments)),
                "gradient": None,
            }
        )
        return len(self.calls) - 1

    def gradient(self, number: int, gradient: Any) -> None:
        """dL/dhidden of a call; several backward passes add up."""
        before = self.calls[number]["gradient"]
        self.calls[number]["gradient"] = np.array(gradient) if before is None else before + np.asarray(gradient)

    def step(self, learning_rate: Any, gradients: dict, before: dict, after: dict | None = None) -> None:
        """Write down an optimizer step, by job.model's names. Without `after` it ends where the next one begins."""
        if not self.steps:
            require_same_weights(before, self.given)
        self._ends_with(before)
        frozen = tuple(name for name in before if name not in gradients)
        self.steps.append(
            {
                "learning_rate": as_written(learning_rate),
                "gradients": gradients,
                "before": before,
                "after": after,
                "frozen": frozen,
            }
        )

    def _ends_with(self, parameters: dict) -> None:
        if self.steps and self.steps[-1]["after"] is None:
            self.steps[-1]["after"] = parameters

    def again(self, number: int, hidden_of: Callable[[np.ndarray], np.ndarray]) -> None:
        """Make a call again with other tokens (`replay.with_other_tokens`). hidden_of: (B, T) ids -> (B, T, H)."""
        ids = self.calls[number]["input_ids"]
        same, other = hidden_of(ids), substituted(self.provenance, ids)
        for changed in self.provenance.perturbations(self.provenance.resolve(ids.tolist())):
            mask = np.array(changed)
            if mask.any():
                moved = (hidden_of(np.where(mask, other, ids)) != same).any(-1)
                self.replays.append({"call": number, "changed": mask, "moved": moved})

    def heard(self, final: dict | None) -> Heard:
        """All of it. final: the parameters as the trainer left them; None: it did not say, and made no step."""
        if final is not None:
            self._ends_with(final)
        return Heard(self.calls, self.steps, self.replays, final or self.given)


def listen(recorder: Any, trainer: Any, job: Job, seed: int) -> Heard:
    """Let a trainer do a job while a recorder listens: a context manager with `heard()`, said when it is over."""
    random.seed(seed), np.random.seed(seed % 2**32)
    given = replace(job, conversations=copy.deepcopy(job.conversations), tokenizer=copy.deepcopy(job.tokenizer))
    error, told = "", ""
    with recorder:
        try:
            trainer.train(recorder.give(given))
            heard = recorder.heard()
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error, told = said_by(raised), traceback.format_exc()
            heard = Heard(final=job.model.stored)
    heard.error, heard.traceback, heard.head_name = error, told, job.model.head_name
    heard.reported = job.reported
    heard.reported["bytes_in_workdir"] = sum(
        item.stat().st_size
        for item in job.workdir.rglob("*")
        if item != job.path and item.is_file() and not set(job.handover.folders).intersection(item.parents)
    )
    return heard


def as_written(number: Any) -> float:
    """A number of Python's as it is; one that an array holds in float32 as the shortest decimal that gives it."""
    return number if isinstance(number, float) else float(str(np.float32(number)))


def attended(mask: Any, input_ids: np.ndarray) -> np.ndarray:
    """(B, T) bool: what some other position may read; all, if no mask was given."""
    if mask is None:
        return np.ones(input_ids.shape, bool)
    mask = np.asarray(mask)
    mask = mask if mask.dtype == bool or mask.shape == input_ids.shape else mask == 0  # added to scores: 0 is seen
    if mask.shape == input_ids.shape:
        return mask != 0
    if mask.ndim > 2 and mask.shape[-2:] == input_ids.shape[-1:] * 2:
        seen = mask if mask.ndim == 3 else mask.any(1)
        return np.broadcast_to((seen & ~np.eye(seen.shape[-1], dtype=bool)).any(-2), input_ids.shape).copy()
    return np.ones(input_ids.shape, bool)


def substituted(provenance: Provenance, input_ids: np.ndarray) -> np.ndarray:
    """Each letter replaced by the next of the alphabet; every other token by the alphabet's first letter."""
    other = np.full_like(input_ids, provenance.alphabet[0])
    for token, replacement in provenance.next_letter.items():
        other[input_ids == token] = replacement
    return other


def require_same_weights(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Raise RecorderError unless training begins with the weights of job.model, bit for bit."""
    for name, item in given.items():
        if name not in own:
            raise RecorderError(f"weights() gives no {name}: it gives {', '.join(sorted(own)[:4])} …")
        mine = as_stored(own[name])
        if mine.shape != item.shape:
            raise RecorderError(f"weights() gives {name} the shape {mine.shape}; job.model has {item.shape}")
        if mine.dtype == item.dtype and mine.tobytes() != item.tobytes():
            raise RecorderError(f"training does not begin with job.model's {name}: load its weights, check weights()")
