"""From gradients to the ledger.

At a position with hidden state h and gradient g = dL/dh, the head W gives the logits z = W h and u = dL/dz =
g pinv(W). For cross-entropy with weight w on target y, u = w (softmax(z) - onehot(y)). So u says whether the position
is trained (u is exactly zero where it is not), on which token (its one negative entry) and with which weight. Label
smoothing, u = w (p - (1 - e) onehot(y) - e / V), is recognised as what it is; whatever fits neither is `ambiguous`.

The weight that counts is the optimizer's: trainers scale gradients after backward, average them, clip them. So at each
optimizer step the head's gradient is compared with the sum of u (x) h over all positions of the step. Their ratio is
the step's `scale`; what no multiple of the sum explains is the `residual`: a lost micro-batch, a stale gradient, a
second path to the loss. Where the head is frozen (adapters), or is the embedding as well, all that trains is compared
with what the backward passes of the step gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sftspec.adapters import computing
from sftspec.conformance.witness.listening import Heard
from sftspec.conformance.witness.provenance import Origin, Provenance
from sftspec.conformance.witness.tap import Call
from sftspec.job import Job
from sftspec.properties.ledger.run import Forward, Replay, Row, Run, Step
from sftspec.squash import Squash, squash_of

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
MAX_CONDITION = 10.0
MAX_PROBABILITY = 0.99
MIN_MARGIN = 30.0


class WitnessError(RuntimeError):
    """The witness cannot be read: nothing is said about the trainer."""


def fit_bound(dtype: torch.dtype, vocabulary: int) -> float:
    """Largest relative residual of a fit that rounding alone explains.

    g = u W sums V products, g pinv(W) sums H >= V more; each sum of random signs grows as sqrt(V), and u is itself
    computed from rounded logits: 2 sqrt(V) + V/8 + 8 roundings, at the roundoff of the dtype for 16-bit floats (whose
    sums run in float32) without the V/8 term. Measured: 4e-7 to 1.4e-6 in float32, 3.5e-3 in bfloat16. (BOUND-READOFF)
    """
    roundoff = max(UNIT_ROUNDOFF[dtype], UNIT_ROUNDOFF[torch.float32])  # a loss may be reduced in float32
    if roundoff > 1e-4:
        return 8 * roundoff
    return (2 * vocabulary**0.5 + vocabulary / 8 + 8) * roundoff


PLAIN = Squash()


class Head:
    """An output head W (V, H) of full row rank, as it was when the model was called, and what undoes it.

    squash: what the model does with z = W h before they are its logits (`sftspec.squash`).

    Raises WitnessError if its condition number is over 10: then u cannot be told from g.
    """

    def __init__(self, weight: Tensor, squash: Squash = PLAIN):
        self.weight, self.squash = weight.double(), squash
        gram = self.weight @ self.weight.T
        # Gershgorin's discs bound the spectrum, tightly enough while the rows are nearly orthogonal.
        radius = gram.abs().sum(-1) - gram.diagonal().abs()
        least, most = float((gram.diagonal() - radius).min()), float((gram.diagonal() + radius).max())
        if least * MAX_CONDITION**2 < most:
            spectrum = torch.linalg.eigvalsh(gram)
            if float(spectrum[0]) * MAX_CONDITION**2 < float(spectrum[-1]):
                raise WitnessError("the output head was changed: its condition number is over 10")
        self.factor = torch.linalg.cholesky(gram)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V)."""
        return hidden.double() @ self.weight.T

    def undo(self, gradient: Tensor) -> Tensor:
        """u = g pinv(W): (N, H) -> (N, V), float64. pinv(W) = W^T (W W^T)^-1."""
        return torch.cholesky_solve(self.weight @ gradient.double().T, self.factor).T


@dataclass(frozen=True)
class Reading:
    """What u says.

    trained              (N,) bool: the gradient is not exactly zero
    u                    (n, V) of the n trained positions
    target, weight, nll  (N,): -1 and 0 where nothing is trained; nll in nats
    fit                  of each position; "" where nothing is trained
    """

    trained: Tensor
    u: Tensor
    target: Tensor
    weight: Tensor
    nll: Tensor
    fit: list[str]


def read_gradients(hidden: Tensor, gradient: Tensor, head: Head, bound: float, beside: bool = False) -> Reading:
    """Read N positions.

    Args:
        hidden, gradient: (N, H).
        bound: largest relative residual accepted as a fit.
        beside: another loss is declared beside the cross-entropy. Then what it alone moves is no target.
    """
    trained = (gradient != 0).any(-1)
    u = head.undo(gradient[trained])
    z = head.logits(hidden[trained])
    slope = head.squash.slope(z)
    logp = torch.log_softmax(head.squash(z), -1)
    probability = logp.exp()
    if len(u) and float(probability.max()) > MAX_PROBABILITY:
        raise WitnessError("the model is sure of a token (p > 0.99): p - onehot is too small to read; lower the rate")
    # A negative weight turns the sign around: its target is the one largest entry.
    at_logits = u / slope
    target = torch.where(at_logits.amax(-1) > -at_logits.amin(-1), at_logits.argmax(-1), at_logits.argmin(-1))
    onehot = torch.zeros_like(u).scatter_(-1, target[:, None], 1.0)
    direction = (probability - onehot) * slope
    weight = (u * direction).sum(-1) / direction.square().sum(-1)
    residual = (u - weight[:, None] * direction).norm(dim=-1) / u.norm(dim=-1).clamp_min(1e-300)
    # p_y is rounded as a number near 1 is, and u is as large as 1 - p_y.
    left = 1 - probability.gather(-1, target[:, None]).squeeze(-1)
    fits = [
        "cross-entropy"
        if rest <= bound / float(left[index])
        else _other_fit(at_logits[index], probability[index], onehot[index], bound / float(left[index]), rest)
        for index, rest in enumerate(residual.tolist())
    ]
    fit = [""] * len(gradient)
    for place, found in zip(trained.nonzero().flatten().tolist(), fits, strict=True):
        fit[place] = found
    nll = -logp.gather(-1, target[:, None]).squeeze(-1)
    if beside:
        target = target.where(is_of_cross_entropy(at_logits), -1)

    def spread(values: Tensor, empty: float) -> Tensor:
        return torch.full((len(gradient),), empty, dtype=values.dtype).masked_scatter_(trained.cpu(), values.cpu())

    return Reading(trained, u, spread(target, -1), spread(weight, 0.0), spread(nll, 0.0), fit)


def is_of_cross_entropy(u: Tensor) -> Tensor:
    """(n,) bool: has the gradient at the logits one entry that stands out, with others of the other sign?

    Of w (p - onehot(y)) the entry of y is at least 1/sqrt(2) of its norm: the others, all of the other sign, sum to it.
    A loss that moves all logits one way (a z-loss), or many at random (another head's), has no such entry.
    """
    largest = u.abs().amax(-1)
    return (u.amin(-1) < 0) & (u.amax(-1) > 0) & (largest >= 0.5 * u.norm(dim=-1))


def _other_fit(u: Tensor, probability: Tensor, onehot: Tensor, bound: float, ce_residual: float) -> str:
    """Label smoothing, if a regression of u on p, onehot and 1/V explains it and plain cross-entropy does 30 times
    worse.

    Its three coefficients sum to zero, as u does: w, -(1 - e) w, -e w. With a z-loss they do not.
    """
    if not u.isfinite().all():
        return "ambiguous"
    basis = torch.stack([probability, onehot, torch.full_like(u, 1 / len(u))], 1)
    solution = torch.linalg.lstsq(basis, u[:, None]).solution
    residual = float((u[:, None] - basis @ solution).norm() / u.norm())
    closed = abs(float(solution.sum())) <= bound * float(solution.abs().max())
    if closed and residual <= bound and ce_residual >= MIN_MARGIN * residual:
        return "label-smoothing"
    return "ambiguous"


def build_run(job: Job, tap: Heard, run: Run, provenance: Provenance) -> Run:
    """Fill the run's rows, steps, forwards and replays from what the tap recorded."""
    if not tap.calls:
        run.error = run.error or tap.unheard
        return run
    if all(call.gradient is None for call in tap.calls):
        deaf = any(record.gradients for record in tap.steps)
        run.error = run.error or (
            "untrained: no gradient reaches the hidden states: only the head learns"
            if deaf
            else "untrained: the model was called, and no backward pass was made: nothing was trained"
        )
        return run
    # A GradScaler may leave every step of a short job out: then no step was made, and the examples are lost.
    if not tap.steps and not any(call.overflowed for call in tap.calls):
        run.error = run.error or (
            "no torch optimizer stepped job.model's output head: give job.model's own parameters to one (what is"
            " written by hand, or copied from float32 masters outside an optimizer's state, cannot be heard)"
        )
        return run
    if not any(call.step == 0 for call in tap.calls):
        run.error = run.error or "the optimizer stepped before the model was called: call it outside optimizer.step()"
        return run
    # All calls at once: what one row was cut from may stand in the next call.
    found = iter(provenance.resolve([row for call in tap.calls for row in call.input_ids.tolist()]))
    origins = {call.index: [next(found) for _ in call.input_ids] for call in tap.calls}
    lost: set[int] = set()
    squash = squash_of(job.model.config)
    run.adapters, run.saved = tap.adapters, tap.saved
    run.unread = tap.unread if tap.steps else "no step was made: all gradients overflowed in float16"
    name = tap.head_name
    given, resized = len(run.initial[name]), len(tap.steps[0].before[name]) if tap.steps else 0
    if resized > given:
        run.error = run.error or (
            f"the vocabulary was resized from {given} to {resized} tokens, and cannot be read: the head has more rows"
            " than the hidden states are wide; train the embeddings as they are given"
        )
        return run
    for index, record in enumerate(tap.steps):
        states = (record.gradients, record.before, record.after, record.again, record.frozen,
                  record.apart)  # fmt: skip
        head = computing([item for item in tap.adapters if item.target == name], record.before)[name]
        # Nothing can be read off a model of NaN, or of another vocabulary; its parameters say what happened.
        is_finite = all(bool(item.isfinite().all()) for item in record.before.values())
        if not is_finite or head.shape != run.initial[name].shape:
            run.steps.append(Step(index, record.learning_rate, 0.0, 0.0, *states))
            if not is_finite:
                lost |= {call.index for call in tap.calls if call.step == index}
            continue
        known = Head(head, squash)
        # What no backward pass reached was looked at (an evaluation with gradients on) and not trained on.
        heard = [call for call in tap.calls if call.step == index and call.gradient is not None]
        beside = bool(run.conventions.auxiliary)
        overflown, read = _without_overflow(heard, known, record.gradients.get(name), beside)
        lost |= {call.index for call in overflown}
        if record.given:
            scale, residual = balance(record.given, record.gradients)
        else:
            scale, residual = closure(read, record.gradients.get(name))
        for call, reading in read:
            run.rows.extend(_rows(call, reading, scale, origins[call.index]))
        run.steps.append(Step(index, record.learning_rate, scale, residual, *states))
    after = [call for call in tap.calls if call.step == len(tap.steps)]
    lost |= {call.index for call in after} if any(call.overflowed for call in after) else set()
    for call in tap.calls:
        run.forwards.append(
            Forward(
                call.index, call.step, call.rank, call.input_ids.tolist(), call.arguments,
                call.gradient is not None, call.hidden, call.random, call.drew,
                str(call.autocast or "").removeprefix("torch."),
                examples_of(origins[call.index]) if call.index in lost else (),
            )
        )  # fmt: skip
    for replay in tap.replays:
        run.replays.append(Replay(replay.call, _places(replay.changed), _places(replay.moved)))
    return run


def examples_of(origins: list[list[tuple[int, int]]]) -> tuple[int, ...]:
    """The examples that stand in a call's rows, each as often as it does: copies are all resolved to the first."""
    often = Counter[int]()
    for (example, _), count in Counter(place for row in origins for place in row if place[0] >= 0).items():
        often[example] = max(count, often[example])
    return tuple(sorted(often.elements()))


def _read(call: Call, head: Head, beside: bool) -> Reading:
    bound = fit_bound(call.arithmetic, len(head.weight))
    return read_gradients(call.hidden.flatten(0, 1), _reached(call).flatten(0, 1), head, bound, beside)


def _reached(call: Call) -> Tensor:
    """The gradient of a call whose turn it is: one that no backward pass reached is never read."""
    assert call.gradient is not None
    return call.gradient


def _without_overflow(
    heard: list[Call], head: Head, gradient: Tensor | None, beside: bool = False
) -> tuple[list[Call], list[tuple[Call, Reading]]]:
    """The calls in float16 that a GradScaler left out, as their gradients overflowed, and the readings of the others.

    A window that overflows is left out whole: of the calls after it, those are the step's that explain its gradient.
    """
    scaled = gradient is not None and bool(gradient.isfinite().all())
    finite = [not scaled or not (call.overflowed or not _reached(call).isfinite().all()) for call in heard]
    first = len(finite) - finite[::-1].index(False) if False in finite else 0
    read = [(call, _read(call, head, beside)) for call in heard[first:]]
    for start in range(len(read)) if first else ():
        if closure(read[start:], gradient)[1] <= fit_bound(heard[0].arithmetic, len(head.weight)):
            return heard[: first + start], read[start:]
    return heard[:first], read


def closure(read: list[tuple[Call, Reading]], gradient: Tensor | None) -> tuple[float, float]:
    """(scale, relative residual) of the head's gradient against the sum of u (x) h over the calls of its step."""
    total = sum(
        (reading.u.T @ call.hidden.flatten(0, 1)[reading.trained].double() for call, reading in read), torch.zeros(())
    )
    norm = float(total.norm())
    if gradient is None or norm == 0.0:
        left = 0.0 if gradient is None else float(gradient.double().norm())
        return (1.0 if gradient is None and norm == 0.0 else 0.0), (1.0 if left or norm else 0.0)
    got = gradient.double()
    scale = float((got * total).sum()) / norm**2
    rest = float((got - scale * total).norm())
    return scale, rest / max(float(got.norm()), 1e-300)


def balance(given: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> tuple[float, float]:
    """(scale, relative residual) of the gradients that an optimizer got against those that backward passes gave."""
    given = {name: item.double() for name, item in given.items()}
    taken = {name: item.double() for name, item in got.items() if name in given}
    norm = sum(float(item.square().sum()) for item in given.values())
    if norm == 0.0:
        return 1.0, float(any(bool(item.any()) for item in taken.values()))
    scale = sum(float((item * given[name]).sum()) for name, item in taken.items()) / norm
    rest = sum(float((taken.get(name, 0.0) - scale * item).square().sum()) for name, item in given.items())
    size = sum(float(item.square().sum()) for item in taken.values())
    return scale, (rest / max(size, 1e-300)) ** 0.5


def _rows(call: Call, reading: Reading, scale: float, origins: list[list[Origin]]) -> Iterator[Row]:
    tokens, positions, attended = call.input_ids.tolist(), call.position_ids.tolist(), call.attended.tolist()
    targets, weights, nlls = reading.target.tolist(), reading.weight.tolist(), reading.nll.tolist()
    width = len(tokens[0])
    for row in range(len(tokens)):
        for column in range(width):
            index = row * width + column
            example, offset = origins[row][column]
            trained = targets[index] >= 0
            yield Row(
                call.step, call.index, call.rank, row, column, tokens[row][column], positions[row][column], example,
                offset, targets[index] if trained else None, scale * weights[index] if trained else 0.0,
                reading.fit[index], nlls[index], attended[row][column],
            )  # fmt: skip


def _places(mask: Tensor) -> frozenset[tuple[int, int]]:
    return frozenset((row, column) for row, column in mask.nonzero().tolist())
