"""Renderers that libraries wrote by hand, as functions from messages to tokens and what is trained of them.

    renderers:qwen3, renderers:llama3                        Prime Intellect's, PyPI renderers
    tinker-cookbook:qwen3, :qwen3_instruct, :llama3          Thinking Machines', PyPI tinker-cookbook
    llamafactory:chatml, :qwen, :qwen3, :llama2, :llama3, …  LLaMA-Factory's, PyPI llamafactory
    mistral-common:v1, :v3, :v7, :tekken                     Mistral's, PyPI mistral-common

Each is asked with the small tokenizer, for all that it says itself: its tokens, and the tokens that it calls the
model's. It parses control strings in contents, so that it is asked with contents without any. Mistral's bring their own
vocabularies, and say nothing of what is trained: there it is what comes after the prompt for the last turn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters import TrainerError
from sftspec.golden.small_tokenizer import load
from sftspec.masking import IGNORE
from sftspec.spans import TemplateError

Asked = tuple[list[int], Sequence[Any]]  # T ids, and T flags: the model writes this token
Ask = Callable[[list[dict], bool], Asked]  # of messages and add_generation_prompt; refuses by TemplateError


@dataclass(frozen=True)
class Encoding:
    """The part of an Encoded that a library can give: T ids and T labels."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Encoder:
    """A library's renderer.

    variant    the named variant that it implements: its BOS, its end-of-turn, whether it rewrites history ("": none)
    ask        (messages, add_generation_prompt) to ids and flags
    version    of the library
    ends_with  the role that a conversation to be trained on has to end with ("": any)
    tokenizer  whose tokens it gives: those of the "small" one, or "its own"
    """

    name: str
    variant: str
    ask: Ask
    version: str
    ends_with: str = ""
    tokenizer: str = "small"

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


def ask_llamafactory(name: str, variant: str) -> Ask:
    """Its dataset processor for training, and what its chat engine asks for inference."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams.data_args import DataArguments

    arguments = DataArguments(template=name, cutoff_len=10**6)
    tokenizer = hugging_face_tokenizer(variant)
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    processor = SupervisedDatasetProcessor(template, tokenizer, None, arguments)

    def ask(messages: list[dict], add_generation_prompt: bool) -> Asked:
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        turns = messages if system is None else messages[1:]
        if add_generation_prompt:
            ids, _ = template.encode_oneturn(tokenizer, [*turns, {"role": "assistant", "content": ""}], system)
            return ids, [False] * len(ids)
        columns = {"prompt": turns[:-1], "response": turns[-1:], "system": system, "tools": None}
        media: dict[str, list] = {"images": [], "videos": [], "audios": []}
        row = processor.preprocess_dataset({f"_{key}": [value] for key, value in {**columns, **media}.items()})
        if not row["labels"]:
            raise TemplateError("LLaMA-Factory drops this example")
        return row["input_ids"][0], [label != IGNORE for label in row["labels"][0]]

    return ask


def ask_mistral(name: str, variant: str) -> Ask:
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    (path,) = MistralTokenizer._data_path().glob(name)
    training, inference = (
        MistralTokenizer.from_file(str(path), mode=mode) for mode in (ValidationMode.finetuning, ValidationMode.test)
    )

    def ids_of(tokenizer: Any, messages: list[dict]) -> list[int]:
        try:
            return tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
        except MistralCommonException as error:
            raise TemplateError(str(error)) from error

    def ask(messages: list[dict], add_generation_prompt: bool) -> Asked:
        if add_generation_prompt:
            ids = ids_of(inference, messages)
            return ids, [False] * len(ids)
        ids, prompt = ids_of(training, messages), ids_of(inference, messages[:-1])
        return ids, [position >= len(prompt) for position in range(len(ids))]

    return ask


@dataclass(frozen=True)
class Library:
    """module  that has to be installed
    make    (what it takes, variant) to how it is asked
    names   of its renderers, with what it takes and the variant
    """

    module: str
    make: Callable[[str, str], Ask]
    names: dict[str, tuple[str, str]]
    ends_with: str = ""
    tokenizer: str = "small"


LIBRARIES = {
    "renderers": Library(
        "renderers",
        ask_renderers,
        {"qwen3": ("Qwen3RendererConfig", "chatml/qwen3"), "llama3": ("Llama3RendererConfig", "llama3.1/hf")},
    ),
    "tinker-cookbook": Library(
        "tinker_cookbook",
        ask_tinker,
        {
            "qwen3": ("qwen3", "chatml/qwen3"),
            "qwen3_instruct": ("qwen3_instruct", "chatml/openai"),
            "llama3": ("llama3", "llama3/llama-models"),
        },
    ),
    "llamafactory": Library(
        "llamafactory",
        ask_llamafactory,
        {
            "chatml": ("chatml", "chatml/openai"),
            "qwen": ("qwen", "chatml/qwen2.5"),
            "qwen3": ("qwen3", "chatml/qwen3"),
            "qwen3_nothink": ("qwen3_nothink", "chatml/openai"),
            "llama2": ("llama2", "llama2/meta"),
            "llama3": ("llama3", "llama3/llama-models"),
        },
        ends_with="assistant",
    ),
    "mistral-common": Library(
        "mistral_common",
        ask_mistral,
        {
            "v1": ("tokenizer.model.v1", ""),
            "v3": ("mistral_instruct_tokenizer_*.model.v3", ""),
            "v7": ("mistral_instruct_tokenizer_*.model.v7", ""),
            "tekken": ("tekken_240911.json", ""),
        },
        ends_with="assistant",
        tokenizer="its own",
    ),
}


def encoders_at(place: str) -> list[Encoder]:
    """The renderers of a library, or the one that is named "library:name". Raises TrainerError."""
    from importlib.metadata import version

    library, _, name = place.partition(":")
    known = LIBRARIES[library]
    if importlib.util.find_spec(known.module) is None:
        raise TrainerError(f"{library} is not installed here: pip install {library}")
    if name and name not in known.names:
        raise TrainerError(f"{library} has no {name!r} here; known: {', '.join(known.names)}")
    try:
        return [
            Encoder(
                name=f"{library}:{key}",
                variant=variant,
                ask=known.make(taken, variant),
                version=version(library),
                ends_with=known.ends_with,
                tokenizer=known.tokenizer,
            )
            for key, (taken, variant) in known.names.items()
            if name in ("", key)
        ]
    except ImportError as error:
        raise TrainerError(f"{library} cannot be imported: {error}") from error
