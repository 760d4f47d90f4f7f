"""What a step has to compute, computed independently in float64 and compared within a derived bound.

The oracle runs each example alone, padded at the right, in evaluation mode. It uses what the ledger says was trained
(targets and weights), so that it judges the arithmetic and not the mask.

Bounds (BOUND-SELF). Two programs for one real function each lie within e of it, and e is measured: the error
of this same computation in the run's dtype, and under its autocast. A trainer may differ by 4 e, plus a few roundings
for another order of summation.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sftspec.adapters import computing, gains_of, pulled_back
from sftspec.job import weights_in
from sftspec.properties.ledger.rotary import with_exact_angles
from sftspec.properties.ledger.run import Piece, Row, Run, Step
from sftspec.squash import squash_of

FEW, DRAWN = 8, 3  # steps: a run of up to 8 is computed again whole, of a longer one 3 steps are
ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


class Oracle:
    """Comparisons of a run with its own reference; each yields (subject, …, error, bound)."""

    def __init__(self, run: Run):
        self.run = run
        self._gradients: dict[tuple[int, torch.dtype], dict[str, Tensor]] = {}
        self._sizes: dict[tuple[int, torch.dtype], dict[str, float]] = {}  # of the weights that compute

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype whose rounding is measured: the parameters', or that of the copies that computed in their place.
        float32 for a float64 model: transformers' norms reduce in float32.
        """
        found = getattr(torch, self.run.lowered) if self.run.lowered else self.kept
        return torch.float32 if found == torch.float64 else found

    @property
    def kept(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(iter(self.run.final.values())).dtype

    @cached_property
    def autocast(self) -> torch.dtype | None:
        """The dtype of the autocast under which the run computed; None where it was off."""
        return getattr(torch, self.run.autocast) if self.run.autocast else None

    @property
    def stored(self) -> float:
        """Unit roundoff of the parameters, which an optimizer writes; float32's, where that is finer."""
        return max(torch.finfo(self.kept).eps / 2, 2.0**-24)

    @property
    def roundoff(self) -> float:
        """Unit roundoff of the arithmetic: of the parameters' dtype, or of the autocast's."""
        return max(torch.finfo(dtype).eps / 2 for dtype in (self.dtype, self.autocast) if dtype is not None)

    @property
    def slack(self) -> float:
        """Relative error of a weight or a gradient by another order of summation: 64 roundings, 4 in 16 bits (sums run
        in float32 there, BOUND-SELF).
        """
        return (4 if self.is_coarse else 64) * self.roundoff

    @property
    def is_coarse(self) -> bool:
        """Was it computed in 16 bits?"""
        return self.roundoff > 1e-4

    def weight_error(self, targets: list[Row]) -> float:
        """Relative error of the sum of recovered weights w: that of u = w (p - onehot(y)), whose largest entry is
        w (1 - p_y), while p_y is rounded as a number near 1 is.
        """
        return self.slack * sum(-1 / math.expm1(-max(row.nll, 1e-300)) for row in targets) / max(1, len(targets))

    def total_error(self, targets: list[Row]) -> float:
        """Relative error of the sum of the weights of a step. In 16 bits they are rounded one by one: all alike at
        worst where p is small, which is one rounding, and else at random (Higham and Mary 2019, theorem 2.4, lambda 8).
        """
        single = self.weight_error(targets)
        alone = single / self.slack * self.roundoff * (1 + 8 / max(1, len(targets)) ** 0.5)
        return min(single, alone) if self.is_coarse else single

    def largest_logit(self, step: Step) -> float:
        """The largest |logit| at the trained positions of a step, from the hidden states that the trainer computed."""
        own = self.model.get_output_embeddings().weight
        name = next(name for name, item in self.model.named_parameters() if item is own)
        head = self._weights(step, torch.float64)[name]
        rows = self.run.targets[step.index]
        hidden = torch.stack([self.run.forwards[row.forward].hidden[row.row, row.column] for row in rows])
        return float((hidden.cpu().double() @ head.T).abs().max())

    @cached_property
    def steps(self) -> list[Step]:
        """The steps that are computed again: all of them where they are few or the gradient is clipped, else some that
        are drawn from the job's seed, so that no step is known to be left out. None under dropout, whose masks are the
        trainer's, or noise that is declared; none where something trains of which it is not known how it enters the
        weights.
        """
        known = not (self.run.dropout or self.run.unread or self.run.is_noisy)
        steps = [step for step in self.run.steps if known and self.run.targets_of_step[step.index]]
        if self.run.job.max_grad_norm is not None or len(steps) <= FEW:
            return steps
        drawn = random.Random(f"{self.run.job.seed} {self.run.scenario}").sample(range(len(steps)), DRAWN)
        return [steps[place] for place in sorted(drawn)]

    @cached_property
    def model(self) -> Any:
        # A new model of the same class: a copy would keep what the trainer wrapped around `forward`.
        trained = self.run.job.model
        config = copy.deepcopy(trained.config)
        config.pad_token_id = None  # whatever the trainer wrote there: an embedding that is padding gets no gradient
        model = type(trained)(config)
        # Attention that never holds T x T scores; it has no cap on them, which some models ask for.
        model.set_attn_implementation("eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa")
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the fused kernels know no float64
        return with_exact_angles(model.eval())

    def _at(self, step: Step, dtype: torch.dtype) -> tuple[Any, list[list[Piece]]]:
        """The model as it was before a step, and the step's pieces, grouped so that little is padding."""
        model, weights = weights_in(self.model, dtype), self._weights(step, dtype)
        adapted = bool(self.run.adapters)  # an adapter's error is held against its whole module, frozen as that is
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
                parameter.requires_grad_(adapted or name not in self._frozen(step)).grad = None
        alike: dict[int, list[Piece]] = {}  # at most twice as long as one another
        for piece in self.run.pieces:
            if piece.rows[0].step == step.index:
                alike.setdefault(len(piece).bit_length(), []).append(piece)
        return model, list(alike.values())

    def _frozen(self, step: Step) -> set[str]:
        """What is not trained: as the job asks, or as the trainer chose."""
        return {*self.run.job.frozen, *step.frozen}

    def _weights(self, step: Step, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights that computed in a step, in this dtype; its adapters are in them."""
        return computing(self.run.adapters, {name: item.cpu().to(dtype) for name, item in step.before.items()})

    def _arithmetic(self, dtype: torch.dtype) -> torch.autocast:
        """The run's own arithmetic, where this is the run's dtype."""
        return torch.autocast("cpu", self.autocast, enabled=self.autocast is not None and dtype == self.dtype)

    @torch.no_grad()
    def hidden(self, step: Step, dtype: torch.dtype) -> list[tuple[Piece, Tensor]]:
        """The pieces of a step with their hidden states (T, H), each computed alone in this dtype."""
        model, groups = self._at(step, dtype)
        found: list[tuple[Piece, Tensor]] = []
        for pieces in groups:
            with self._arithmetic(dtype):
                states = _states(model, pieces).double()
            found += [(piece, states[index, : len(piece)]) for index, piece in enumerate(pieces)]
        return found

    def gradients(self, step: Step, dtype: torch.dtype) -> dict[str, Tensor]:
        """The gradients of a step by name, each piece computed alone in this dtype."""
        key = (step.index, dtype)
        if key not in self._gradients:
            model, groups = self._at(step, dtype)
            # Small gradients vanish in float16: whoever trains in it scales the loss, by a power of two.
            scale = 1024.0 if self.autocast == torch.float16 and dtype == self.dtype else 1.0
            for pieces in groups:
                with self._arithmetic(dtype):
                    loss = _loss(model, pieces)
                if loss.requires_grad:
                    (scale * loss).backward()
            found = {
                name: parameter.grad.detach() / scale
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
            self._sizes[key] = {name: float(item.double().norm()) for name, item in found.items()}
            values = {name: item.cpu().to(dtype) for name, item in step.before.items()}
            found |= pulled_back(self.run.adapters, values, found)
            self._gradients[key] = {
                name: item.double().clone() for name, item in found.items() if name not in self._frozen(step)
            }
        return self._gradients[key]

    def compare_hidden(self) -> Iterator[tuple[Piece, float, float]]:
        """(piece, difference of its hidden states from those alone in float64, bound).

        The largest of an entry. In 16 bits, where one entry may lose all its digits, the norm over the piece as a share
        of its states': so many roundings are alike in their norm, whatever the kernel. Where a piece has lost less than
        the pieces of its step on average, it might have lost that much.
        """
        for step in self.steps:
            exact, same = self.hidden(step, torch.float64), self.hidden(step, self.dtype)
            largest = max(float(state.abs().max()) for _, state in exact)
            own = max(
                float((rounded - state).abs().max()) for (_, state), (_, rounded) in zip(exact, same, strict=True)
            )
            lost = [float((rounded - state).norm()) for (_, state), (_, rounded) in zip(exact, same, strict=True)]
            average = math.sqrt(sum(item**2 for item in lost) / sum(len(piece) for piece, _ in exact))
            for (piece, state), norm in zip(exact, lost, strict=True):
                first = piece.rows[0]
                hidden = self.run.forwards[first.forward].hidden[first.row, first.column : first.column + len(piece)]
                difference = hidden.cpu().double() - state
                if self.is_coarse:
                    bound = 4 * max(norm, average * math.sqrt(len(piece)))
                    yield piece, float(difference.norm() / state.norm()), bound / float(state.norm())
                else:
                    yield piece, float(difference.abs().max()), 4 * own + 8 * self.roundoff * largest

    def gradient_bounds(self, step: Step) -> dict[str, float]:
        """The relative error that rounding explains in a step's gradients, by parameter; none for a gradient of zero.

        Four times its own error in the run's dtype, that of the weights, and the slack of its whole module: where
        attention is sure, the gradients of queries and keys are small differences of terms as large as the values' are.
        An adapter's gradient is s dW A^T, or s B^T dW: it has the error of dW times s |A|, or s |B|.
        In 16 bits twice its own error: so many roundings, each as large in every kernel, are alike in their norm.
        """
        exact, same = self.gradients(step, torch.float64), self.gradients(step, self.dtype)
        sizes = {name: size for name, gradient in exact.items() if (size := float(gradient.norm()))}
        of_module: dict[str, float] = {}
        for name, size in self._sizes[step.index, torch.float64].items():
            of_module[_module(name)] = math.hypot(of_module.get(_module(name), 0.0), size)
        gains = gains_of(self.run.adapters, step.before)
        beside = {name: adapter.target for adapter in self.run.adapters for name in adapter.parameters}
        weights = self.weight_error(self.run.targets[step.index])
        own = {name: float((same[name] - exact[name]).norm()) for name in sizes}
        times = 2 if self.is_coarse else 4
        whole = {name: of_module[_module(beside.get(name, name))] * gains.get(name, 1.0) for name in sizes}
        return {name: (times * own[name] + self.slack * whole[name]) / size + weights for name, size in sizes.items()}

    def compare_gradients(self) -> Iterator[tuple[Step, str, float, float]]:
        """(step, parameter, relative difference of its gradient from float64, bound)."""
        for step in self.steps:
            exact = self.gradients(step, torch.float64)
            for name, bound in self.gradient_bounds(step).items():
                got = step.gradients.get(name)
                size = float(exact[name].norm())
                error = 1.0 if got is None else float((got.cpu().double() - exact[name]).norm()) / size
                yield step, name, error, bound

    def clip_factors(self) -> Iterator[tuple[Step, float, float, float, float, float]]:
        """(step, factor by which its gradient was scaled, norm before, bound, spread over parameters, its bound).

        The weights sum to what is declared, 1 for a token mean: their sum over that is the factor. The norm before is
        that of the float64 gradient. Both bounds are relative. The spread is that of the parameter whose norm is worst
        against its bound. A step whose targets weigh nothing has no factor.
        """
        for step in self.steps:
            factor = sum(row.weight for row in self.run.targets[step.index]) / self.run.declared_total(step.index)
            bounds, exact = self.gradient_bounds(step), self.gradients(step, torch.float64)
            sizes = {name: float(exact[name].norm()) for name in bounds}
            spreads = {
                name: abs(float(step.gradients[name].cpu().double().norm()) / size - 1)
                for name, size in sizes.items()
                if name in step.gradients
            }
            if not spreads:
                continue
            norm = math.hypot(*sizes.values())
            rounding = math.hypot(*(bounds[name] * size for name, size in sizes.items())) / norm
            worst = max(spreads, key=lambda name: spreads[name] / bounds[name])
            yield step, factor, norm / factor if factor else 0.0, rounding, spreads[worst], bounds[worst]

    def sgd_errors(self) -> Iterator[tuple[Step, str, float, float, float]]:
        """(step, parameter, largest difference from p - lr g, bound, relative error of the change).

        The bound is u (|p| + 2 lr |g|), twice (BOUND-UPDATE).
        """
        for step in self.run.steps:
            for name, before in step.before.items():
                gradient = step.gradients.get(name)
                change = 0.0 if gradient is None else self.run.job.learning_rate * gradient.double()
                yield (
                    step,
                    name,
                    *self._largest(step, name, before.double() - change, 2 * abs(change) + before.abs(), 2),
                )

    def adamw_errors(self) -> Iterator[tuple[Step, str, float, float, float]]:
        """(step, parameter, largest difference from AdamW in float64, bound, relative error of the change).

        The bound is 16 u (|p| + lr), and the error of 1 - beta^t in float32 (BOUND-UPDATE).
        A vector (norm, bias) may be exempt from the decay: of the two results the nearer one counts.
        """
        job = self.run.job
        decayed = 1 - job.learning_rate * job.weight_decay
        for step, name, update in self.adamw_updates():
            before = step.before[name]
            size = before.abs() + job.learning_rate + correction_error(step.index + 1) / unit_of(before) * abs(update)
            results = [
                self._largest(step, name, before.double() * keep - update, size, 16)
                for keep in ((decayed, 1.0) if before.dim() < 2 else (decayed,))
            ]
            yield step, name, *min(results, key=lambda result: result[0] / result[1])

    def adamw_updates(self) -> Iterator[tuple[Step, str, Tensor]]:
        """(step, parameter, what AdamW subtracts from it beside the decay), in float64."""
        beta1, beta2 = ADAMW["beta1"], ADAMW["beta2"]
        first: dict[str, Tensor] = {}
        second: dict[str, Tensor] = {}
        for count, step in enumerate(self.run.steps, 1):
            for name in step.before:
                if name not in step.gradients:
                    continue
                gradient = step.gradients[name].double()
                first[name] = beta1 * first.get(name, torch.zeros_like(gradient)) + (1 - beta1) * gradient
                second[name] = beta2 * second.get(name, torch.zeros_like(gradient)) + (1 - beta2) * gradient**2
                moment = first[name] / (1 - beta1**count)
                root = (second[name] / (1 - beta2**count)).sqrt() + ADAMW["eps"]
                yield step, name, self.run.job.learning_rate * moment / root

    def _largest(
        self, step: Step, name: str, expected: Tensor, size: Tensor, factor: float
    ) -> tuple[float, float, float]:
        """The element of a parameter that is worst against its bound: (difference, bound); and the relative error of
        the whole parameter's change.
        """
        error = (step.after[name].double() - expected).abs()
        bound = factor * unit_of(step.before[name]) * size.double() + 1e-300
        worst = int((error / bound).argmax())
        change = float((expected - step.before[name].double()).norm())
        share = float(error.norm()) / change if change else math.inf
        return float(error.flatten()[worst]), float(bound.flatten()[worst]), share


def unit_of(parameter: Tensor) -> float:
    """Unit roundoff of a parameter's dtype; float32's, where that is finer."""
    return max(torch.finfo(parameter.dtype).eps / 2, 2.0**-24)


def correction_error(count: int) -> float:
    """Relative error of an update in step `count`, over 16, where betas and their powers are held in float32, as by
    optax and by torch's capturable AdamW: 1 - beta^t is a small difference.
    """
    first, second = (1 - ADAMW[name] ** count for name in ("beta1", "beta2"))
    return (count + 2) * (1 / first + 0.5 / second) * 2.0**-24 / 16


def _module(parameter: str) -> str:
    """The block that a parameter belongs to: `layers.0.self_attn` of `layers.0.self_attn.q_proj.weight`."""
    return parameter.rsplit(".", 2)[0]


def _states(model: Any, pieces: list[Piece]) -> Tensor:
    """The last hidden states (N, T, H) of pieces, each in a row of its own, padded at the right: what stands behind a
    piece reaches none of its states, so no mask is needed, nor a row that attends to nothing.
    """
    ids = torch.zeros(len(pieces), max(map(len, pieces)), dtype=torch.int64)
    for index, piece in enumerate(pieces):
        ids[index, : len(piece)] = torch.tensor([row.token for row in piece.rows])
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def _loss(model: Any, pieces: list[Piece]) -> Tensor:
    """The weighted losses of the targets of pieces, together."""
    hidden = _states(model, pieces)
    scored = [
        (index, place, row.target, row.weight)
        for index, piece in enumerate(pieces)
        for place, row in enumerate(piece.rows)
        if row.target is not None
    ]
    if not scored:
        return hidden.sum() * 0.0
    rows, places, targets, weights = (torch.tensor(column) for column in zip(*scored, strict=True))
    logits = model.get_output_embeddings()(hidden[rows, places])
    logits = squash_of(model.config)(logits)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, targets[:, None]).squeeze(-1)
    return (losses * weights.to(losses.dtype)).sum()
