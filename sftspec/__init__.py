"""sftspec: the executable specification of LLM supervised fine-tuning, and the suite that verifies trainers against it.

`import sftspec` is lazy: a name is loaded with its module when it is first used, so that listing and explaining
properties need no torch.
"""

from __future__ import annotations

import importlib

SPEC_REVISION = "2026-12"
__version__ = "0.1.0"

_PLACES = {
    "Conversation": "conversation",
    "load_conversations": "conversation",
    "render": "templates",
    "encode": "masking",
    "encode_batch": "masking",
    "Conventions": "conventions",
    "pack": "packing",
    "collate": "collation",
    "sft_loss": "step",
    "sft_step": "step",
    "best_of_n": "selection",
    "top_k": "selection",
    "expected_max_normal": "order_statistics",
    "expected_best_of_n": "order_statistics",
    "expected_gold": "order_statistics",
    "pass_at_n": "order_statistics",
    "best_of_n_law": "order_statistics",
    "best_of_n_kl_bound": "order_statistics",
    "win_rate": "order_statistics",
    "rejection_sample": "rejection_sampling",
    "distillation_loss": "distillation",
    "frozen_logits": "distillation",
    "generalised_jsd": "divergences",
    "with_tail_bucket": "divergences",
    "Job": "job",
    "Run": "properties.ledger.run",
    "Pipeline": "trainer",
    "Trainer": "trainer",
    "check": "conformance.gate.check",
    "exit_code": "conformance.report.outcome",
    "parametrize_with_properties": "conformance.gate.properties_as_tests",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str):
    if name in _PLACES:
        value = getattr(importlib.import_module(f"sftspec.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'sftspec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
