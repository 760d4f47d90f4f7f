"""The tap: what is heard of a trainer, at the places where nothing can be hidden.

Every training call of the model and every step of an optimizer is recorded as it happens; a call may be made again with
other tokens, to see what they move. Nothing of the trainer is patched: PyTorch's public hooks are enough.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sftspec.adapters import Adapter
from sftspec.conformance.witness import groups
from sftspec.conformance.witness.bare import BareEar, are_alike
from sftspec.conformance.witness.ear import Ear, Hook, LoadedEar, StandInEar, require_hidden_states, states
from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.replay import (
    Arguments,
    Replay,
    autocast_of,
    drawing_from,
    dropout_rates,
    gradients_again,
    random_states,
    with_other_tokens,
)
from sftspec.conformance.witness.shards import Place, is_sharded, local, places_of
from sftspec.conformance.witness.tensor_file import bytes_of
from sftspec.handover import StandIn
from sftspec.job import RANK, Job, has_dropout

UNHEARD = (
    "no training call of job.model was seen: train job.model itself, not a copy of it; or, if your trainer loads a"
    " checkpoint or has a model class of its own, give it job.save_model() and say which: job.listen_to(ModelClass)"
)


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

    again   with dropout: the gradients of its calls, made again (none, if they are too many)
    given   what the backward passes since the last step gave each parameter, where the head alone does not tell it
    frozen  parameters with requires_grad False
    apart   (rank, parameter): after the step, that rank holds other bits of it than a rank before it
    """

    learning_rate: float
    gradients: dict[str, Tensor]
    before: dict[str, Tensor]
    again: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    apart: tuple[tuple[int, str], ...] = ()


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
        self.ear = Ear(job.model)
        self.adapters: tuple[Adapter, ...] = ()
        self.saved: tuple[str, ...] = ()
        self.unread = ""  # what trains, and cannot be computed again
        self.places: dict[str, Place] = {}  # of parameters of which only a part is here
        self.bare = BareEar(job.model) if job.world_size > 1 else None
        self.silent = 0  # calls, with gradients on, whose hidden states want none
        self.muted = 0  # calls in training mode under no_grad
        self.calls: list[Call] = []
        self.steps: list[StepRecord] = []
        self._rates = dropout_rates(job.model) if has_dropout(job.model.config) else []
        self.replays: list[Replay] = []
        self._states: list[Tensor] = []
        self._made: list[tuple[Call, Arguments]] = []
        self._depth = 0
        self._given: dict[str, Tensor] = {}
        self._watched: set[int] = set()
        self._stepped: set[str] | None = None  # parameters that have stepped since the last call of the model
        self._handles: list = []
        self._ears: list = []
        self._turn = threading.RLock()  # ranks may be threads: what one draws, another's replay would take back
        self.unheard = ""  # why a training call could not be recorded

    def __enter__(self) -> Tap:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self._hear(self.ear)
        self.job.handover.listeners.append(self._listen_to)
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, *exception) -> None:
        self.job.handover.listeners.remove(self._listen_to)
        for handle in (*self._handles, *self._ears, *filter(None, [self.ear.handle])):
            handle.remove()

    def _hear(self, ear: Ear) -> None:
        """Listen to this model, and to no other."""
        for handle in self._ears:
            handle.remove()
        self.ear = ear
        self._ears = [
            ear.module.register_forward_pre_hook(Hook(self._before_forward)),
            ear.module.register_forward_hook(Hook(self._after_forward), with_kwargs=True, always_call=True),
        ]

    def _listen_to(self, stand_in: StandIn) -> None:
        """Another model is trained in place of job.model: hear that one."""
        if not isinstance(stand_in.model, type):
            self._hear(self._ear_of(stand_in, stand_in.model))
            return

        def on_call(module, args):
            if isinstance(module, stand_in.model) and torch.is_grad_enabled():
                waits.remove()
                ear = self._ear_of(stand_in, module)
                self._hear(ear)
                if ear.module is module:  # the hooks of a module that is being called were read before this one was set
                    self._before_forward(module, args)

        waits = torch.nn.modules.module.register_module_forward_pre_hook(on_call)
        self._handles.append(waits)

    def _ear_of(self, stand_in: StandIn, model: Any) -> Ear:
        if model is self.job.model:
            return Ear(model)
        return StandInEar(self.job.model, stand_in, model) if stand_in.hidden else LoadedEar(self.job.model, model)

    def silence(self) -> str:
        """Why no call of the model wanted a gradient: nothing in it trains, only the head does, or there was none.

        Under no_grad a frozen reference is called as well: it is no training call, unless an optimizer steps the model.
        """
        if not self.silent and not (self.muted and self.steps):
            return UNHEARD
        trains = [name for name, item in self.ear.named().items() if item.requires_grad]
        if not trains:
            return f"untrained: the model was called (calls: {self.silent}), and nothing in it wants a gradient"
        if trains == [self.ear.head_name]:
            return "untrained: no gradient reaches the hidden states: only the head learns, all else is frozen"
        return f"untrained: no gradient reaches the hidden states, though {trains[0]} wants one (no_grad?)"

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
        hidden = self.ear.hidden(output)
        if torch._C._functorch.is_functorch_wrapped_tensor(hidden):
            raise UnheardError(
                "job.model was called within torch.func.grad or vmap, where no hook hears its gradient: use"
                " loss.backward() or torch.autograd.grad (torch.func.functional_call alone is heard)"
            )
        if not hidden.requires_grad or not torch.is_grad_enabled():
            self.silent += torch.is_grad_enabled() and module.training
            self.muted += not torch.is_grad_enabled() and module.training
            return  # an evaluation, or one of our own replays
        named = self.ear.called_with(args, kwargs)
        input_ids = named.get("input_ids")
        if input_ids is None:
            self.unheard = "job.model was trained without input_ids: give it those, which tell the tokens"
            return
        given = tuple(sorted(name for name, value in kwargs.items() if value is not None and value is not False))
        position_ids = named.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        if not self.calls and isinstance(self.ear, StandInEar) and not self._rates:
            with drawing_from(self._states):
                require_hidden_states(self.ear, self.job.model, input_ids)
        groups.hold()
        began = _digest(self._states)
        call = Call(
            len(self.calls),
            len(self.steps),
            _rank(),
            input_ids.detach().cpu().clone(),
            position_ids.detach().cpu().expand(input_ids.shape).clone(),
            hidden.detach().clone(),
            _attended(named.get("attention_mask"), input_ids),
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
        if call.arithmetic == torch.float16 or not self._head_tells():
            self._watch_gradients()
        ear = self._again_by(call)
        if ear is None:
            return
        arguments = Arguments(ear, args, kwargs, self._states, call.autocast)
        if ear is self.bare and call.index == 0 and not self._is_alike(arguments, call):
            return
        if call.index < self.max_replays and arguments.can_be_repeated:
            self._made.append((call, arguments))
            self.replays.extend(with_other_tokens(call, arguments, self.provenance))

    def _again_by(self, call: Call) -> Ear | None:
        """What makes a call again. Not a model that is sharded: its layers call upon all other ranks."""
        if not any(is_sharded(item) for item in self.ear.model.parameters()):
            return self.ear
        return None if self.bare is None else self.bare.like(self.ear, call.hidden)

    @torch.no_grad()
    def _is_alike(self, arguments: Arguments, call: Call) -> bool:
        """Does the copy compute what the trainer's model does, as long as their weights are the same?"""
        if not are_alike(arguments.repeat(), call.hidden):
            self.bare = None
        return self.bare is not None

    def _head_tells(self) -> bool:
        """Is the head's gradient that of the head alone? Not where it is frozen, or tied to the embedding."""
        head = self.ear.head()
        return head.requires_grad and not self.ear.is_tied(head)

    def _watch_gradients(self) -> None:
        """Hear what backward passes give the parameters: where the head does not tell what a step is made of, and in
        float16, where a GradScaler makes no step of a gradient that is not finite, and takes it away.
        """
        for name, item in self.ear.leaves().items():
            if item.requires_grad and is_sharded(item):
                raise UnheardError(
                    f"{name} is sharded, and the output head is frozen, tied or trained in float16: what a backward"
                    " pass gives it cannot be heard with this torch; train the head, or use DistributedDataParallel"
                )
            if item.requires_grad and id(item) not in self._watched:
                self._watched.add(id(item))
                self._handles.append(item.register_hook(functools.partial(self._on_parameter_gradient, name)))

    def _on_parameter_gradient(self, name: str, gradient: Tensor) -> None:
        self.calls[-1].overflowed |= not bool(gradient.isfinite().all())
        gradient = gradient.detach()
        self._given[name] = self._given[name] + gradient if name in self._given else gradient.clone()

    def _before_step(self, optimizer, args, kwargs):
        named, groups = self.ear.named(), _groups(optimizer)
        mine = {name for name, item in named.items() if id(item) in groups}
        self._depth += bool(mine)
        if not mine or self._depth > 1:  # an optimizer's step may call that of its base class, which is hooked as well
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            return self._begin_step(optimizer, named, groups, mine)

        def makes_the_gradients():  # as Lightning does it: the model is called within the step, which begins behind it
            loss = closure()
            self._begin_step(optimizer, named, groups, mine)
            return loss

        return (args[0], makes_the_gradients, *args[2:]), {
            name: item for name, item in kwargs.items() if name != "closure"
        }

    def _begin_step(self, optimizer, named, groups, mine) -> None:
        # Several optimizers, one for each matrix even, make one step, until a parameter steps again.
        opens = self._stepped is None or bool(self._stepped & mine)
        if opens:
            last = self.steps[-1].after if self.steps else {}
            if not self.steps:
                self.adapters, self.saved = self.ear.adapters(), self.ear.saved()
                self.unread, self.places = self.ear.unread(), places_of(named)
            now = self.ear.translated(states(named))
            before = {name: _kept(last.get(name), item) for name, item in now.items()}
            trains = self.ear.translated(states({name: item for name, item in named.items() if item.requires_grad}))
            frozen = tuple(name for name in before if name not in trains)
            # Where the head tells, they were watched for an overflow alone, and hold what a GradScaler left out.
            given = {} if self._head_tells() else self.ear.translated(self._given)
            again, self._given = self._gradients_again(named), {}
            self.steps.append(StepRecord(math.nan, {}, before, again, given=given, frozen=frozen))
            self._stepped = set()
        record = self.steps[-1]
        record.gradients |= self.ear.translated(_gradients(named if opens else {name: named[name] for name in mine}))
        of_head = groups.get(id(self.ear.head()))
        if of_head or math.isnan(record.learning_rate):
            record.learning_rate = float((of_head or optimizer.param_groups[0])["lr"])
        self._stepped = (self._stepped or set()) | mine

    def _gradients_again(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        heard = [call for call in self.calls if call.step == len(self.steps) and call.gradient is not None]
        trained = {call.index for call in heard}
        made = [(call, arguments) for call, arguments in self._made if call.index in trained]
        # The copy that makes calls again has the first weights; of calls that a GradScaler left out no step is made.
        if self.places or any(call.overflowed or not _is_finite(call.gradient) for call in heard):
            return {}
        return gradients_again(made, named, self._rates) if self._rates and len(made) == len(trained) else {}

    def _after_step(self, optimizer, args, kwargs) -> None:
        named, groups = self.ear.named(), _groups(optimizer)
        if not any(id(item) in groups for item in named.values()):
            return
        self._depth -= 1
        if self.steps and self._depth == 0:
            after = self.ear.translated(states(named))
            self.steps[-1].after = {name: item.clone() for name, item in after.items()}


def _groups(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by its identity."""
    return {id(item): group for group in optimizer.param_groups for item in group["params"]}


def _gradients(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: local(item.grad.detach()).clone() for name, item in named.items() if item.grad is not None}


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _attended(mask: Any, input_ids: Tensor) -> Tensor:
    if isinstance(mask, Tensor) and mask.shape == input_ids.shape:
        return mask.detach().cpu() != 0
    if isinstance(mask, Tensor) and mask.dim() > 2 and mask.shape[-2:] == input_ids.shape[-1:] * 2:
        # (B, T, T) or (B, heads, T, T): hidden is what no other position reads; padding may read itself.
        seen = (mask if mask.dtype == torch.bool else mask == 0).detach().cpu()
        seen = (seen if seen.dim() == 3 else seen.any(1)) & ~torch.eye(seen.shape[-1], dtype=torch.bool)
        return seen.any(-2).expand(input_ids.shape)
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
