"""LLaMA-Factory's packing: its dataset processor and its collator, in a plain loop.

`llamafactory` itself is not imported, which would import every trainer it has; of it, `llamafactory.data` is.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from sftspec.conformance.adapters.field.plain_loop import Loop, asks_and_answers
from sftspec.conventions import Conventions
from sftspec.job import Job


@dataclass(frozen=True)
class Packing(Loop):
    """neat  neat_packing, where the release has it"""

    neat: bool = True

    package = "llamafactory"
    claims = frozenset({"packing"})
    conventions = Conventions(tokenization="answers")

    def accepts(self, conversation: list[Any]) -> bool:
        return asks_and_answers(conversation)

    def batches(self, job: Job, epoch: int) -> Iterable[dict[str, torch.Tensor]]:
        without_trainers()
        data = import_module("llamafactory.data")
        arguments = SimpleNamespace(
            cutoff_len=job.max_length, reserved_label_len=1, train_on_prompt=False, mask_history=False, packing=True,
            neat_packing=self.neat, template="chatml", tool_format=None, default_system=None, enable_thinking=True,
        )  # fmt: skip
        template = template_of(job.tokenizer, data, arguments)
        rows = packed(columns(job.conversations), template, job.tokenizer, arguments)
        rows = {key: rows[key] for key in ("input_ids", "attention_mask", "position_ids", "labels") if key in rows}
        features = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        collate = collator(data, job, template)
        for start in range(0, len(features), job.batch_size):
            batch = collate(features[start : start + job.batch_size])
            yield {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def without_trainers() -> None:
    """A package of this name whose modules are found where the release has them."""
    if "llamafactory" not in sys.modules:
        found: Any = importlib.util.find_spec("llamafactory")
        module = types.ModuleType("llamafactory")
        module.__path__ = list(found.submodule_search_locations)
        sys.modules["llamafactory"] = module


def template_of(tokenizer: Any, data: Any, arguments: Any) -> Any:
    try:
        return data.get_template_and_fix_tokenizer(tokenizer, arguments)
    except Exception:  # 0.8 takes its name
        return data.get_template_and_fix_tokenizer(tokenizer, "chatml")


def columns(conversations: Iterable[Any]) -> dict[str, list]:
    """As LLaMA-Factory's own alignment gives them, under the names of both times."""
    rows = []
    for conversation in conversations:
        messages = [dict(message) for message in conversation]
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
        rows.append({"prompt": messages[:-1], "response": messages[-1:], "system": system, "tools": ""})
    media: dict[str, list] = {"images": [], "videos": [], "audios": []}
    found = {key: [row[key] for row in rows] for key in rows[0]} | {key: [[] for _ in rows] for key in media}
    return found | {f"_{key}": value for key, value in found.items()}


def packed(examples: dict[str, list], template: Any, tokenizer: Any, arguments: Any) -> dict[str, list]:
    try:
        module = import_module("llamafactory.data.processor.supervised")
    except ImportError:
        module = import_module("llamafactory.data.processors.supervised")
        return module.preprocess_packed_supervised_dataset(
            examples, template=template, tokenizer=tokenizer, data_args=arguments, **extra(module)
        )
    return module.PackedSupervisedDatasetProcessor(template, tokenizer, None, arguments).preprocess_dataset(examples)


def extra(module: Any) -> dict[str, Any]:
    """Since 0.9 the function takes a processor, too."""
    import inspect

    return (
        {"processor": None}
        if "processor" in inspect.signature(module.preprocess_packed_supervised_dataset).parameters
        else {}
    )


def collator(data: Any, job: Job, template: Any) -> Any:
    options: dict[str, Any] = {"tokenizer": job.tokenizer, "label_pad_token_id": -100}
    made = getattr(data, "SFTDataCollatorWith4DAttentionMask", None)
    if made is None:  # before 0.8.3
        from transformers import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(**options)
    fields = made.__dataclass_fields__
    own = {"template": template, "block_diag_attn": True, "attn_implementation": "sdpa", "compute_dtype": torch.float32}
    return made(**options, **{key: value for key, value in own.items() if key in fields})
