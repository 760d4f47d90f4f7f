"""Templates that went wrong: text that looks right, and is not what the model is asked at inference."""

from __future__ import annotations

import datetime
import json
import re
import time

from sftspec import encode, render
from sftspec.chatml import QWEN2_SYSTEM
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.conformance.sensitivity.mutants.template.changes import (
    other_messages,
    other_pieces,
    other_templates,
    other_text,
)
from sftspec.conversation import ROLES
from sftspec.llama import LLAMA31_DATES
from sftspec.templates import TEMPLATES


@killed_by("what-was-said-can-be-read-back")
@seen_in("T-04: lm-sys/FastChat#1997")
@effect("system prompts are off the distribution", fix="copy the template byte for byte")
def llama2_system_ends_in_one_newline():
    """One newline instead of two stands after <</SYS>>."""
    long, short = "\n<</SYS>>\n\n", "\n<</SYS>>\n"
    return other_text(lambda kind, text, _: text.replace(long, short) if kind == "header" else text)


@killed_by("what-was-said-can-be-read-back")
@seen_in("T-04: mlc-ai/mlc-llm#1770")
@effect("ends its turns with other tokens", fix="copy the template byte for byte")
def llama2_space_before_the_end_lost():
    """Llama-2's answers have no space before </s>."""

    def change(pieces, asked):
        return [
            piece
            for piece, after in zip(pieces, [*pieces[1:], ("", 0, "")], strict=True)
            if not (asked.name.startswith("llama2") and piece[2] == " " and after[0] == "end_of_turn")
        ]

    return other_pieces(change)


@killed_by("what-was-said-can-be-read-back")
@seen_in("T-05: ShishirPatil/gorilla#430")
@effect("headers are off the distribution", fix="two newlines after the header")
def header_without_its_newlines():
    """Headers end without their newlines, in training and in prompts."""
    return other_text(lambda kind, text, _: text.rstrip("\n") if kind in ("header", "generation_prompt") else text)


@killed_by("the-first-token-after-the-prompt-is-a-target")
@seen_in("T-05: subtle form of ShishirPatil/gorilla#430, the prompt alone")
@effect("answers begin with a newline of their own", fix="one header for both")
def prompt_header_without_its_newlines():
    """The header of a prompt ends without its newlines, that of the training text has them."""
    return other_text(lambda kind, text, _: text.rstrip("\n") if kind == "generation_prompt" else text)


@killed_by("what-was-said-can-be-read-back")
@seen_in("T-04: oobabooga/text-generation-webui#3226")
@effect("code loses its indentation", fix="strip where the template strips, and nowhere else")
def contents_stripped():
    """Contents are stripped by every template."""
    return other_text(lambda kind, text, _: text.strip() if kind == "content" else text)


@killed_by("a-generation-prompt-opens-the-answer the-first-token-after-the-prompt-is-a-target")
@seen_in("T-06: huggingface/search-and-learn#23, instructlab/training#232")
@effect("writes its own header, or rambles", fix="pass add_generation_prompt on")
def generation_prompt_missing():
    """The generation prompt is never written."""
    return other_pieces(lambda pieces, _: [piece for piece in pieces if piece[0] != "generation_prompt"])


@killed_by("a-generation-prompt-opens-the-answer")
@seen_in("T-06: subtle form of huggingface/search-and-learn#23, the first published Llama-3 template")
@effect("learns a header that nothing follows", fix="add the header when asked for it")
def generation_prompt_in_training():
    """A training text that ends with the user's turn ends with the header of an answer."""

    def change(messages, template, is_prompt=False, **options):
        return render(messages, template, is_prompt or messages[-1]["role"] == "user", **options)

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, **options):
        return change(messages, template, add_generation_prompt, **options)

    return broken("template", render=broken_render)


@killed_by("no-training-text-ends-with-a-generation-prompt")
@seen_in("T-06: subtle form of huggingface/search-and-learn#23, variant of the first published Llama-3 template")
@effect("learns a header that nothing follows", fix="add the header when asked for it")
def header_after_the_last_answer():
    """A training text that ends with an answer ends with the header of another one."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, *rest, **options):
        dangles = bool(messages) and messages[-1]["role"] == "assistant" and not template.startswith("llama2")
        return render(messages, template, add_generation_prompt or dangles, *rest, **options)

    return broken("template", render=broken_render)


@killed_by("a-prompt-is-the-text-and-one-suffix the-first-token-after-the-prompt-is-a-target")
@seen_in("T-06: subtle form of OpenBMB/MiniCPM-V#220")
@effect("rambles in long talks", fix="the header does not depend on the talk")
def generation_prompt_missing_in_the_second_turn():
    """The generation prompt is written for the first answer of a conversation only."""
    return other_pieces(
        lambda pieces, asked: [
            p for p in pieces if p[0] != "generation_prompt" or all(m["role"] != "assistant" for m in asked.messages)
        ]
    )


NEIGHBOUR = {
    "chatml/openai": "chatml/qwen2",
    "chatml/qwen1": "chatml/qwen2",
    "chatml/qwen2": "chatml/qwen2.5",
    "chatml/qwen2.5": "chatml/qwen2",
    "chatml/qwen3": "chatml/qwen2.5",
    "chatml/qwen3-nothink": "chatml/qwen3",
    "llama2/meta": "llama2/hf",
    "llama3/meta": "llama3/llama-models",
    "llama3/hf": "llama3/llama-models",
    "llama3/llama-models": "llama3/hf",
    "llama3.1/hf": "llama3/hf",
}


@killed_by("the-prompt-and-the-answer-are-the-training-text the-prompt-at-inference-opens-the-trained-tokens")
@seen_in("T-08: mkupermann/souprise#17, huggingface/open-r1#473")
@effect("obeys nothing, though its loss was fine", fix="one template for training and inference")
def another_template_at_inference():
    """A prompt is rendered with the template of a neighbour."""

    def name_of(template, options):
        return NEIGHBOUR.get(template, template) if options.get("add_generation_prompt") else template

    return broken(
        "template",
        render=lambda messages, template="chatml/openai", **options: render(
            messages, name_of(template, options), **options
        ),
        encode=lambda messages, template="chatml/openai", **options: encode(
            messages, name_of(template, options), **options
        ),
    )


@killed_by("the-prompt-and-the-answer-are-the-training-text the-prompt-at-inference-opens-the-trained-tokens")
@seen_in("T-13: thinking-machines-lab/tinker-cookbook#176")
@effect("thinks where it is not to", fix="one method for both")
def empty_thoughts_at_inference_only():
    """The empty think block is in the prompt, and missing in the training text."""
    return other_text(lambda kind, text, _: text.replace("<think>\n\n</think>\n\n", "") if kind == "header" else text)


@killed_by("the-prompt-and-the-answer-are-the-training-text the-first-token-after-the-prompt-is-a-target")
@seen_in("T-13: subtle form of thinking-machines-lab/tinker-cookbook#176, the other way round")
@effect("writes an empty think block of its own", fix="one method for both")
def empty_thoughts_in_training_only():
    """The empty think block is in the training text, and missing in the prompt."""
    return other_text(
        lambda kind, text, _: text.replace("<think>\n\n</think>\n\n", "") if kind == "generation_prompt" else text
    )


@killed_by("a-system-prompt-that-nobody-wrote-is-the-variants-own")
@seen_in("T-09: hiyouga/LLaMA-Factory#2987")
@effect("overfits a persona that nobody asked for", fix="add what the template adds, and nothing else")
def default_system_where_there_is_none():
    """ChatML without a default system prompt gets one."""
    default = {"role": "system", "content": QWEN2_SYSTEM}
    return other_messages(lambda m: m if m[0]["role"] == "system" else [default, *m], only="chatml/openai")


@killed_by("a-system-prompt-that-nobody-wrote-is-the-variants-own")
@seen_in("T-09: hiyouga/LLaMA-Factory#10772")
@effect("trained behind a neighbour's persona", fix="read the default off the model's own template")
def default_system_of_a_neighbour():
    """Qwen2.5's default system prompt stands in Qwen2's conversations, and the other way round."""
    read_as = {name: name for name in TEMPLATES} | {"chatml/qwen2": "chatml/qwen2.5", "chatml/qwen2.5": "chatml/qwen2"}
    return other_templates(lambda name: TEMPLATES[read_as[name]])


@killed_by("a-system-prompt-that-nobody-wrote-is-the-variants-own")
@seen_in("T-09: subtle form of hiyouga/LLaMA-Factory#2987, empty is not missing")
@effect("an empty system prompt becomes a persona", fix="test for None, not for truth")
def empty_system_becomes_the_default():
    """An empty system message is replaced by the default, or left out."""

    def change(messages):
        empty = messages[0] == {"role": "system", "content": ""} and len(messages) > 1
        return messages[1:] if empty else messages

    return other_messages(change, only="chatml")


@killed_by("a-system-prompt-that-nobody-wrote-is-the-variants-own nothing-that-was-said-is-lost")
@seen_in("T-10: paiml/aprender#2023")
@effect("instructions never reach it", fix="render every message, or refuse")
def system_dropped():
    """A system message at the start is dropped where others follow it."""
    return other_messages(lambda m: m[1:] if m[0]["role"] == "system" and len(m) > 1 else m)


@killed_by("nothing-that-was-said-is-lost")
@seen_in("T-10: raullenchai/Rapid-MLX#1765")
@effect("later instructions never reach it", fix="render every message, or refuse")
def later_system_dropped():
    """A system message after the first message is dropped."""
    return other_messages(lambda m: [item for n, item in enumerate(m) if not n or item["role"] != "system"])


@killed_by("different-conversations-have-different-tokens")
@seen_in("T-10: ggml-org/llama.cpp#5665 where nobody asked for it")
@effect("cannot tell instructions from questions", fix="a template without a system turn refuses one")
def system_glued_to_the_question():
    """The system prompt is written in front of the first question, with nothing between the two."""

    def change(messages):
        if len(messages) < 2 or messages[0]["role"] != "system":
            return messages
        return [{**messages[1], "content": messages[0]["content"] + messages[1]["content"]}, *messages[2:]]

    return other_messages(change)


@killed_by("the-same-conversation-has-the-same-text")
@seen_in("T-11: sgl-project/sglang#3296")
@effect("no two runs train the same text", fix="a date is an argument, or pinned")
def clock_in_the_prompt():
    """The time of day stands in Llama-3.1's system turn."""
    return other_text(lambda _, text, asked: text.replace("26 Jul 2024", f"26 Jul 2024 {time.perf_counter_ns()}"))


@killed_by("a-system-prompt-that-nobody-wrote-is-the-variants-own")
@seen_in("T-11: oobabooga/text-generation-webui#6692")
@effect("trained on one date, asked on another", fix="a date is an argument, or pinned")
def today_in_the_prompt():
    """Today's date stands where Llama-3.1 pins its own: it changes overnight, and within a test never."""
    today = LLAMA31_DATES.replace("26 Jul 2024", datetime.date.today().strftime("%d %b %Y"))
    return other_text(lambda kind, text, _: today if text == LLAMA31_DATES else text)


@killed_by("a-longer-conversation-begins-with-the-shorter-one")
@seen_in("T-12: tinker-cookbook#142, THUDM/slime#330")
@effect("trains thoughts that no prompt contains", fix="declare it, and expand every turn by itself")
def thoughts_dropped_from_history():
    """Thoughts are taken out of every answer but the last, by templates that declare that they do not."""

    def change(messages):
        thoughts = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
        history = [
            {**item, "content": thoughts.sub("", item["content"])} if item["role"] == "assistant" else item
            for item in messages[:-1]
        ]
        return [*history, messages[-1]]

    return other_messages(change)


@killed_by("a-longer-conversation-begins-with-the-shorter-one")
@seen_in("T-12: subtle form of tinker-cookbook#837")
@effect("history has other tokens than what was trained", fix="render a message the same way wherever it stands")
def history_trimmed():
    """Answers lose the white space at their end as soon as another message follows."""

    def change(messages):
        history = [
            {**item, "content": item["content"].rstrip()} if item["role"] == "assistant" else item
            for item in messages[:-1]
        ]
        return [*history, messages[-1]]

    return other_messages(change)


@killed_by("a-broken-message-is-refused a-conversation-without-messages-is-refused")
@seen_in("T-10: paiml/aprender#2023, unknown roles")
@effect("part of the data is gone", fix="refuse, and name the message")
def broken_messages_skipped():
    """A message with an unknown role, or without a content, is left out."""
    return other_messages(
        lambda messages: (
            [item for item in messages if item["role"] in ROLES and isinstance(item["content"], str)]
            or [{"role": "user", "content": ""}]
        ),
        refuses=False,
    )


@killed_by("a-broken-message-is-refused")
@seen_in("no report known: f-strings")
@effect("learns to say None", fix="refuse, and name the message")
def none_written_as_text():
    """A missing content is rendered as the word None."""
    return other_messages(
        lambda messages: [{**item, "content": str(item["content"])} for item in messages], refuses=False
    )


@killed_by("rendering-changes-no-message")
@seen_in("no report known: templates that work in place")
@effect("the second epoch is another text", fix="copy before changing")
def messages_changed_in_place():
    """Rendering strips the contents of the caller's messages."""

    def change(messages):
        for item in messages:
            item["content"] = item["content"].strip()
        return messages

    return other_messages(change)


@killed_by("what-was-said-can-be-read-back")
@seen_in("T-24: hiyouga/LLaMA-Factory#10769, fw-ai/cookbook#579")
@effect("every text is off the model's distribution", fix="choose the template by the model")
def template_of_a_neighbour():
    """Llama-3's templates are swapped: the one that strips for the one that does not."""
    read_as = {name: name for name in TEMPLATES} | {
        "llama3/hf": "llama3/llama-models",
        "llama3/llama-models": "llama3/hf",
    }
    return other_templates(lambda name: TEMPLATES[read_as[name]])


@killed_by("nothing-that-was-said-is-lost")
@seen_in("T-21: fw-ai/cookbook#466")
@effect("copies arguments wrongly", fix="pass what was written on, as text")
def arguments_written_again():
    """The arguments of a tool call are parsed and written again."""

    def change(messages):
        return [
            {**item, "tool_calls": [again(call) for call in item["tool_calls"]]} if "tool_calls" in item else item
            for item in messages
        ]

    def again(call):
        function = call["function"]
        return {**call, "function": {**function, "arguments": json.dumps(json.loads(function["arguments"]))}}

    return other_messages(change)


@killed_by("the-order-of-keys-changes-nothing")
@seen_in("no report known: a message that is printed key by key")
@effect("reads other texts from another exporter", fix="read keys by name")
def later_key_wins():
    """A content that stands before its role, as in some exports, is stripped."""

    def change(item):
        return {**item, "content": item["content"].strip()} if next(iter(item)) == "content" else item

    return other_messages(lambda messages: [change(item) for item in messages])


@killed_by("the-error-says-which-message")
@seen_in("subtle form of paiml/aprender#2023, refused without a place")
@effect("nothing; hours are lost over a file", fix="name the message in the error")
def refused_without_a_place():
    """What cannot be rendered is refused with an error that does not say which message it is."""

    def broken_render(messages, template="chatml/openai", *rest, **options):
        try:
            return render(messages, template, *rest, **options)
        except ValueError:
            raise ValueError("this conversation cannot be rendered") from None

    return broken("template", render=broken_render)


@killed_by("an-unknown-template-is-refused")
@seen_in("T-24: subtle form of hiyouga/LLaMA-Factory#10769, a default where the name is not known")
@effect("every text is off the model's distribution", fix="refuse a name that is not known")
def unknown_template_is_the_default():
    """A template that does not exist is replaced by ChatML's."""

    def broken_render(messages, template="chatml/openai", *rest, **options):
        return render(messages, template if template in TEMPLATES else "chatml/openai", *rest, **options)

    return broken("template", render=broken_render)
