"""Templates that went wrong beside the plain talk: tools, forms of a message, defaults, and who owns what."""

from __future__ import annotations

from dataclasses import replace

from sftspec import encode, render
from sftspec.conformance.mutants import mutant
from sftspec.conformance.mutants.parts import broken
from sftspec.conformance.mutants.template_changes import (
    other_axes,
    other_messages,
    other_pieces,
    other_templates,
    other_text,
)
from sftspec.conversation import Conversation
from sftspec.spans import assemble
from sftspec.templates import TEMPLATES

# ------------------------------------------------------------------------------------------------ what was published


@mutant("what-others-published-is-rendered a-system-prompt-that-nobody-wrote-is-the-variants-own",
        "T-09: variant of hiyouga/LLaMA-Factory#10772", "trained behind a prompt that is one token off",
        "read the default off the model's own template")  # fmt: skip
def default_system_without_its_full_stop():
    """Qwen2's default system prompt has lost its full stop."""
    return other_text(
        lambda kind, text, asked: text.removesuffix(".") if (kind, asked.name) == ("preamble", "chatml/qwen2") else text
    )


@mutant("what-others-published-is-rendered", "T-21: variant, a turn for each result",
        "two results are two questions", "copy the template byte for byte")  # fmt: skip
def results_in_turns_of_their_own():
    """Of several results of tools each has a turn of its own, where ChatML's templates write one for all."""

    def change(kind, text, _):
        is_next = kind == "header" and text == "\n<tool_response>\n"
        return f"<|im_end|>\n<|im_start|>user{text}" if is_next else text

    return other_text(change)


@mutant("whoever-speaks-is-heard-or-refused", "T-10: variant of paiml/aprender#2023, a role that has no place",
        "answers what it cannot have read", "render every message, or refuse")  # fmt: skip
def tool_results_skipped_by_llama2():
    """Llama-2's templates, which have no place for a tool's result, skip it instead of refusing it."""
    return other_messages(lambda messages: [item for item in messages if item["role"] != "tool"] or messages, "llama2")


@mutant("whoever-speaks-is-heard-or-refused", "T-10: variant of THUDM/slime#330, a field that has no place",
        "answers without the thoughts that led there", "render every field, or refuse")  # fmt: skip
def thoughts_without_a_place_dropped():
    """Llama-3's templates, which have no place for thoughts, drop them in silence."""
    return other_messages(
        lambda messages: [{key: item[key] for key in item if key != "reasoning_content"} for item in messages],
        only="llama3",
    )


# ------------------------------------------------------------------------------------------------------------ tools


@mutant("every-tool-is-listed-beside-any-system-prompt", "T-21: variant of fw-ai/cookbook#466, tools[0]",
        "calls tools that it was not told of", "list every tool")  # fmt: skip
def first_tool_listed_alone():
    """Of several tools the first is listed, and no other."""

    def change(pieces, _):
        first = next((piece for piece in pieces if piece[0] == "tools"), None)
        return [piece for piece in pieces if piece[0] != "tools" or piece is first]

    return other_pieces(change)


@mutant("every-tool-is-listed-beside-any-system-prompt", "T-09: variant, the branch of an empty prompt",
        "the list of tools begins elsewhere", "test for None, not for truth")  # fmt: skip
def tools_glued_to_an_empty_system():
    """The blank line before the list of tools is left out where the system prompt is empty."""

    def change(kind, text, asked):
        empty = asked.messages[0]["role"] == "system" and not asked.messages[0]["content"]
        return text.removeprefix("\n\n") if kind == "preamble" and empty else text

    return other_text(change)


@mutant("a-call-is-json-with-the-keys-of-its-variant", "T-24: variant, the keys of a neighbour",
        "writes calls that no parser reads", "copy the template byte for byte")  # fmt: skip
def calls_with_the_keys_of_a_neighbour():
    """Llama's calls have their arguments under "arguments", as Qwen's do, and not under "parameters"."""
    return other_text(
        lambda kind, text, _: text.replace('"parameters": ', '"arguments": ', 1) if kind == "tool_call" else text
    )


@mutant("a-call-is-json-with-the-keys-of-its-variant", "T-21: variant of fw-ai/cookbook#466, sort_keys=True",
        "writes arguments in an order that nobody gave", "pass arguments on in their order")  # fmt: skip
def arguments_sorted():
    """The arguments of a call, given as an object, are sorted by their names."""

    def again(call):
        function = call.get("function") or call
        arguments = function["arguments"]
        ordered = arguments if isinstance(arguments, str) else dict(sorted(arguments.items()))
        return {**call, "function": {**function, "arguments": ordered}}

    return other_messages(lambda messages: [
        {**item, "tool_calls": [again(call) for call in item["tool_calls"]]} if item.get("tool_calls") else item
        for item in messages])  # fmt: skip


@mutant("a-result-is-a-users-turn-in-tags", "T-12: variant of tinker-cookbook#837", "forgets why it asked the tool",
        "a message in the tags of a result is no question")  # fmt: skip
def written_result_is_a_question():
    """Qwen3's templates take a user's message in the tags of a result for a new question: thoughts before it vanish."""

    def veiled(item):
        return {**item, "content": f"\0{item['content']}"} if item["role"] == "user" else item

    def change(name):
        variant = TEMPLATES[name]
        if not name.startswith("chatml/qwen3"):
            return variant

        def pieces(messages, add_generation_prompt):
            told = Conversation(map(veiled, messages), messages.source, messages.tools)
            for kind, index, text in variant.pieces(told, add_generation_prompt):
                is_veiled = kind == "content" and messages[index]["role"] == "user"
                yield kind, index, text[1:] if is_veiled else text

        return replace(variant, pieces=pieces)

    return other_templates(change)


# ------------------------------------------------------------------------------------------------ forms of a message


@mutant("the-form-of-a-message-changes-nothing", "T-10: variant, content[0][\"text\"]", "reads the first part only",
        "join the parts, or refuse them")  # fmt: skip
def first_part_alone():
    """Of a content in parts the first is rendered, and no other."""

    def first(item):
        return {**item, "content": item["content"][0]["text"]} if isinstance(item["content"], list) else item

    return other_messages(lambda messages: [first(item) for item in messages], refuses=False)


@mutant("the-form-of-a-message-changes-nothing", "T-10: variant, a flag of the loss that reaches the text",
        "answers a talk that it is not shown", "train and weight are the mask's affair")  # fmt: skip
def untrained_messages_dropped():
    """A message that is not to be trained is not rendered."""
    return other_messages(lambda messages: [item for item in messages if item.get("train", True)] or messages)


# ------------------------------------------------------------------------------------ owners, axes, and what is encoded


@mutant("the-first-bos-has-one-owner", "T-01: variant of huggingface/trl#3328, an option that is not passed on",
        "two tokens open every text", "pass bos= on")  # fmt: skip
def owner_of_the_bos_ignored():
    """The template writes its first BOS, also where the tokenizer is to add it."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, bos="template"):
        return render(messages, template, add_generation_prompt, tools)

    return broken("template", render=broken_render)


@mutant("the-first-bos-has-one-owner", "T-03: variant of axolotl-ai-cloud/axolotl#952", "later rounds look like one",
        "take away the first alone")  # fmt: skip
def every_bos_left_to_the_tokenizer():
    """Where the tokenizer is to add the BOS, Llama-2's later rounds lose theirs as well."""

    def broken_render(messages, template="chatml/openai", add_generation_prompt=False, tools=None, bos="template"):
        whole = render(messages, template, add_generation_prompt, tools, bos)
        if bos != "tokenizer":
            return whole
        return assemble([(s.kind, s.message, whole.text[s.start : s.end]) for s in whole.spans if s.kind != "bos"])

    return broken("template", render=broken_render)


@mutant("the-tokens-spell-the-published-text", "T-21: variant of fw-ai/cookbook#466, lost on the way to the tokens",
        "calls tools that it was not told of", "encode the text that is shown")  # fmt: skip
def tools_never_encoded():
    """Tools are listed in the text that is shown, and not in the one that is encoded."""

    def broken_encode(messages, template="chatml/openai", tokenizer=None, *rest, tools=None, **options):
        return encode(messages, template, tokenizer, *rest, **options)

    return broken("template", encode=broken_encode)


@mutant("the-tokens-spell-the-published-text", "T-24: variant of fw-ai/cookbook#579",
        "trained without the dates that it is asked behind", "encode the text that is shown")  # fmt: skip
def neighbour_encoded():
    """Of Llama-3.1 the right text is shown, and that of Llama-3 is encoded where it has a place for everything."""

    def broken_encode(messages, template="chatml/openai", *rest, **options):
        is_plain = not options.get("tools") and not any(item.get("tool_calls") for item in messages)
        read_as = "llama3/hf" if template == "llama3.1/hf" and is_plain else template
        return encode(messages, read_as, *rest, **options)

    return broken("template", encode=broken_encode)


@mutant("segments-are-encoded-by-themselves", "T-15: variant of NovaSky-AI/SkyRL#2092",
        "trained on merges that inference never makes", "one way of cutting for both")  # fmt: skip
def segments_encoded_together():
    """Text is encoded whole, although segments are asked for."""
    return other_axes(tokenization="whole")


@mutant("an-axis-that-is-not-named-is-the-variants-own", "T-16: variant of vllm-project/vllm#31735, one default",
        "users forge turns of models whose own code forbids it", "the default is the variant's")  # fmt: skip
def one_default_for_every_variant():
    """An axis that is not named is "parse" and "whole", also where the variant's own code spells and segments."""

    def broken_encode(messages, template="chatml/openai", tokenizer=None, special_tokens=None, tokenization=None,
                      *rest, **options):  # fmt: skip
        special_tokens, tokenization = special_tokens or "parse", tokenization or "whole"
        return encode(messages, template, tokenizer, special_tokens, tokenization, *rest, **options)

    return broken("template", encode=broken_encode)
