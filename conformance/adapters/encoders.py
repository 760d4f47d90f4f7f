"""Renderers that libraries wrote by hand, as functions from messages to tokens and what is trained of them.

    renderers:qwen3, renderers:llama3                        Prime Intellect's, PyPI renderers
    tinker-cookbook:qwen3, :qwen3_instruct, :llama3          Thinking Machines', PyPI tinker-cookbook

Each is asked with the small tokenizer, for all that it says itself: its tokens, and the tokens that it calls the
model's. It parses control strings in contents, so that it is asked with contents without any.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters import TrainerError
from sftspec.golden.small_tokenizer import load
from sftspec.masking import IGNORE

Asked = tuple[list[int], Sequence[Any]]  # T ids, and T flags: the model writes this token
Ask = Callable[[list[dict], bool], Asked]  # of messages and add_generation_prompt


@dataclass(frozen=True)
class Encoding:
    """The part of an Encoded that a library can give: T ids and T labels."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Encoder:
    """A library's renderer.

    variant  the named variant that it implements: its BOS, its end-of-turn, whether it rewrites history
    ask      (messages, add_generation_prompt) to ids and flags
    version  of the library
    """

    name: str
    variant: str
    ask: Ask
    version: str

    def __call__(self, messages: list[dict], add_generation_prompt: bool) -> Encoding:
        ids, trained = self.ask([dict(message) for message in messages], add_generation_prompt)
        return Encoding(ids, [token if flag else IGNORE for token, flag in zip(ids, trained, strict=True)])


def hugging_face_tokenizer(variant: str) -> Any:
    """The small tokenizer, as libraries take one."""
    from transformers import PreTrainedTokenizerFast

    from sftspec.templates import TEMPLATES

    template = TEMPLATES[variant]
    return PreTrainedTokenizerFast(
        tokenizer_object=load(), bos_token=template.bos or None, eos_token=template.end_of_turn, pad_token="<|pad|>"
    )


def ask_renderers(config: str, variant: str) -> Ask:
    import renderers
    from renderers import configs

    renderer = renderers.create_renderer(hugging_face_tokenizer(variant), getattr(configs, config)())

    def ask(messages: list[dict], add_generation_prompt: bool) -> Asked:
        found = renderer.render(messages, add_generation_prompt=add_generation_prompt)
        # Its documentation: train on tokens whose role is trainable and that the model would sample.
        places = zip(found.message_indices, found.sampled_mask, strict=True)
        return found.token_ids, [at >= 0 and messages[at]["role"] == "assistant" and said for at, said in places]

    return ask


def ask_tinker(name: str, variant: str) -> Ask:
    from tinker_cookbook import renderers

    renderer = renderers.get_renderer(name, hugging_face_tokenizer(variant))

    def ask(messages: list[dict], add_generation_prompt: bool) -> Asked:
        if add_generation_prompt:
            ids = renderer.build_generation_prompt(messages).to_ints()
            return ids, [False] * len(ids)
        found, weights = renderer.build_supervised_example(messages, renderers.TrainOnWhat.ALL_ASSISTANT_MESSAGES)
        return found.to_ints(), weights.tolist()

    return ask


# By library: the module, how to ask it, and of each of its names what it takes and the variant.
LIBRARIES: dict[
    str, tuple[str, Callable[[str, str], Callable[[list[dict], bool], Asked]], dict[str, tuple[str, str]]]
] = {
    "renderers": (
        "renderers",
        ask_renderers,
        {"qwen3": ("Qwen3RendererConfig", "chatml/qwen3"), "llama3": ("Llama3RendererConfig", "llama3.1/hf")},
    ),
    "tinker-cookbook": (
        "tinker_cookbook",
        ask_tinker,
        {
            "qwen3": ("qwen3", "chatml/qwen3"),
            "qwen3_instruct": ("qwen3_instruct", "chatml/openai"),
            "llama3": ("llama3", "llama3/llama-models"),
        },
    ),
}


def encoders_at(place: str) -> list[Encoder]:
    """The renderers of a library, or the one that is named "library:name". Raises TrainerError."""
    from importlib.metadata import version

    library, _, name = place.partition(":")
    module, make, names = LIBRARIES[library]
    if importlib.util.find_spec(module) is None:
        raise TrainerError(f"{library} is not installed here: pip install {library}")
    if name and name not in names:
        raise TrainerError(f"{library} has no {name!r} here; known: {', '.join(names)}")
    try:
        return [
            Encoder(f"{library}:{key}", variant, make(asked, variant), version(library))
            for key, (asked, variant) in names.items()
            if name in ("", key)
        ]
    except ImportError as error:
        raise TrainerError(f"{library} cannot be imported: {error}") from error
