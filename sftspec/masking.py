"""A token is a target because of the span it came from, and of nothing else.

Labels are aligned with input_ids (Hugging Face convention): `labels[t]` is `input_ids[t]` where the token is a target
and -100 where it is not; the logits at t-1 are scored against it. What the model is to write at inference is trained:
the content of the assistant's turns and the token that ends them. What it will be given is not: headers, other roles,
padding. (Llama-2, arXiv:2307.09288 section 3.1: "zero-out the loss on tokens from the user prompt".)

Trainers get this wrong by searching the ids for markers (trl#1184), by masking every pad id although pad is also the
end-of-turn (trl#976), and by cutting ids without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sftspec.conventions import Conventions
from sftspec.conversation import check_conversation
from sftspec.spans import MARKED_KINDS, without_final_separator
from sftspec.templates import Rendered, Template, find_template, render_checked
from sftspec.tokenization import tokenize_batch
from sftspec.vocabulary import Tokens

IGNORE = -100
POLICIES = ("all", "last", "every-token", "contents")
SIDES = ("right", "left")


class EncodingError(ValueError):
    """A conversation that cannot be encoded as asked; says why and what to do."""


@dataclass(frozen=True)
class Encoded:
    """One example, ready to be packed and collated.

    input_ids  T token ids
    labels     T ids, -100 where the token is no target
    owners     T indices into rendered.spans: the span in which each token starts
    rendered   the text and its spans
    truncated  number of tokens that max_length cut off
    weights    T weights of the labels, 0 where a token is no target; None: every target weighs 1
    """

    input_ids: list[int]
    labels: list[int]
    owners: list[int]
    rendered: Rendered
    truncated: int = 0
    weights: list[float] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """Targets that are scored: the first token has no logits before it, so it never is (laws MK-FIRST)."""
        return sum(label != IGNORE for label in self.labels[1:])


def trained_messages(messages: list[dict], policy: str = "all") -> frozenset[int]:
    """Indices of the messages that are trained.

    policy "all": every assistant turn; "last": the last assistant turn; "every-token": every message; "contents": every
    message, without its header. A message with `"train": false` is never trained; `"train": true` changes nothing, it
    states the default.

    >>> talk = [{"role": "user"}, {"role": "assistant"}, {"role": "assistant", "train": False}]
    >>> trained_messages(talk), trained_messages(talk, "last")
    (frozenset({1}), frozenset())
    """
    if policy not in POLICIES:
        raise EncodingError(f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    everyone = range(len(messages))
    chosen = {"all": assistant, "last": assistant[-1:], "every-token": everyone, "contents": everyone}[policy]
    # A flag takes a message out of the policy and never brings one in.
    return frozenset(index for index in chosen if messages[index].get("train", True))


def trained_spans(
    rendered: Rendered, messages: list[dict], policy: str = "all", conventions: Conventions = Conventions()
) -> list[bool]:
    """For each span of the rendered text: is it trained?

    Under the policy "all" also what a template marks in the messages of others, as Hugging Face trains it.

    >>> from sftspec.templates import render
    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> rendered = render(talk)
    >>> [kind for kind, trained in zip(rendered.kinds, trained_spans(rendered, talk)) if trained]
    ['content', 'end_of_turn']
    """
    trained = trained_messages(messages, policy)
    kinds = conventions.trained_kinds()
    untrained = {index for index, message in enumerate(messages) if not message.get("train", True)}
    chosen = [
        # MK-SPAN: by the kind of its span, never by what the text or the ids look like.
        (message in trained or message < 0) if policy == "every-token"
        else kind in kinds if message in trained
        else policy == "all" and kind in MARKED_KINDS and message not in untrained
        for kind, message in zip(rendered.kinds, rendered.messages, strict=True)
    ]  # fmt: skip
    # What weighs nothing is no target: its tokens would count where targets are counted.
    return [on and weight > 0 for on, weight in zip(chosen, rendered.weights or [1.0] * len(chosen), strict=True)]


def kept_range(length: int, max_length: int | None, side: str = "right") -> range:
    """Which tokens of so many are kept: the first max_length of them, or the last ones where the left side is cut.

    >>> kept_range(5, 2), kept_range(5, 2, "left"), kept_range(5, None)
    (range(0, 2), range(3, 5), range(0, 5))
    """
    if side not in SIDES:
        raise EncodingError(f"unknown truncation_side {side!r}; known: {', '.join(SIDES)}")
    if max_length is None or length <= max_length:
        return range(length)
    return range(max_length) if side == "right" else range(length - max_length, length)


def truncate(example: Encoded, max_length: int | None, side: str = "right") -> Encoded:
    """Cut ids and labels together at one end; nothing is put in place of what was cut (no end-of-turn token).

    >>> example = Encoded([5, 6, 7], [-100, 6, 7], [0, 0, 0], Rendered("", (), (), ()))
    >>> cut = truncate(example, 2)
    >>> cut.input_ids, cut.labels, cut.truncated
    ([5, 6], [-100, 6], 1)
    """
    kept = kept_range(len(example), max_length, side)
    if max_length is None or len(kept) == len(example):
        return example
    if max_length < 1:
        raise EncodingError(f"max_length is {max_length}; give a positive number of tokens, or None")
    # MK-TRUNC: ids and labels are cut at one place. What is left without a target, the trainer drops and counts.
    part = slice(kept.start, kept.stop)
    return replace(
        example,
        input_ids=example.input_ids[part],
        labels=example.labels[part],
        owners=example.owners[part],
        truncated=example.truncated + len(example) - max_length,
        weights=example.weights and example.weights[part],
    )


def encode(
    messages: list[dict],
    template: str | Template = "chatml/openai",
    tokenizer=None,
    special_tokens: str | None = None,
    tokenization: str | None = None,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    policy: str = "all",
    conventions: Conventions = Conventions(),
    tools: list[dict] | None = None,
    truncation_side: str = "right",
) -> Encoded:
    """Render, tokenize and mask one conversation.

    Args:
        messages: dicts with `role`, `content` and optionally `train`, `weight` or `weight_spans` (weights.py).
        template: name of a variant (`sftspec.templates.TEMPLATES`).
        tokenizer: `tokenizers.Tokenizer` or a fast Hugging Face tokenizer.
        special_tokens: "parse" turns control strings inside contents into control tokens, as Hugging Face does;
            "literal" encodes them as the text they are, so that no content can forge a turn. None: as the template's
            source does (`Template.special_tokens`).
        tokenization: "whole" encodes the rendered text in one piece; "answers" encodes each answer, and what stands
            between two of them, by itself; "segmented" encodes each span by itself. None: as the template's source
            does (`Template.tokenization`).
        add_generation_prompt: end with the assistant's header.
        max_length: keep so many tokens at most (None: all).
        policy: which messages are trained: "all" assistant turns, the "last" one, "every-token", or the "contents" of
            every role.
        conventions: which parts of a trained turn are targets.
        tools: definitions of tools, for a template with a place for them.
        truncation_side: the end at which max_length cuts, "right" or "left".
    Returns:
        Encoded: input_ids and labels of equal length.
    Raises:
        ConversationError, TemplateError, EncodingError.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = {word: number for number, word in enumerate(["?", "user", "assistant", "Hi", "Yes"])}
    >>> tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> _ = tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> example = encode(talk, tokenizer=tokenizer)
    >>> [tokenizer.id_to_token(token) for token in example.input_ids]
    ['<|im_start|>', 'user', 'Hi', '<|im_end|>', '<|im_start|>', 'assistant', 'Yes', '<|im_end|>']
    >>> example.labels
    [-100, -100, -100, -100, -100, -100, 4, 6]
    """
    return encode_batch(
        [check_conversation(messages, tools=tools)],
        template,
        tokenizer,
        special_tokens,
        tokenization,
        add_generation_prompt,
        max_length,
        policy,
        conventions,
        truncation_side,
    )[0]


def encode_batch(
    conversations: Sequence[list[dict]],
    template: str | Template = "chatml/openai",
    tokenizer=None,
    special_tokens: str | None = None,
    tokenization: str | None = None,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    policy: str = "all",
    conventions: Conventions = Conventions(),
    truncation_side: str = "right",
) -> list[Encoded]:
    """Encode many conversations in one call of the tokenizer, which is faster; arguments as of `encode`.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = {word: number for number, word in enumerate(["?", "user", "assistant", "Hi", "Yes"])}
    >>> tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> _ = tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> [example.num_targets for example in encode_batch([talk, talk[:1]], tokenizer=tokenizer)]
    [2, 0]
    """
    if tokenizer is None:
        raise EncodingError("encode needs a tokenizer: pass tokenizer=tokenizers.Tokenizer or a fast HF tokenizer")
    variant = find_template(template)
    checked = [check_conversation(messages) for messages in conversations]
    rendered = [render_checked(messages, variant, add_generation_prompt) for messages in checked]
    if not conventions.final_separator:
        rendered = [without_final_separator(text) for text in rendered]
    tokens = tokenize_batch(rendered, variant, tokenizer, special_tokens, tokenization)
    return [
        truncate(masked(of_one, text, trained_spans(text, messages, policy, conventions)), max_length, truncation_side)
        for of_one, text, messages in zip(tokens, rendered, checked, strict=True)
    ]


def masked(tokens: Tokens, rendered: Rendered, trained: list[bool]) -> Encoded:
    """The example of a text's tokens, of which some spans are trained.

    >>> from sftspec.spans import assemble
    >>> rendered = assemble([("header", 0, "a"), ("content", 0, "bc")])
    >>> tokens = Tokens([5, 6, 7], np.array([0, 1]), np.array([1, 3]))  # one token of the header, two of the content
    >>> masked(tokens, rendered, [False, True]).labels
    [-100, 6, 7]
    """
    labels = [IGNORE] * len(tokens.ids)
    # A token may begin in a header and end in a content ("\n" + "\nHi" is one "\n\n"): it carries trained text, so it
    # is a target, as in Hugging Face's return_assistant_tokens_mask.
    for is_trained, start, stop in zip(trained, tokens.starts.tolist(), tokens.stops.tolist(), strict=True):
        if is_trained:
            # MK-LABEL: the label of a target is the id of its own position.
            labels[start:stop] = tokens.ids[start:stop]
    weights = _weights(tokens, rendered.weights, trained) if rendered.weights else None
    owners = np.arange(len(trained)).repeat(tokens.stops - np.concatenate(([0], tokens.stops[:-1])))
    return Encoded(tokens.ids, labels, owners.tolist(), rendered, weights=weights)


def _weights(tokens: Tokens, of_spans: Sequence[float], trained: list[bool]) -> list[float]:
    """The weight of each token: of the trained spans that it carries text of, the largest."""
    weights = [0.0] * len(tokens.ids)
    spans = zip(trained, of_spans, tokens.starts.tolist(), tokens.stops.tolist(), strict=True)
    for is_trained, weight, start, stop in spans:
        if is_trained:
            weights[start:stop] = [max(weight, known) for known in weights[start:stop]]
    return weights
