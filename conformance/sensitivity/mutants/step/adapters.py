"""Adapters that are put in, scaled, trained or merged wrongly; and runs in which too little wants a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.job import Job
from sftspec.trainer import Pipeline


def nothing(model: Any) -> None:
    """As it is."""


@dataclass(frozen=True)
class Adapted(Pipeline):
    """The reference, with low-rank adapters by PEFT.

    options      of peft.LoraConfig
    begin, end   what is done to the adapted model before training, and after it
    """

    options: dict[str, Any] = field(default_factory=lambda: {"r": 8, "lora_alpha": 16})
    begin: Callable[[Any], Any] = nothing
    end: Callable[[Any], Any] = nothing
    claims: ClassVar[frozenset[str]] = frozenset({"padding", "adamw"})  # the other jobs show nothing more of adapters

    def train(self, job: Job) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **self.options)
        job.model = get_peft_model(job.model, config)
        self.begin(job.model)
        super().train(job)
        self.end(job.model)


@dataclass(frozen=True)
class Prepared(Pipeline):
    """The reference, with something done to the model before training."""

    begin: Callable[[Any], Any] = nothing
    claims: ClassVar[frozenset[str]] = Adapted.claims

    def train(self, job: Job) -> None:
        self.begin(job.model)
        super().train(job)


def layers(model: Any) -> list[Any]:
    """The matrices that have an adapter."""
    return [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling")]


def scaled(model: Any, factor: float) -> None:
    for layer in layers(model):
        layer.scaling["default"] *= factor


@killed_by("adapters-learn only-adapters-and-saved-modules-move")
@seen_in("subtle form of huggingface/trl#3926")
@effect("what is saved is an adapter of zero", fix="train what get_peft_model left trainable")
def base_trained_beside_frozen_adapters():
    """The base is trained, and the adapters are frozen."""

    def swap(model):
        for name, item in model.named_parameters():
            item.requires_grad_("lora_" not in name)

    return Adapted(begin=swap)


@killed_by("only-adapters-and-saved-modules-move")
@seen_in("subtle form of step/base-trained-beside-frozen-adapters")
@effect("what is saved is not what was trained", fix="name them in modules_to_save")
def norms_woken():
    """Norms are trained beside the adapters, and not saved with them."""

    def wake(model):
        for name, item in model.named_parameters():
            if "norm" in name or "ln_" in name:
                item.requires_grad_(True)

    return Adapted(begin=wake)


@killed_by("adapters-learn")
@seen_in("subtle form of huggingface/trl#3926")
@effect("half of the adapters stay at zero", fix="train all of them")
def adapters_of_one_layer_trained():
    """The adapters of the first layer alone are trained."""

    def keep(model):
        for name, item in model.named_parameters():
            item.requires_grad_("lora_" in name and (".layers.0." in name or ".h.0." in name))

    return Adapted(begin=keep)


@killed_by("new-adapters-change-nothing")
@seen_in("arXiv:2106.09685 section 4.1")
@effect("training begins from another model", fix="B begins at zero")
def both_factors_drawn():
    """Both factors of the adapters are drawn at random."""

    def draw(model):
        for name, item in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(item, std=0.02, generator=torch.Generator().manual_seed(0))

    return Adapted(begin=draw)


@killed_by("adapters-are-scaled-as-declared")
@seen_in("arXiv:2106.09685 section 4.1")
@effect("another learning rate", fix="scale by alpha / r, once")
def scaled_twice():
    """The scale of the adapters is applied twice."""
    return Adapted(begin=lambda model: scaled(model, 2.0))


@killed_by("adapters-are-scaled-as-declared")
@seen_in("arXiv:2312.03732")
@effect("high ranks learn too slowly", fix="alpha / sqrt(r)")
def stabilised_by_name_only():
    """Rank stabilisation is declared, and adapters are scaled by alpha / r."""
    options = {"r": 16, "lora_alpha": 16, "use_rslora": True}
    return Adapted(options=options, begin=lambda model: scaled(model, 16**-0.5))


@killed_by("packing/hidden-states-equal-those-alone")
@seen_in("subtle form of step/scaled-twice")
@effect("another learning rate", fix="leave the forward pass alone")
def scaled_in_the_forward_pass():
    """What an adapter adds is doubled in the forward pass; the scale that it states is right."""

    def double(model):
        for layer in layers(model):
            layer.lora_B["default"].register_forward_hook(lambda module, args, output: 2 * output)

    return Adapted(begin=double)


@killed_by("merged-equals-unmerged")
@seen_in("arXiv:2106.09685 section 4.1")
@effect("another model is handed over", fix="merge once")
def merged_at_twice_the_scale():
    """Adapters are merged at twice the scale at which they were trained."""

    def merge(model):
        scaled(model, 2.0)
        model.merge_and_unload()

    return Adapted(end=merge)


@killed_by("merged-equals-unmerged")
@seen_in("subtle form of step/merged-at-twice-the-scale")
@effect("another model is handed over", fix="merge in the base's precision")
def merged_in_bfloat16():
    """What the adapters add is rounded to bfloat16 as it is merged."""

    def merge(model):
        for layer in layers(model):
            for part in (layer.lora_A["default"], layer.lora_B["default"]):
                part.weight.data = part.weight.data.bfloat16().float()
        model.merge_and_unload()

    return Adapted(end=merge)


@killed_by("gradients-reach-the-hidden-states")
@seen_in("subtle form of huggingface/trl#3926")
@effect("only the head learns", fix="leave the hidden states in the graph")
def hidden_states_detached():
    """The hidden states are detached before the head."""

    def detach(model):
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (args[0].detach(),))

    return Prepared(begin=detach)


@killed_by("what-came-trainable-is-trained")
@seen_in("subtle form of huggingface/trl#3926")
@effect("the embedding never learns", fix="freeze what is meant to be frozen")
def embedding_frozen_at_the_start():
    """The embedding wants no gradient any more when training begins."""
    return Prepared(begin=lambda model: model.get_input_embeddings().weight.requires_grad_(False))
