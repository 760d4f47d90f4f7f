"""tinker-cookbook's renderers of any release: what is trained came as two tensors, and comes as a ModelInput."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from sftspec.conformance.adapters.encoders import Encoder, hugging_face_tokenizer

VARIANT = "chatml/qwen3-nothink"


def without_thinking() -> Encoder:
    """Qwen3 with thinking switched off."""
    from tinker_cookbook import renderers

    renderer = renderers.get_renderer("qwen3_disable_thinking", hugging_face_tokenizer(VARIANT))

    def ask(messages: list[dict], add_generation_prompt: bool) -> tuple[list[int], list[Any]]:
        if add_generation_prompt:
            ids = renderer.build_generation_prompt(messages).to_ints()
            return ids, [False] * len(ids)
        found, weights = renderer.build_supervised_example(messages, renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES)
        ids = found.to_ints() if hasattr(found, "to_ints") else found.tolist()
        return ids, weights.tolist()

    return Encoder("tinker-cookbook:qwen3_disable_thinking", VARIANT, ask, version("tinker-cookbook"))
