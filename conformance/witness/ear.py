"""What is listened to: job.model, by the names of its own parameters, whatever was put around them.

A trainer may wrap what it was given. Adapters (PEFT's) move a matrix to `base_layer` and stand beside it; a module that
is trained whole stands beside its original. All of it is told by the names that job.model came with, and by the
adapters' own. How an adapter enters its matrix is read off PEFT's module (`Adapter`), or told with a class of the
trainer's own; what trains and cannot be told so is named in `unread`, and nothing is computed on a guess.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sftspec.adapters import Adapter
from sftspec.conformance.witness.shards import gathered_of, is_sharded, local
from sftspec.handover import StandIn

WRAPPED = re.compile(r"\.base_layer(?=\.|$)|\.modules_to_save\.[^.]+(?=\.|$)")


class HandoverError(RuntimeError):
    """A model that cannot be heard as it was handed over; says what is missing."""


def states(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is here of the parameters, by name."""
    return {name: local(item.detach()) for name, item in named.items()}


class Hook:
    """A hook that listens where it was set and nowhere else: in a copy of the model, or in another process that the
    model was sent to, it does nothing.
    """

    def __init__(self, listen: Callable[..., None]):
        self.listen = listen

    def __call__(self, *args):
        return self.listen(*args)

    def __reduce__(self):
        return getattr, (contextlib.nullcontext(), "__exit__")  # takes anything, returns None, needs no sftspec


class Ear:
    """Hears job.model itself."""

    handle: Any = None

    def __init__(self, model: Any):
        self.model, self.module = model, model.base_model
        self.given = {name: item.shape for name, item in model.named_parameters()}
        head = model.get_output_embeddings().weight
        self.head_name = next(name for name, item in model.named_parameters() if item is head)

    def hidden(self, output: Any) -> Tensor:
        """The last hidden states (B, T, H) of what the module returned."""
        return output[0] if isinstance(output, tuple) else output.last_hidden_state

    def called_with(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by job.model's names."""
        return {"input_ids": args[0], **kwargs} if args else dict(kwargs)

    def with_tokens(self, args: tuple, kwargs: Mapping[str, Any], input_ids: Tensor) -> tuple[tuple, dict[str, Any]]:
        """The same arguments with other tokens."""
        if args:
            return (input_ids.to(args[0].device), *args[1:]), dict(kwargs)
        return args, {**kwargs, "input_ids": input_ids.to(kwargs["input_ids"].device)}

    def named(self) -> dict[str, Tensor]:
        """The parameters that compute, by name; a matrix that is kept quantised is given as it computes."""
        found = {}
        for name, item in self.model.named_parameters():
            if ".original_module." not in f".{name}":
                found[WRAPPED.sub("", name)] = item
        return found if self.given.keys() <= found.keys() else found | dict(self._dequantised(found.keys()))

    def leaves(self) -> dict[str, Tensor]:
        """What a backward pass gives its gradient to, by the names of the parameters."""
        gathered = {WRAPPED.sub("", name): item for name, item in gathered_of(self.model).items()}
        return {name: gathered.get(name, item) for name, item in self.named().items()}

    def _dequantised(self, there: Any) -> Iterator[tuple[str, Tensor]]:
        for name, module in self.model.named_modules():
            place = f"{WRAPPED.sub('', name)}.weight"
            if place in self.given and place not in there and not hasattr(module, "base_layer"):
                weight = getattr(module, "weight", None)
                weight = module.dequantize() if callable(getattr(module, "dequantize", None)) else weight
                if isinstance(weight, Tensor) and weight.is_floating_point() and weight.shape == self.given[place]:
                    yield place, weight.detach()

    def translated(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the model's own names, by job.model's."""
        return dict(tensors)

    def final(self) -> dict[str, Tensor]:
        """The parameters as the trainer left them, by job.model's names."""
        return self.translated(states(self.named()))

    def head(self) -> Tensor:
        """The parameter at the head."""
        return self.named()[self.head_name]

    def is_tied(self, head: Tensor) -> bool:
        """Is the head the embedding as well?"""
        return head is self.model.get_input_embeddings().weight

    def adapters(self) -> tuple[Adapter, ...]:
        """The low-rank adapters that stand beside the matrices."""
        return tuple(adapter for name, module in self.model.named_modules() for adapter in _adapters_of(name, module))

    def saved(self) -> tuple[str, ...]:
        """Parameters that are trained whole beside adapters: PEFT's modules_to_save, and biases that it trains."""
        config = next(iter((getattr(self.model, "peft_config", None) or {"": None}).values()))
        biases = getattr(config, "bias", "none") != "none"
        names = ((name, WRAPPED.sub("", name)) for name, _ in self.model.named_parameters())
        return tuple(own for name, own in names if ".modules_to_save." in name or (biases and own.endswith(".bias")))

    def unread(self) -> str:
        """What trains, and enters the weights in a way that is not known ("": nothing)."""
        named = self.named()
        known = {*self.given, *(name for adapter in self.adapters() for name in adapter.parameters)}
        other = [name for name, item in named.items() if name not in known and item.requires_grad]
        lost = [name for name in self.given if name not in named]
        if other:
            return f"{other[0]} trains, and how it enters the weights is not known (known: LoRA, rsLoRA, DoRA)"
        return f"{lost[0]} is no longer there: what computes in its place is not known" if lost else ""


def _adapters_of(name: str, module: Any) -> Iterator[Adapter]:
    """Of PEFT's layers: dictionaries of factors, scalings and variants by the name of an adapter."""
    if not (hasattr(module, "base_layer") and hasattr(module, "lora_A") and hasattr(module, "scaling")):
        return
    place = WRAPPED.sub("", name)
    for key, scaling in module.scaling.items():
        embedded = key in module.lora_embedding_A
        a, b = ("lora_embedding_A", "lora_embedding_B") if embedded else ("lora_A", "lora_B")
        if not embedded and key not in module.lora_A:
            continue
        end = key if embedded else f"{key}.weight"
        variant = type(module.lora_variant.get(key)).__name__ if getattr(module, "lora_variant", None) else "NoneType"
        if key in getattr(module, "merged_adapters", ()) or not (variant == "NoneType" or variant.startswith("Dora")):
            continue
        rate = getattr(module.lora_dropout[key], "p", 0.0) if key in module.lora_dropout else 0.0
        magnitude = f"{place}.lora_magnitude_vector.{key}.weight" if variant.startswith("Dora") else ""
        yield Adapter(
            f"{place}.weight", f"{place}.{a}.{end}", f"{place}.{b}.{end}", int(module.r[key]),
            float(module.lora_alpha[key]), float(scaling),
            bool(getattr(module, "use_rslora", {}).get(key, False)),
            embedded or bool(getattr(module, "fan_in_fan_out", False)), float(rate), magnitude,
        )  # fmt: skip


class LoadedEar(Ear):
    """Hears a Hugging Face model that the trainer loaded from what job.save_model wrote."""

    def __init__(self, given: Any, model: Any):
        super().__init__(model)
        require_same_weights(self.named(), given, "load what job.save_model wrote")


class StandInEar(Ear):
    """Hears a model of the trainer's own class, by job.model's names (sftspec.handover.StandIn)."""

    def __init__(self, given: Any, stand_in: StandIn, model: Any):
        self.model, self.module, self.stand_in = model, model, stand_in
        assert stand_in.weights is not None  # job.listen_to refuses it without them
        self.export = stand_in.weights
        self.given = {name: item.shape for name, item in given.named_parameters()}
        self.factors = {name for adapter in stand_in.adapters for name in adapter.parameters}
        self.head_name = Ear(given).head_name
        self.signature = inspect.signature(type(model).forward)
        self.names = {"input_ids": "input_ids", **stand_in.arguments}
        for own in self.names.values():
            if own not in self.signature.parameters:
                raise HandoverError(f"{type(model).__name__}.forward has no argument {own!r}: {self.signature}")
        try:
            place = model.get_submodule(stand_in.hidden)
        except AttributeError:
            there = ", ".join(name for name, _ in model.named_modules() if name)
            raise HandoverError(
                f"{type(model).__name__} has no submodule {stand_in.hidden!r}; it has {there}"
            ) from None
        self._last: Tensor | None = None
        self.handle = place.register_forward_hook(Hook(self._remember))
        found = self.translated(self.named())
        require_same_weights(found, given, "load what job.save_model wrote, and check weights()")
        for adapter in stand_in.adapters:
            if lost := [name for name in (adapter.target, *adapter.parameters) if name not in found]:
                raise HandoverError(f"an adapter names {lost[0]}, which weights() does not give")
        self._head = self._find_head()

    def _remember(self, module, args, output) -> None:
        self._last = output

    def hidden(self, output: Any) -> Tensor:
        if self._last is None:
            raise HandoverError(
                f"the submodule {self.stand_in.hidden!r} was not called: name one that the head follows"
            )
        found, self._last = self._last, None
        return found

    def _bound(self, args: tuple, kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        return self.signature.bind(self.model, *args, **kwargs)

    def called_with(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = {own: name for name, own in self.names.items()}
        bound = list(self._bound(args, kwargs).arguments.items())[1:]
        return {given.get(own, own): value for own, value in bound}

    def with_tokens(self, args: tuple, kwargs: Mapping[str, Any], input_ids: Tensor) -> tuple[tuple, dict[str, Any]]:
        bound, own = self._bound(args, kwargs), self.names["input_ids"]
        bound.arguments[own] = input_ids.to(bound.arguments[own].device, bound.arguments[own].dtype)
        return bound.args[1:], dict(bound.kwargs)

    def named(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def translated(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is missing (a parameter without a gradient) is left out under each name that is made of it."""
        named = self.named()
        if any(is_sharded(item) for item in named.values()):
            raise HandoverError(
                "a model of the trainer's own class that fully_shard has cut up cannot be heard, as weights() takes"
                " whole tensors: wrap it in DistributedDataParallel, or train Hugging Face's class"
            )
        gaps = named.keys() - tensors.keys()
        full = {
            name: tensors[name].detach() if name in tensors else torch.zeros_like(item) for name, item in named.items()
        }
        told = self.given.keys() | self.factors
        found = {name: item for name, item in self.export(full).items() if name in told}
        if gaps:
            marks = {name: torch.full_like(item, float(name in gaps)).detach() for name, item in named.items()}
            missing = {name for name, item in self.export(marks).items() if bool(item.any())}
            found = {name: item for name, item in found.items() if name not in missing}
        return found

    def head(self) -> Tensor:
        return self._head

    def is_tied(self, head: Tensor) -> bool:
        return False

    def adapters(self) -> tuple[Adapter, ...]:
        return self.stand_in.adapters

    def saved(self) -> tuple[str, ...]:
        return ()

    def unread(self) -> str:
        """A parameter that trains, and that weights() makes nothing of."""
        zeros = {name: torch.zeros_like(item) for name, item in self.named().items()}
        for name, item in self.named().items():
            if item.requires_grad:
                marked = self.export({**zeros, name: torch.ones_like(item)})
                if not any(bool(value.any()) for value in marked.values()):
                    return f"{name} trains, and weights() makes nothing of it"
        return ""

    def _find_head(self) -> Tensor:
        """Its own parameter that becomes job.model's head."""
        zeros = {name: torch.zeros_like(item) for name, item in self.named().items()}
        for name, item in self.named().items():
            if item.shape == self.given[self.head_name]:
                marked = self.export({**zeros, name: torch.ones_like(item)})
                if bool(marked[self.head_name].any()):
                    return item
        raise HandoverError(f"no parameter of {type(self.model).__name__} becomes {self.head_name} through weights()")


def require_same_weights(own: Mapping[str, Tensor], given: Any, advice: str) -> None:
    """Raise HandoverError unless these are the weights of job.model, bit for bit in the coarser of the two dtypes."""
    for name, item in given.named_parameters():
        if name not in own:
            raise HandoverError(
                f"the model that is trained has no {name}: {advice}; it has {', '.join(sorted(own)[:4])} …"
            )
        mine = own[name].detach()
        same = mine.shape == item.shape and (
            torch.equal(mine.to(item.device, item.dtype), item) or torch.equal(item.to(mine.device, mine.dtype), mine)
        )
        if not same:
            raise HandoverError(
                f"the model that is trained does not begin with job.model's weights: {name} differs; {advice}"
            )


@torch.no_grad()
def require_hidden_states(ear: StandInEar, given: Any, input_ids: Tensor) -> None:
    """Raise HandoverError where the submodule gives other states than job.model's last hidden ones.

    Read of single tokens, which attend to nothing else: whatever is wrong with a mask or a position is no matter of
    where it is listened. A model that cannot be called with tokens alone is not asked.
    """
    tokens, name = input_ids[:, :1], ear.stand_in.hidden
    states = given.base_model(input_ids=tokens.to(next(given.parameters()).device)).last_hidden_state[:, 0]
    try:
        ear.module.forward(**{ear.names["input_ids"]: tokens})
    except Exception:
        return
    own = ear.hidden(None)
    if own.dim() != 3 or own.shape[-1] != states.shape[-1]:
        raise HandoverError(
            f"the submodule {name!r} gives {tuple(own.shape)}, the head takes (B, T, {states.shape[-1]})"
        )
    states, own = states.double().cpu(), own[:, 0].double().cpu()
    error = float((own - states).norm() / states.norm())
    if error > 0.1:
        raise HandoverError(
            f"the submodule {name!r} does not give job.model's last hidden states (off by {error:.0%}): name the one"
            " whose output enters the head"
        )
