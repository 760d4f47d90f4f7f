"""A recorded call, made again with its exact arguments: with other tokens, to see what they move; and as it was, from
the same random state and at the rates that the model came with, to see whether its backward pass went through the same
dropout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.witness.provenance import Provenance
from sftspec.job import DROPOUTS


@dataclass(frozen=True)
class Replay:
    """A call made again with other tokens: (B, T) bool masks of what was changed and of what moved."""

    call: int
    changed: Tensor
    moved: Tensor


@dataclass(frozen=True)
class Arguments:
    """How a module was called: with which random states (of the CPU, of each GPU), under which autocast."""

    ear: Any
    positional: tuple
    named: dict[str, Any]
    states: list[Tensor]
    autocast: torch.dtype | None = None

    @property
    def can_be_repeated(self) -> bool:
        """A cache that was given has changed since."""
        return self.named.get("past_key_values") is None

    def repeat(self, input_ids: Tensor | None = None) -> Tensor:
        """The last hidden states (B, T, H) of the same call, or of one with other tokens."""
        positional, named = self.positional, self.named
        if input_ids is not None:
            positional, named = self.ear.with_tokens(positional, named, input_ids)
        # No cache: a cast made here, without a gradient, would be used in the trainer's own backward pass.
        kind, on = next(self.ear.module.parameters()).device.type, self.autocast is not None
        with drawing_from(self.states), torch.autocast(kind, self.autocast, enabled=on, cache_enabled=False):
            return self.ear.hidden(self.ear.module.forward(*positional, **named))


def autocast_of(device: str) -> torch.dtype | None:
    """The dtype of the autocast that is on for a kind of device; None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def _go_on_from(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


@contextmanager
def drawing_from(states: list[Tensor]) -> Iterator[None]:
    """Random numbers are drawn from these states, and afterwards as if none had been."""
    now = random_states()
    _go_on_from(states)
    try:
        yield
    finally:
        _go_on_from(now)


@torch.no_grad()
def with_other_tokens(call: Any, arguments: Arguments, provenance: Provenance) -> Iterator[Replay]:
    """Make a call again, changing the tokens of some examples and not of others.

    With examples numbered, one replay changes all whose bit b is 0 and the next all whose bit b is 1: after
    2 * ceil(log2(n)) of them every ordered pair of examples has been told apart. One more changes the last nonce of
    every example (what stands before it must not move), and one the padding.
    """
    origins = provenance.resolve(call.input_ids.tolist())
    same = arguments.repeat(call.input_ids)
    for changed in provenance.perturbations(origins):
        mask = torch.tensor(changed)
        if mask.any():
            other = torch.where(mask, provenance.substitute(call.input_ids), call.input_ids)
            yield Replay(call.index, mask, _moved(arguments.repeat(other), same, is_routed(arguments.ear.model)).cpu())


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def is_routed(model: Any) -> bool:
    """Has it experts? What one of them multiplies at once depends on who else was sent to it, and so does rounding."""
    config = getattr(model, "config", None)
    return any((getattr(config, name, None) or 0) > 1 for name in EXPERTS)


def _moved(states: Tensor, same: Tensor, routed: bool) -> Tensor:
    """(B, T) bool: which hidden states are others, in any bit; of experts, by more than 256 roundings."""
    if not routed:
        return (states != same).any(-1)
    bound = 128 * torch.finfo(same.dtype).eps * same.abs().max()
    return ((states - same).abs() > bound).any(-1)


Rates = list[tuple[Any, str, float]]


def dropout_rates(model: Any) -> Rates:
    """The rates of dropout of a model: (module, name of the attribute, rate)."""
    return [
        (part, name, rate)
        for part in model.modules()
        for name in ("p", *DROPOUTS)
        if isinstance(rate := getattr(part, name, None), float)
    ]


@torch.enable_grad()
def gradients_again(
    made: Iterable[tuple[Any, Arguments]], named: Mapping[str, Tensor], rates: Rates
) -> dict[str, Tensor]:
    """What the calls give each named parameter at these rates of dropout, by the gradients that came back to their last
    hidden states.
    """
    parameters = {name: item for name, item in named.items() if item.requires_grad}
    total: dict[str, Tensor] = {}
    for call, arguments in made:
        with _kept_in_memory(arguments.ear.module), _dropping_at(rates):
            hidden = arguments.repeat()
        found = torch.autograd.grad(hidden, list(parameters.values()), call.gradient, allow_unused=True)
        for name, gradient in zip(parameters, found):
            if gradient is not None:
                total[name] = total[name] + gradient if name in total else gradient
    return total


@contextmanager
def _dropping_at(rates: Rates) -> Iterator[None]:
    """Dropout has these rates, and afterwards those that it had."""
    now = [(part, name, getattr(part, name)) for part, name, _ in rates]
    for part, name, rate in rates:
        setattr(part, name, rate)
    try:
        yield
    finally:
        for part, name, rate in now:
            setattr(part, name, rate)


@contextmanager
def _kept_in_memory(module: Any) -> Iterator[None]:
    """Nothing is computed a second time on the way back: whether that draws the same dropout is what is asked."""
    checkpointed = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    for part in checkpointed:
        part.gradient_checkpointing = False
    try:
        yield
    finally:
        for part in checkpointed:
            part.gradient_checkpointing = True
