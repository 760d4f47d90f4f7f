"""Renderers that a library wrote by hand, in a plain loop: its tokens and its loss mask, our padding and our loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.field.plain_loop import IGNORE, Loop, asks_and_answers
from sftspec.conventions import Conventions
from sftspec.job import Job


@dataclass(frozen=True)
class Renderers(Loop):
    """`renderers.build_training_sample` of Prime Intellect, with the renderer that follows the chat template."""

    package = "renderers"
    conventions = Conventions(header=True, separator=True)

    def row(self, job: Job, messages: list[dict]) -> tuple[list[int], list[int]]:
        import renderers

        renderer = renderers.DefaultRenderer(job.tokenizer)
        found = renderers.build_training_sample(
            renderer, messages, role_to_mask=lambda message: message["role"] == "assistant"
        )
        return labelled(list(found.token_ids), found.loss_mask)


@dataclass(frozen=True)
class TinkerCookbook(Loop):
    """`build_supervised_example` of Thinking Machines' renderer for ChatML, all assistants' messages trained."""

    package = "tinker-cookbook"
    conventions = Conventions(special_tokens="literal", tokenization="segmented")

    def accepts(self, conversation: list[Any]) -> bool:
        """The form of tools is Qwen's own, and not the template's. Reasoning it takes as it stands in the content, and
        makes tokens of its tags while other control strings stay text: no convention of sftspec says that.
        """
        return asks_and_answers(conversation) and not any("<think>" in item["content"] for item in conversation)

    def row(self, job: Job, messages: list[dict]) -> tuple[list[int], list[int]]:
        from tinker_cookbook import renderers

        renderer = renderers.get_renderer("qwen3_instruct", job.tokenizer)
        found, weights = renderer.build_supervised_example(messages, renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES)
        return labelled(found.to_ints(), weights.tolist())


def labelled(ids: list[int], trained: Any) -> tuple[list[int], list[int]]:
    return ids, [token if flag else IGNORE for token, flag in zip(ids, trained, strict=True)]
