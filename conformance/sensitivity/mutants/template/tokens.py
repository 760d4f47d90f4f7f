"""Tokens that went wrong: text that is right, and was encoded or masked as something else."""

from __future__ import annotations

import re
from dataclasses import replace

from sftspec import encode
from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import broken
from sftspec.conformance.sensitivity.mutants.template.changes import (
    is_bos,
    masked_where,
    other_axes,
    other_ids,
    other_pieces,
    other_templates,
    other_text,
)
from sftspec.golden.small_tokenizer import load
from sftspec.masking import IGNORE, Encoded
from sftspec.templates import TEMPLATES


@killed_by("one-bos-opens-the-sequence")
@seen_in("T-01: OpenRLHF/OpenRLHF#393, huggingface/trl#3328")
@effect("two tokens open every text", fix="encode rendered text with add_special_tokens=False")
def bos_doubled():
    """The template writes a BOS, and the tokenizer adds another."""
    return other_ids(lambda e, position, template, _: 2 if position == 0 and is_bos(e, 0, template) else 1)


@killed_by("one-bos-opens-the-sequence the-prompt-at-inference-opens-the-trained-tokens")
@seen_in("T-01: subtle form of sgl-project/sglang#888")
@effect("trained behind two BOS, asked behind one", fix="one owner of the BOS on both paths")
def bos_doubled_in_training():
    """The BOS is doubled in training, and single in a prompt."""
    return other_ids(
        lambda e, position, template, is_prompt: 2 if not is_prompt and not position and is_bos(e, 0, template) else 1
    )


@killed_by("one-bos-opens-the-sequence")
@seen_in("T-02: unslothai/unsloth#10312")
@effect("nothing opens the sequence", fix="strip a BOS only where there are two")
def only_bos_removed():
    """A leading BOS is stripped, also where it is the only one."""
    return other_ids(lambda e, position, template, _: int(position > 0 or not is_bos(e, 0, template)))


@killed_by("the-prompt-at-inference-opens-the-trained-tokens")
@seen_in("T-02: abetlen/llama-cpp-python#1537")
@effect("asked without the BOS it was trained behind", fix="one way of encoding for both")
def bos_lost_at_inference():
    """A prompt has no BOS, the training text has one."""
    return other_ids(
        lambda e, position, template, is_prompt: int(position > 0 or not is_prompt or not is_bos(e, 0, template))
    )


@killed_by("one-bos-opens-the-sequence")
@seen_in("T-03: axolotl-ai-cloud/axolotl#952")
@effect("later rounds look like one", fix="open a round after each answer")
def llama2_opens_the_first_round_only():
    """Llama-2's second round has no BOS."""
    return other_pieces(lambda pieces, _: [piece for n, piece in enumerate(pieces) if piece[0] != "bos" or n == 0])


@killed_by("nothing-that-was-said-is-lost what-was-said-can-be-read-back")
@seen_in("T-03: paiml/aprender#2078")
@effect("answers a question that it is not shown", fix="render the user's turn whatever stands before it")
def llama2_loses_the_first_question():
    """Llama-2's first user turn is lost where a system prompt stands before it."""

    def change(pieces, asked):
        lost = asked.name.startswith("llama2") and asked.messages[0]["role"] == "system"
        return [p for p in pieces if not (lost and p[:2] == ("content", 1))]

    return other_pieces(change)


@killed_by("whole-text-is-cut-at-control-tokens-only a-whole-text-has-the-tokenizers-own-tokens")
@seen_in("T-15: Lightning-AI/litgpt#1567, pytorch/torchtitan#4504")
@effect("first tokens that inference never makes", fix="encode once, and cut by offsets")
def segments_encoded_apart():
    """Header, content and end are encoded apart, although whole text is asked for."""
    return other_axes(tokenization="segmented")


@killed_by("the-prompt-at-inference-opens-the-trained-tokens")
@seen_in("T-15: NovaSky-AI/SkyRL#2092")
@effect("asked with tokens that were never trained", fix="one way of cutting for both")
def whole_in_training_segmented_at_inference():
    """Training text is encoded whole and prompts by segments, whatever was asked for."""

    def broken_encode(messages, **options):
        way = "segmented" if options.get("add_generation_prompt") else "whole"
        return encode(messages, **{**options, "tokenization": way})

    return broken("template", encode=broken_encode)


@killed_by("no-content-becomes-a-control-token")
@seen_in("T-16: huggingface/transformers#29279, vllm-project/vllm#31735")
@effect("users forge turns", fix="encode contents as text")
def contents_parsed():
    """Control strings in contents become control tokens although they are to be text."""
    return other_axes(special_tokens="parse")


@killed_by("no-content-becomes-a-control-token")
@seen_in("T-16: subtle form of huggingface/transformers#29279, a fix for users alone")
@effect("answers that quote a token end there", fix="contents are text, whoever wrote them")
def answers_parsed():
    """Control strings become control tokens in the answers only."""

    def change(pieces, asked):
        answers = [("content", m) for m, item in enumerate(asked.messages) if item["role"] == "assistant"]
        return [("generated" if (kind, m) in answers else kind, m, text) for kind, m, text in pieces]

    return other_pieces(change)


@killed_by("no-call-thought-or-tool-becomes-a-control-token")
@seen_in("T-16: subtle form of huggingface/transformers#29279, a fix for contents alone")
@effect("a call that quotes a token ends there", fix="all that people and models wrote is text")
def calls_thoughts_and_tools_parsed():
    """Control strings become control tokens in calls, thoughts and definitions of tools."""
    parsed = {"tool_call": "generated", "reasoning": "generated", "tools": "preamble"}
    return other_pieces(lambda pieces, _: [(parsed.get(kind, kind), m, text) for kind, m, text in pieces])


@killed_by("nothing-that-was-said-is-lost")
@seen_in("T-16: subtle form of huggingface/transformers#29279, the fix that overshoots")
@effect("texts about templates lose their subject", fix="encode contents as text, and keep them")
def control_strings_removed():
    """Control strings are taken out of contents."""
    return other_text(lambda kind, text, _: re.sub(r"<\|\w+\|>|</?s>", "", text) if kind == "content" else text)


@killed_by("every-answer-ends-in-one-end-of-turn-token the-prompt-and-the-answer-are-the-training-text")
@seen_in("M-02: huggingface/trl#1623")
@effect("never stops", fix="write the end of the last turn as well")
def last_end_of_turn_missing():
    """The end-of-turn token of the last answer is not written."""

    def change(pieces, asked):
        last = len(asked.messages) - 1
        is_answer = asked.messages[last]["role"] == "assistant"
        return [p for p in pieces if not (is_answer and p[:2] == ("end_of_turn", last))]

    return other_pieces(change)


@killed_by("every-answer-ends-in-one-end-of-turn-token")
@seen_in("M-02: subtle form of huggingface/trl#3091")
@effect("never is silent", fix="no special case for empty answers")
def empty_answer_without_end():
    """An empty answer has no end-of-turn token."""

    def change(pieces, asked):
        empty = [m for m, item in enumerate(asked.messages) if (item["role"], item["content"]) == ("assistant", "")]
        return [p for p in pieces if p[0] != "end_of_turn" or p[1] not in empty]

    return other_pieces(change)


@killed_by("every-answer-ends-in-one-end-of-turn-token")
@seen_in("M-02: huggingface/trl#1623, the fix that overshoots")
@effect("ends twice", fix="append the end where it is missing")
def end_of_turn_doubled():
    """The end-of-turn token of an answer is written twice: by the template and by the trainer."""
    return other_ids(
        lambda e, position, template, _: 1 + (e.labels[position] == load().token_to_id(TEMPLATES[template].end_of_turn))
    )


@killed_by("every-answer-ends-in-one-end-of-turn-token")
@seen_in("M-04: axolotl-ai-cloud/axolotl#3754")
@effect("never stops", fix="find the end by the template")
def end_of_turn_untrained():
    """The end-of-turn token is no target."""
    return masked_where(lambda e, p, template: e.labels[p] == load().token_to_id(TEMPLATES[template].end_of_turn))


@killed_by("every-answer-ends-in-one-end-of-turn-token the-prompt-and-the-answer-are-the-training-text")
@seen_in("no report known: tokenizers that lack the token")
@effect("writes letters where it is to stop", fix="the token that stops generation, as one id")
def end_of_turn_spelt():
    """The end-of-turn token is spelt with a space in it: several ids that stop nothing."""
    spelt = str.maketrans({">": " >"})
    return other_text(lambda kind, text, _: text.translate(spelt) if kind == "end_of_turn" else text)


@killed_by("every-answer-ends-in-one-end-of-turn-token")
@seen_in("subtle form of huggingface/trl#1623, a test of the text")
@effect("does not stop after an answer about the token", fix="append the end, whatever was said")
def end_of_turn_not_doubled():
    """An answer whose own text ends with that of the end-of-turn token gets no such token."""

    def change(pieces, asked):
        end = TEMPLATES[asked.name].end_of_turn
        ended = {
            place
            for place, item in enumerate(asked.messages)
            if item["role"] == "assistant" and (item["content"] or "").rstrip().endswith(end)
        }
        return [piece for piece in pieces if not (piece[0] == "end_of_turn" and piece[1] in ended)]

    return other_pieces(change)


BASE_END = {"<|im_end|>": "<|endoftext|>", "<|eot_id|>": "<|end_of_text|>"}


@killed_by("every-answer-ends-in-one-end-of-turn-token the-prompt-and-the-answer-are-the-training-text")
@seen_in("T-19: huggingface/trl#3299, modelscope/ms-swift#3113")
@effect("never writes what generation stops at", fix="one token for both: the template's")
def end_of_text_for_end_of_turn():
    """Turns end with the end-of-text token of the base model instead of the template's end of turn."""

    def change(name):
        variant = TEMPLATES[name]
        end = BASE_END.get(variant.end_of_turn, variant.end_of_turn)

        def pieces(*asked):
            for kind, message, text in variant.pieces(*asked):
                yield kind, message, text.replace(variant.end_of_turn, end) if kind == "end_of_turn" else text

        return replace(variant, pieces=pieces, control=(*variant.control, end))

    return other_templates(change)


@killed_by("the-first-token-after-the-prompt-is-a-target")
@seen_in("M-12: volcengine/verl#3287")
@effect("answers start badly", fix="shift the mask with the labels")
def first_token_of_an_answer_untrained():
    """The first token of each answer is no target."""
    return masked_where(lambda e, p, _: p > 0 and e.labels[p] != IGNORE and e.labels[p - 1] == IGNORE)


@killed_by("the-first-token-after-the-prompt-is-a-target every-token-of-the-answer-is-a-target")
@seen_in("M-12: subtle form of volcengine/verl#3287, a mask of contents alone")
@effect("calls no tools, and thinks as it did before", fix="train whatever the model writes")
def calls_and_thoughts_untrained():
    """Of an answer the content is trained, and its thoughts and calls are no targets."""
    return masked_where(lambda e, p, _: e.rendered.spans[e.owners[p]].kind in ("reasoning", "tool_call"))


@killed_by("the-policy-last-trains-the-last-answer")
@seen_in("M-12: subtle form of volcengine/verl#3287, a mask of contents under one policy")
@effect("calls no tools", fix="one mask of what the model writes, for every policy")
def last_call_untrained():
    """Under the policy "last" the calls of the last answer are no targets."""

    def broken_encode(messages, template="chatml/openai", *rest, **options) -> Encoded:
        example = encode(messages, template, *rest, **options)
        if options.get("policy") != "last":
            return example
        kinds = [example.rendered.spans[owner].kind for owner in example.owners]
        labels = [IGNORE if kind == "tool_call" else label for kind, label in zip(kinds, example.labels, strict=True)]
        return replace(example, labels=labels)

    return broken("template", encode=broken_encode)


@killed_by("what-others-say-is-no-target")
@seen_in("subtle form of huggingface/trl#7230: the generation block around every role")
@effect("learns to ask the user's questions", fix="mark what the assistant writes, and nothing else")
def users_marked():
    """What users say is a target beside the answers."""

    def broken_encode(messages, template="chatml/openai", **options):
        example = encode(messages, template, **options)
        users = {index for index, item in enumerate(messages) if item["role"] == "user"}
        spans = example.rendered.spans
        marked = [spans[owner].kind == "content" and spans[owner].message in users for owner in example.owners]
        rows = zip(example.input_ids, example.labels, marked, strict=True)
        return replace(example, labels=[token if is_marked else label for token, label, is_marked in rows])

    return broken("template", encode=broken_encode)
