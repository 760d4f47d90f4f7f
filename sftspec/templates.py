"""Named templates: messages to text, and of every character what it is.

Rule of this file: a template is named with its variant, because "ChatML" or "the Llama-2 template" is not one text.
Where implementations disagree the variant states its choice (the table `TEMPLATES`), or it is an axis of `encode`, or a
convention (`Conventions`). A field that a variant has no place for is refused, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftspec import chatml, llama
from sftspec.conversation import Conversation, check_conversation
from sftspec.spans import Piece, Rendered, Span, TemplateError, assemble
from sftspec.weights import weighted

__all__ = ["TEMPLATES", "Piece", "Rendered", "Span", "Template", "TemplateError", "find_template", "render"]


@dataclass(frozen=True)
class Template:
    """A named variant.

    name               "family/variant"
    pieces             generator: (messages, add_generation_prompt) to pieces (spans.py)
    control            the control tokens of its structure ((): every added token of the tokenizer)
    end_of_turn        the token at the end of an assistant turn, which has to stop generation
    bos                the token that opens a sequence; it stands in the text, and the tokenizer adds none ("": none)
    special_tokens     how its source encodes control strings in contents: "parse" or "literal"
    tokenization       how its source cuts text for the tokenizer: "whole" or "segmented"
    places             the optional fields that it renders: "tools", "tool_calls", "reasoning_content"
    prefix_preserving  a longer conversation begins with the text of the shorter one (false: it rewrites history)
    """

    name: str
    pieces: Callable[[list[dict], bool], Iterator[Piece]]
    control: tuple[str, ...]
    end_of_turn: str
    bos: str = ""
    special_tokens: str = "parse"
    tokenization: str = "whole"
    places: frozenset[str] = frozenset()
    prefix_preserving: bool = True


Axes = dict[str, Any]  # of a family: fields of Template
CHATML: Axes = {"control": ("<|im_start|>", "<|im_end|>"), "end_of_turn": "<|im_end|>"}
TOOLS = frozenset({"tools", "tool_calls"})
QWEN25: Axes = CHATML | {"control": (*CHATML["control"], "<tool_call>", "</tool_call>"), "places": TOOLS}
THINK = ("<think>", "</think>", "<tool_response>", "</tool_response>")
QWEN3: Axes = QWEN25 | {
    "control": (*QWEN25["control"], *THINK),
    "places": TOOLS | {"reasoning_content"},
    "prefix_preserving": False,
}
LLAMA2: Axes = {"control": ("<s>", "</s>"), "bos": "<s>", "end_of_turn": "</s>"}
LLAMA3: Axes = {
    "control": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "bos": "<|begin_of_text|>",
    "end_of_turn": "<|eot_id|>",
}
BY_SEGMENT: Axes = {"special_tokens": "literal", "tokenization": "segmented"}

TEMPLATES = {
    template.name: template
    for template in (
        Template("chatml/openai", chatml.openai, **CHATML),
        Template("chatml/qwen1", chatml.qwen1, **CHATML, **BY_SEGMENT),
        Template("chatml/qwen2", chatml.qwen2, **CHATML),
        Template("chatml/qwen2.5", chatml.qwen25, **QWEN25),
        Template("chatml/qwen3", chatml.qwen3, **QWEN3),
        Template("chatml/qwen3-nothink", chatml.qwen3_nothink, **QWEN3),
        Template("llama2/meta", llama.llama2_meta, **LLAMA2, special_tokens="literal"),
        Template("llama2/hf", llama.llama2_hf, **LLAMA2),
        Template("llama3/meta", llama.llama3, **LLAMA3, **BY_SEGMENT),
        Template("llama3/hf", llama.llama3, **LLAMA3),
        Template(
            "llama3/llama-models", llama.llama3_llama_models, **LLAMA3, **BY_SEGMENT, places=frozenset({"tool_calls"})
        ),
        Template("llama3.1/hf", llama.llama31_hf, **LLAMA3, places=TOOLS),
    )
}


# What a named variant reads of a conversation's template_arguments, and the variant that each value chooses.
SWITCHES = {
    name: {"enable_thinking": {True: "chatml/qwen3", False: "chatml/qwen3-nothink"}}
    for name in ("chatml/qwen3", "chatml/qwen3-nothink")
}


def find_template(name: str | Path | Template) -> Template:
    """The template of that name, or of that Jinja file or tokenizer directory.

    Raises TemplateError, which lists the names.

    >>> find_template("llama3/hf").end_of_turn
    '<|eot_id|>'
    """
    if isinstance(name, Template):
        return name
    if name in TEMPLATES:
        return TEMPLATES[name]
    if Path(name).exists():
        from sftspec.jinja_templates import load_jinja_template

        return load_jinja_template(Path(name))
    raise TemplateError(f"unknown template {name!r}; known: {', '.join(sorted(TEMPLATES))}")


def render(
    messages: list[dict],
    template: str | Template = "chatml/openai",
    add_generation_prompt: bool = False,
    tools: list[dict] | None = None,
    bos: str = "template",
) -> Rendered:
    """Render a conversation.

    Args:
        messages: dicts with `role` and `content`, or an object `{"messages": …, "tools": …}`.
        template: name of a variant.
        add_generation_prompt: end with the header of the assistant's turn to be written.
        tools: definitions of tools, for a template with a place for them.
        bos: who writes the BOS that opens the sequence. "template": it stands in the text, which has to be encoded
            with add_special_tokens=False. "tokenizer": it does not, and the tokenizer adds it. Both at once make two
            (OpenRLHF#393, trl#3328), neither makes none (unsloth#10312).
    Returns:
        Rendered, whose spans partition its text.
    Raises:
        ConversationError, TemplateError.

    >>> rendered = render([{"role": "user", "content": "Hi"}], "llama2/hf")
    >>> rendered.text
    '<s>[INST] Hi [/INST]'
    >>> rendered.of("content")
    ['Hi']
    """
    return render_checked(
        check_conversation(messages, tools=tools), find_template(template), add_generation_prompt, bos
    )


def render_checked(
    conversation: Conversation, variant: Template, add_generation_prompt: bool, bos: str = "template"
) -> Rendered:
    """Render what `check_conversation` has seen; as `render`.

    >>> conversation = check_conversation([{"role": "user", "content": "Hi"}])
    >>> render_checked(conversation, find_template("llama2/hf"), False, bos="tokenizer").text
    '[INST] Hi [/INST]'
    """
    _refuse_what_has_no_place(conversation, variant)
    if bos not in ("template", "tokenizer"):
        raise TemplateError(f"bos is {bos!r}; write who owns it: 'template' or 'tokenizer'")
    if arguments := getattr(conversation, "template_arguments", None):
        variant = _with_arguments(variant, arguments)
    pieces = list(variant.pieces(conversation, add_generation_prompt))
    if bos == "tokenizer" and pieces and pieces[0][0] == "bos":
        del pieces[0]
    answers = [index for index, item in enumerate(conversation) if item["role"] == "assistant"]
    return weighted(assemble(pieces, answers), conversation, variant.name)


def _with_arguments(variant: Template, arguments: Mapping[str, Any]) -> Template:
    """The template as it renders with these arguments."""
    with_arguments = getattr(variant.pieces, "with_arguments", None)
    if with_arguments is not None:
        return replace(variant, pieces=with_arguments(arguments))
    for key, value in arguments.items():
        chosen = SWITCHES.get(variant.name, {}).get(key, {}).get(value) if isinstance(value, bool) else None
        if chosen is None:
            raise TemplateError(
                f"{variant.name} reads no template argument {key}={value!r:.40}; give the tokenizer's own chat "
                "template, or remove it from chat_template_kwargs"
            )
        variant = TEMPLATES[chosen]
    return variant


def _refuse_what_has_no_place(conversation: Conversation, variant: Template) -> None:
    if conversation.tools and "tools" not in variant.places:
        raise TemplateError(
            f"{variant.name} has no place for tools; choose a template that has, such as chatml/qwen2.5"
        )
    for field in ("tool_calls", "reasoning_content"):
        if field in variant.places:
            continue
        for index, message in enumerate(conversation):
            if message.get(field):
                raise TemplateError(
                    f"message {index}: {variant.name} has no place for {field}; write it into content, or choose "
                    "a template that renders it, such as chatml/qwen3"
                )
