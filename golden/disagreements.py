"""Where implementations of the templates disagree, and how the spec deals with each: the table.

Rule of this file: a disagreement is never settled in silence. It is a `variant` (both texts exist, under two names), an
`axis` (an argument of `render` or `encode`), a `convention` (a field of `Conventions`, declared by a trainer and
checked as declared), or a `property` (one side is wrong). What single oracles did on single conversations is written in
the cases themselves, field `disagreements`. A test looks up every name that stands here.
"""

from __future__ import annotations

from typing import NamedTuple


class Disagreement(NamedTuple):
    """What is disagreed on, what kind of decision it is, and the names of the sides (or of the one place)."""

    what: str
    kind: str
    names: tuple[str, ...]


DISAGREEMENTS = (
    Disagreement("newline after the last <|im_end|>: all write it, few train it", "convention", ("separator",)),
    Disagreement("no system message: nothing, an empty block, one of two default prompts", "variant",
                 ("chatml/openai", "chatml/qwen1", "chatml/qwen2", "chatml/qwen2.5", "chatml/qwen3")),
    Disagreement("an empty system message is a block, not the default (LLaMA-Factory takes the default)", "property",
                 ("template/what-was-said-can-be-read-back",)),
    Disagreement("trimming of contents", "variant", ("llama3/meta", "llama3/hf", "llama3/llama-models")),
    Disagreement("generation prompt without its newline (openai chatml.md), always there (first Llama-3 template)",
                 "property", ("template/the-prompt-and-the-answer-are-the-training-text",
                              "template/a-generation-prompt-opens-the-answer")),
    Disagreement("empty think block in the prompt", "variant", ("chatml/qwen3", "chatml/qwen3-nothink")),
    Disagreement("merges across the border of header and content", "axis", ("tokenization",)),
    Disagreement("control strings in contents", "axis", ("special_tokens",)),
    Disagreement("order of roles: refused or any", "variant", ("llama2/meta", "llama2/hf", "chatml/openai")),
    Disagreement("think block on every answer (TRL's training template) or on the last only", "property",
                 ("template/the-prompt-at-inference-opens-the-trained-tokens",)),
    Disagreement("Llama-2's space before </s> (LLaMA-Factory, llama.cpp write none)", "property",
                 ("template/what-was-said-can-be-read-back",)),
    Disagreement("Llama-2's BOS: each round, once, or left to the runtime", "property",
                 ("template/one-bos-opens-the-sequence",)),
    Disagreement("who writes the first BOS", "axis", ("bos",)),
    Disagreement("layout of <<SYS>>", "property", ("template/what-was-said-can-be-read-back",)),
    Disagreement("[INST] after <s> (legacy SentencePiece space): a matter of the vocabulary that is given", "axis",
                 ("tokenizer",)),
    Disagreement("an empty answer is an answer (FastChat takes it for one to be generated)", "property",
                 ("template/every-answer-ends-in-one-end-of-turn-token",)),
    Disagreement("date block", "variant", ("llama3.1/hf", "llama3/hf")),
    Disagreement("a date of today", "property", ("template/the-same-conversation-has-the-same-text",)),
    Disagreement("role of tool results: as it is, ipython, a user's turn", "variant",
                 ("chatml/openai", "llama3/llama-models", "llama3.1/hf", "chatml/qwen2.5")),
    Disagreement("what of an assistant's turn is trained: header, end of turn, newline", "convention",
                 ("header", "end_of_turn", "separator")),
    Disagreement("a template without {% generation %}: zeros, ones", "property",
                 ("masking/everything-chosen-is-trained", "masking/nothing-else-is-trained")),
)  # fmt: skip
