"""The recorder for trainers in JAX: what enters the output head, what comes back to it, what the optimizer is given.

The last hidden states go through an identity whose vector-Jacobian product hands the value and its cotangent to Python
(`jax.custom_vjp`, and `jax.experimental.io_callback` in order); so it is heard under jit, grad and scan. The trainer
says where they are, and wraps its optimizer; nothing of JAX is patched:

    hidden = job.recorder.hidden(model, params, input_ids=ids, attention_mask=mask)     # (B, T, H), then the head
    optimizer = job.recorder.optimizer(optax.sgd(1e-2), weights=to_hf, learning_rate=1e-2)
    job.recorder.trained(params)                                                        # at the end of train()
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.recorder import Heard, Notebook, RecorderError
from sftspec.conformance.witness.recorder import listen as listen_with
from sftspec.job import Job

NUMBER = jax.ShapeDtypeStruct((), np.int32)
UNHEARD = (
    "no training call was heard: put the last hidden states through job.recorder.hidden(model, params, input_ids=…),"
    " and take the gradient of what follows"
)
UNSTEPPED = (
    "no optimizer step was heard: train with job.recorder.optimizer(optax.sgd(…), weights=…, learning_rate=…), and give"
    " its update the parameters"
)
UNFINISHED = "it is not known where training ended: call job.recorder.trained(params) at the end of train()"

Weights = Callable[[Any], Mapping[str, Any]]


def listen(trainer: Any, job: Job, provenance: Provenance, max_replays: int, seed: int) -> Heard:
    """Let a trainer do a job."""
    return listen_with(Recorder(job, provenance, max_replays), trainer, job, seed)


class Recorder:
    """Hears one job. Functions that a trainer has compiled for an earlier job are heard by the recorder of this one."""

    current: Recorder | None = None

    def __init__(self, job: Job, provenance: Provenance, max_replays: int):
        self.notebook, self.given = Notebook(job, provenance, max_replays), job.model.stored
        self._made: list[tuple[int, Callable, Any, dict[str, Any]]] = []
        self._updates: list[tuple[int, Any, Any, Weights, Any]] = []  # calls so far, gradients, parameters, …
        self._final: tuple[Any, Weights] | None = None

    def __enter__(self) -> Recorder:
        Recorder.current = self
        return self

    def __exit__(self, *exception: Any) -> None:
        Recorder.current = None

    def give(self, job: Job) -> Job:
        """The job as a trainer gets it: its weights as arrays of JAX, and this recorder."""
        job.model.weights = {name: _as_jax(item) for name, item in job.model.stored.items()}
        job.recorder = self  # type: ignore[attr-defined]
        return job

    # What a trainer calls

    def hidden(self, function: Callable[..., jax.Array], params: Any, input_ids: jax.Array, **named: Any) -> jax.Array:
        """The last hidden states (B, T, H), heard.

        function  (params, input_ids=…, **named) -> (B, T, H): it is called here, and again with other tokens, so all
                  arrays that it needs are given to it
        named     arrays, or None; position_ids and attention_mask are known by these names

        >>> hidden = job.recorder.hidden(model, params, input_ids=ids, segment_ids=segments)  # doctest: +SKIP
        """
        given = {name: item for name, item in named.items() if item is not None}
        states = function(params, input_ids=input_ids, **given)
        if states.ndim != 3 or states.shape[:2] != input_ids.shape:
            raise RecorderError(
                f"{input_ids.shape} tokens give hidden states {states.shape}: they have to be (B, T, H)"
            )
        return _ear(function)(states, jax.lax.stop_gradient((params, input_ids, given)))

    def optimizer(self, inner: Any, weights: Weights, learning_rate: float | Callable[[int], Any]) -> Any:
        """An optax optimizer that is heard: what it is given, and the parameters before.

        inner          what makes the step; put clipping before it (optax.chain)
        weights        parameters -> arrays by Hugging Face's names, as the trainer exports them: they may be renamed,
                       split, joined, transposed. Gradients go through it as well
        learning_rate  a number, or a schedule: optimizer steps made so far -> number
        """
        import optax

        def update(updates: Any, state: Any, params: Any = None, **more: Any) -> Any:
            if params is None:
                raise RecorderError("optimizer.update(gradients, state) is not heard: give params as well")
            self.step(updates, params, weights, learning_rate)
            return inner.update(updates, state, params, **more)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def step(self, gradients: Any, params: Any, weights: Weights, learning_rate: float | Callable[[int], Any]) -> None:
        """Say that an optimizer makes a step: for one that is not of optax."""
        io_callback(functools.partial(_on_step, weights, learning_rate), None, gradients, params, ordered=True)

    def trained(self, params: Any, weights: Weights | None = None) -> None:
        """Say with which parameters training ended."""
        jax.effects_barrier()
        if weights is None and not self._updates:
            raise RecorderError(UNSTEPPED)
        self._final = jax.device_get(params), weights or self._updates[-1][3]

    # What is read when training is over

    def heard(self) -> Heard:
        """All that was heard; the parameters of each step by Hugging Face's names."""
        jax.effects_barrier()
        book = self.notebook
        for calls, gradients, params, weights, rate in self._updates:
            number = len(book.steps)
            book.step(rate(number) if callable(rate) else rate, _named(weights, gradients), _named(weights, params))
            for call in book.calls[calls:]:
                call["step"] = number + 1
        if self._updates and self._final is None:
            raise RecorderError(UNFINISHED)
        compilations: dict[int, Callable] = {}
        for number, function, params, named in self._made:
            compiled = compilations.setdefault(id(function), jax.jit(function))
            again = functools.partial(compiled, params, **named)
            book.again(number, functools.partial(_hidden_of, again))
        heard = book.heard(_named(self._final[1], self._final[0]) if self._final else None)
        heard.unheard = UNHEARD if not heard.calls else ""
        return heard


def _ear(function: Callable) -> Callable:
    """The identity on hidden states that hands out their value, and later their cotangent."""

    @jax.custom_vjp
    def ear(states, called):
        return states

    def forward(states, called):
        return states, io_callback(functools.partial(_on_call, function), NUMBER, states, *called, ordered=True)

    def backward(number, cotangent):
        io_callback(_on_gradient, None, number, cotangent, ordered=True)
        return cotangent, None

    ear.defvjp(forward, backward)
    return ear


def _on_call(function: Callable, states: Any, params: Any, input_ids: Any, named: dict[str, Any]) -> np.int32:
    recorder = Recorder.current
    if recorder is None:
        return np.int32(-1)
    book = recorder.notebook
    mask = named.get("attention_mask")
    number = book.call(states, input_ids, named.get("position_ids"), mask, named)
    if number < book.max_replays:
        recorder._made.append((number, function, *jax.tree.map(np.array, (params, named))))
    return np.int32(number)


def _on_gradient(number: Any, cotangent: Any) -> None:
    if Recorder.current is not None and number >= 0:
        Recorder.current.notebook.gradient(int(number), cotangent)


def _on_step(weights: Weights, rate: Any, gradients: Any, params: Any) -> None:
    if (recorder := Recorder.current) is not None:
        calls = len(recorder.notebook.calls)
        recorder._updates.append((calls, *jax.tree.map(np.array, (gradients, params)), weights, rate))


def _hidden_of(again: Callable, ids: np.ndarray) -> np.ndarray:
    """The hidden states of a call that was compiled, with other tokens."""
    return np.asarray(again(input_ids=ids))


def _named(weights: Weights, params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(item) for name, item in weights(params).items()}


def _as_jax(item: np.ndarray) -> jax.Array:
    return jax.numpy.asarray(item.view(jax.numpy.bfloat16) if item.dtype == np.dtype("V2") else item)
