"""The tap: what is heard of a trainer, at the places where nothing can be hidden.

Every training call of the model and every step of an optimizer is recorded as it happens; a call may be made again with
other tokens, to see what they move. Nothing of the trainer is patched: PyTorch's public hooks are enough.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.replay import (
    Arguments,
    Replay,
    autocast_of,
    dropout_rates,
    gradients_again,
    hidden_of,
    random_states,
    with_other_tokens,
)
from sftspec.conformance.witness.tensor_file import bytes_of
from sftspec.job import RANK, Job, has_dropout


@dataclass
class Call:
    """One recorded call of the base model.

    input_ids, position_ids  (B, T) int64
    hidden                   (B, T, H) last hidden state, as computed
    gradient                 dL/dhidden, or None while no backward pass has reached it
    attended                 (B, T) bool: where the attention_mask that was given is not 0
    arguments                names of the arguments that were given (and not None)
    random, drew             digest of the random state with which the call began; it had changed when it ended
    autocast                 dtype of torch.autocast around the call, None where it was off
    overflowed               in float16: its backward pass gave some parameter a gradient that is not finite
    """

    index: int
    step: int
    rank: int
    input_ids: Tensor
    position_ids: Tensor
    hidden: Tensor
    attended: Tensor
    arguments: tuple[str, ...]
    random: str = ""
    drew: bool = False
    autocast: torch.dtype | None = None
    gradient: Tensor | None = None
    overflowed: bool = False

    @property
    def arithmetic(self) -> torch.dtype:
        """The coarsest dtype that computed: autocast's, or that of the hidden states."""
        return self.autocast or self.hidden.dtype


@dataclass
class StepRecord:
    """Copies made around one call of optimizer.step(), or of those of several optimizers.

    again  with dropout: the gradients of its calls, made again (none, if they are too many)
    """

    learning_rate: float
    gradients: dict[str, Tensor]
    before: dict[str, Tensor]
    again: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


class UnheardError(RuntimeError):
    """A call of the model of which nothing can be recorded; says what to do instead."""


class Tap:
    """Records every training call of job.model's base model, and every optimizer step on its parameters.

    Use as a context manager around `trainer.train(job)`. Nothing of the trainer is patched: it listens through
    PyTorch's public forward, tensor and optimizer hooks.

    max_replays: how many calls are made again (see `replaying`).
    """

    def __init__(self, job: Job, provenance: Provenance, max_replays: int = 4):
        self.job, self.provenance, self.max_replays = job, provenance, max_replays
        self.calls: list[Call] = []
        self.steps: list[StepRecord] = []
        self._rates = dropout_rates(job.model) if has_dropout(job.model.config) else []
        self.replays: list[Replay] = []
        self._states: list[Tensor] = []
        self._made: list[tuple[Call, Arguments]] = []
        self._depth = 0
        self._watched: set[int] = set()
        self._stepped: set[str] | None = None  # parameters that have stepped since the last call of the model
        self._handles: list = []
        self._turn = threading.RLock()  # ranks may be threads: what one draws, another's replay would take back
        self.unheard = ""  # why a training call could not be recorded

    def __enter__(self) -> Tap:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        base = self.job.model.base_model
        self._handles = [
            base.register_forward_pre_hook(self._before_forward),
            base.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_forward(self, module, args):
        self._turn.acquire()
        self._states = random_states()

    def _after_forward(self, module, args, kwargs, output):
        try:
            if output is not None:  # None: the call raised
                self._on_forward(module, args, kwargs, output)
        finally:
            self._turn.release()

    def _on_forward(self, module, args, kwargs, output):
        hidden = hidden_of(output)
        if torch._C._functorch.is_functorch_wrapped_tensor(hidden):
            raise UnheardError(
                "job.model was called within torch.func.grad or vmap, where no hook hears its gradient: use"
                " loss.backward() or torch.autograd.grad (torch.func.functional_call alone is heard)"
            )
        if not hidden.requires_grad or not torch.is_grad_enabled():
            return  # an evaluation, or one of our own replays
        input_ids = args[0] if args else kwargs.get("input_ids")
        if input_ids is None:
            self.unheard = "job.model was trained without input_ids: give it those, which tell the tokens"
            return
        given = tuple(sorted(name for name, value in kwargs.items() if value is not None and value is not False))
        position_ids = kwargs.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        began = _digest(self._states)
        call = Call(
            len(self.calls),
            len(self.steps),
            _rank(),
            input_ids.detach().cpu().clone(),
            position_ids.detach().cpu().expand(input_ids.shape).clone(),
            hidden.detach().clone(),
            _attended(kwargs.get("attention_mask"), input_ids),
            given,
            began,
            began != _digest(random_states()),
            autocast_of(hidden.device.type),
        )
        self.calls.append(call)
        self._stepped = None

        def on_gradient(gradient: Tensor) -> None:
            # Several backward passes over one graph (a loss for each row, say) add up, as in every .grad.
            call.gradient = gradient.detach().clone() if call.gradient is None else call.gradient + gradient

        hidden.register_hook(on_gradient)
        if call.arithmetic == torch.float16:
            self._watch_for_overflow()
        arguments = Arguments(module, args, kwargs, self._states, call.autocast)
        if call.index < self.max_replays and arguments.can_be_repeated:
            self._made.append((call, arguments))
            self.replays.extend(with_other_tokens(call, arguments, self.provenance))

    def _watch_for_overflow(self) -> None:
        """A GradScaler makes no step of a gradient that is not finite, and takes it away: see it as it arises."""

        def on_gradient(gradient: Tensor) -> None:
            self.calls[-1].overflowed |= not bool(gradient.isfinite().all())

        for item in self.job.model.parameters():
            if item.requires_grad and id(item) not in self._watched:
                self._watched.add(id(item))
                self._handles.append(item.register_hook(on_gradient))

    def _before_step(self, optimizer, args, kwargs) -> None:
        named, groups = dict(self.job.model.named_parameters()), _groups(optimizer)
        mine = {name for name, item in named.items() if id(item) in groups}
        self._depth += bool(mine)
        if not mine or self._depth > 1:  # an optimizer's step may call that of its base class, which is hooked as well
            return
        # Several optimizers, one for each matrix even, make one step, until a parameter steps again.
        opens = self._stepped is None or bool(self._stepped & mine)
        if opens:
            last = self.steps[-1].after if self.steps else {}
            before = {name: _kept(last.get(name), item) for name, item in named.items()}
            self.steps.append(StepRecord(math.nan, {}, before, self._gradients_again(named)))
            self._stepped = set()
        record = self.steps[-1]
        record.gradients |= _gradients(named if opens else {name: named[name] for name in mine})
        of_head = groups.get(id(self.job.model.get_output_embeddings().weight))
        if of_head or math.isnan(record.learning_rate):
            record.learning_rate = float((of_head or optimizer.param_groups[0])["lr"])
        self._stepped |= mine

    def _gradients_again(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        trained = {call.index for call in self.calls if call.step == len(self.steps) and call.gradient is not None}
        made = [(call, arguments) for call, arguments in self._made if call.index in trained]
        return gradients_again(made, named, self._rates) if self._rates and len(made) == len(trained) else {}

    def _after_step(self, optimizer, args, kwargs) -> None:
        named, groups = dict(self.job.model.named_parameters()), _groups(optimizer)
        if not any(id(item) in groups for item in named.values()):
            return
        self._depth -= 1
        if self.steps and self._depth == 0:
            self.steps[-1].after = {name: item.detach().clone() for name, item in named.items()}


def _groups(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by its identity."""
    return {id(item): group for group in optimizer.param_groups for item in group["params"]}


def _gradients(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: item.grad.detach().clone() for name, item in named.items() if item.grad is not None}


def _attended(mask: Any, input_ids: Tensor) -> Tensor:
    if isinstance(mask, Tensor) and mask.shape == input_ids.shape:
        return mask.detach().cpu() != 0
    return torch.ones(input_ids.shape, dtype=torch.bool)


def _digest(states: list[Tensor]) -> str:
    return hashlib.sha256(b"".join(bytes_of(state) for state in states)).hexdigest()


def _kept(last: Tensor | None, now: Tensor) -> Tensor:
    """A copy of a parameter; the one that there is already, if no bit has changed."""
    return last if last is not None and torch.equal(last, now) else now.detach().clone()


def _rank() -> int:
    """The rank that computes: torch.distributed's, or the one that the reference simulates in process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return RANK.get()
