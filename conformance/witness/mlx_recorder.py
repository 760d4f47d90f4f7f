"""The recorder for trainers in MLX: what enters the output head, what comes back to it, what the optimizer is given.

The last hidden states go through an identity whose vector-Jacobian product hands out the cotangent
(`mx.custom_function`). MLX has no hooks: the model that is named, and mlx.optimizers.Optimizer, are called through this
recorder for as long as it listens. A compiled function would call nothing: compilation is off (`mx.disable_compile`).

    job.listen_to(model, hidden="model.norm", weights=to_hf, arguments={"input_ids": "inputs"})
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
from mlx.utils import tree_flatten

from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.recorder import Heard, Notebook, RecorderError
from sftspec.conformance.witness.recorder import listen as listen_with
from sftspec.handover import StandIn
from sftspec.job import Job

UNHEARD = (
    "no training call was heard: name the model with job.listen_to(model, hidden=…, weights=…, arguments=…) before it"
    " is called, and take the gradient with mx.value_and_grad or nn.value_and_grad"
)


def listen(trainer: Any, job: Job, provenance: Provenance, max_replays: int, seed: int) -> Heard:
    """Let a trainer do a job."""
    mx.random.seed(seed)
    return listen_with(Recorder(job, provenance, max_replays), trainer, job, seed)


@dataclass
class Call:
    """A call of the model: its arguments, and what went through the ear."""

    arguments: inspect.BoundArguments
    hidden: mx.array | None = None
    gradients: tuple[mx.array, ...] = ()


class Recorder:
    """Hears one job."""

    def __init__(self, job: Job, provenance: Provenance, max_replays: int):
        self.job, self.notebook = job, Notebook(job, provenance, max_replays)
        self._stand_in: StandIn | None = None
        self._names: dict[str, str] = {}
        self._calls: list[Call] = []  # since the last step
        self._now: list[Call] = []  # being made
        self._swapped: list[tuple[Any, type]] = []
        self._listens = True

    def __enter__(self) -> Recorder:
        mx.disable_compile()
        self._apply = mlx.optimizers.Optimizer.apply_gradients
        recorder = self

        @functools.wraps(self._apply)
        def apply_gradients(optimizer: Any, gradients: Any, parameters: Any) -> Any:
            return recorder._on_step(optimizer, gradients, parameters)

        mlx.optimizers.Optimizer.apply_gradients = apply_gradients
        self.job.handover.listeners.append(self._listen_to)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.job.handover.listeners.remove(self._listen_to)
        mlx.optimizers.Optimizer.apply_gradients = self._apply
        for module, kind in reversed(self._swapped):
            module.__class__ = kind
        mx.enable_compile()

    def give(self, job: Job) -> Job:
        """The job as a trainer gets it: its weights as arrays of MLX."""
        job.model.weights = {name: _as_mlx(item) for name, item in job.model.stored.items()}
        return job

    def _listen_to(self, stand_in: StandIn) -> None:
        """Call the model and its submodule through this recorder from now on."""
        model = stand_in.model
        if isinstance(model, type) or not stand_in.hidden:
            raise RecorderError("listen_to takes the model itself in MLX, with hidden=… and weights=…")
        if stand_in.adapters:
            raise RecorderError("adapters are not heard in MLX yet: leave them out, and train the whole model")
        there = dict(model.named_modules())
        if stand_in.hidden not in there:
            known = ", ".join(filter(None, there))
            raise RecorderError(f"the model has no submodule {stand_in.hidden!r}; it has {known}")
        self._stand_in, kind = stand_in, type(model)
        self._signature = inspect.signature(kind.__call__)
        same = {name: name for name in ("input_ids", "position_ids", "attention_mask")}
        self._names = same | dict(stand_in.arguments)
        if self._names["input_ids"] not in self._signature.parameters:
            raise RecorderError(f"{kind.__name__} has no argument {self._names['input_ids']!r}: {self._signature}")
        self._swap(model, self._on_call)
        self._swap(there[stand_in.hidden], self._on_hidden)

    def _swap(self, module: Any, hear: Any) -> None:
        kind = type(module)

        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            return hear(functools.partial(kind.__call__, this), args, kwargs)

        self._swapped.append((module, kind))
        module.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})

    def _on_call(self, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not self._listens:
            return original(*args, **kwargs)
        self._now.append(Call(self._signature.bind(None, *args, **kwargs)))
        try:
            return original(*args, **kwargs)
        finally:
            call = self._now.pop()
            if call.hidden is not None:
                self._calls.append(call)

    def _on_hidden(self, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        states = original(*args, **kwargs)
        if not self._listens:
            self._last = states
            return states
        if not self._now:
            return states
        call = self._now[-1]
        call.hidden = states

        @mx.custom_function
        def ear(states):
            return states

        @ear.vjp
        def back(primals, cotangent, output):
            call.gradients += (cotangent,)
            return cotangent

        return ear(states)

    def _on_step(self, optimizer: Any, gradients: Any, parameters: Any) -> Any:
        """Write down the calls of a step, and the step. Calls that no gradient came back to were evaluations."""
        if self._stand_in is None or not self._is_mine(parameters):
            return self._apply(optimizer, gradients, parameters)
        book = self.notebook
        calls, self._calls = [item for item in self._calls if item.gradients], []
        for call in calls:
            self._write(call)
        before = self._translated(parameters)
        named = self._translated(gradients, parameters)
        after = self._apply(optimizer, gradients, parameters)
        left = _flat(parameters) | _flat(after)
        book.step(np.array(optimizer.learning_rate), named, before, self._translated(left))
        return after

    def _trained(self) -> StandIn:
        """What job.listen_to named: nothing is written down before."""
        assert self._stand_in is not None
        return self._stand_in

    def _is_mine(self, parameters: Any) -> bool:
        mine = {id(item) for item in _flat(self._trained().model).values()}
        return any(id(item) in mine for item in _flat(parameters).values())

    def _write(self, call: Call) -> None:
        given = {name: call.arguments.arguments.get(own) for name, own in self._names.items()}
        others = {own: name for name, own in self._names.items()}
        names = [others.get(own, own) for own, item in list(call.arguments.arguments.items())[1:] if item is not None]
        mask = given["attention_mask"]
        number = self.notebook.call(
            _as_numpy(call.hidden), _as_numpy(given["input_ids"]),
            None if given["position_ids"] is None else _as_numpy(given["position_ids"]),
            _as_numpy(mask) if isinstance(mask, mx.array) else None, names,
        )  # fmt: skip
        if call.gradients:
            self.notebook.gradient(number, _as_numpy(sum(call.gradients[1:], start=call.gradients[0])))
        if number < self.notebook.max_replays and given.get("cache") is None:
            self.notebook.again(number, functools.partial(self._hidden_of, call))

    def _hidden_of(self, call: Call, ids: np.ndarray) -> np.ndarray:
        """The hidden states of the same call with other tokens: the parameters are those that it had."""
        own = self._names["input_ids"]
        bound = inspect.BoundArguments(self._signature, call.arguments.arguments.copy())
        bound.arguments[own] = mx.array(ids).astype(bound.arguments[own].dtype)
        self._listens, self._last = False, None
        try:
            self._trained().model(*bound.args[1:], **bound.kwargs)
        finally:
            self._listens = True
        return _as_numpy(self._last)

    def _translated(self, tensors: Any, whole: Any = None) -> dict[str, np.ndarray]:
        """Parameters, or gradients of some of them, by Hugging Face's names; a name is left out that lacks a part."""
        found = _flat(tensors)
        everything = found if whole is None else _flat(whole)
        export, gaps = self._trained().weights, everything.keys() - found.keys()
        assert export is not None  # job.listen_to asks for them
        full = {name: found[name] if name in found else mx.zeros_like(item) for name, item in everything.items()}
        named = {name: _as_numpy(item) for name, item in export(full).items() if name in self.notebook.given}
        if gaps:
            marks = {name: mx.full(item.shape, float(name in gaps)) for name, item in everything.items()}
            named = {name: named[name] for name, item in export(marks).items() if name in named and not item.any()}
        return named

    def heard(self) -> Heard:
        """All that was heard, and the parameters as they are now."""
        stand_in, book = self._stand_in, self.notebook
        left = [item for item in self._calls if item.gradients]
        for call in left or (self._calls[:1] if not book.calls else ()):
            self._write(call)
        heard = book.heard(self._translated(stand_in.model.parameters()) if stand_in else None)
        heard.unheard = UNHEARD if not heard.calls else ""
        return heard


def _flat(tree: Any) -> dict[str, mx.array]:
    """The arrays of a tree by name; of a module its parameters alone, and none of the settings beside them."""
    tree = tree.parameters() if isinstance(tree, nn.Module) else tree
    return {name: item for name, item in tree_flatten(tree) if isinstance(item, mx.array)}


def _as_numpy(item: Any) -> np.ndarray:
    """A copy, bit for bit; numpy has no bfloat16."""
    if isinstance(item, mx.array) and item.dtype == mx.bfloat16:
        return np.array(item.view(mx.uint16)).view("V2")
    return np.array(item)


def _as_mlx(item: np.ndarray) -> mx.array:
    if item.dtype == np.dtype("V2"):
        return mx.array(item.view(np.uint16)).view(mx.bfloat16)
    return mx.array(item)
