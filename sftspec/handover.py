"""How a model is handed to a trainer that takes no object: as a folder, or as a class of the trainer's own.

folder = job.save_model()                         config.json, model.safetensors, the tokenizer's files
job.listen_to(LlamaForCausalLM)                   the trainer loads the folder by itself: the first instance called
job.listen_to(GPT, hidden="transformer.ln_f", weights=to_hf, arguments={"input_ids": "idx"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec.adapters import Adapter


@dataclass(frozen=True)
class StandIn:
    """A model that is trained in place of job.model, and begins with its weights.

    model      the module, or its class: the first instance that is called for training is meant
    hidden     name of the submodule whose output (B, T, H) enters the head; "": the model is a Hugging Face one
    weights    its state by name -> the same numbers under job.model's names and shapes. It may rename, split, join and
               reorder, as the export function of every trainer does: gradients go through it as well
    arguments  names of its forward's arguments, by what they are: input_ids, position_ids, attention_mask
    adapters   the low-rank adapters beside its matrices, by the names that `weights` gives matrices and factors
    """

    model: Any
    hidden: str = ""
    weights: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()


@dataclass
class Handover:
    """What became of a job's model.

    listeners  who is told of a stand-in
    folders    where it was saved
    home       name of the folder in the workdir where it is saved, if no other is named
    """

    listeners: list[Callable[[StandIn], None]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    home: str = "model"
