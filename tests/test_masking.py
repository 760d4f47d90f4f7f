"""Which spans are trained, what a cut keeps, and whose each token is, on conversations small enough to do by hand."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from sftspec.golden.small_tokenizer import load
from sftspec.masking import (
    Conventions,
    Encoded,
    EncodingError,
    encode,
    encode_batch,
    trained_messages,
    trained_spans,
    truncate,
)
from sftspec.spans import assemble
from sftspec.templates import render

SMALL = load()
TALK = json.loads(
    """[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "No"}, {"role": "assistant", "content": "Why", "train": false},
        {"role": "tool", "content": "Go", "train": false}, {"role": "assistant", "content": "So", "train": true}]"""
)


@pytest.mark.parametrize(
    ("policy", "until", "trained"),
    [
        ("all", 6, {1, 5}),
        ("last", 6, {5}),
        ("last", 4, set()),  # the last turn is not to train, and none comes in its place
        ("last", 3, {1}),
        ("last", 1, set()),
        ("all", 1, set()),
        ("every-token", 6, {0, 1, 2, 5}),
    ],
)
def test_a_policy_chooses_messages(policy, until, trained):
    assert trained_messages(TALK[:until], policy) == trained


def test_only_the_role_assistant_is_an_assistant():
    roles = ("agent", "Assistant", "assistants", "system", "tool", "user")
    assert trained_messages([{"role": role, "content": "x"} for role in roles]) == frozenset()


def test_an_unknown_policy_is_named():
    with pytest.raises(EncodingError, match="unknown policy 'first'; known: all, last, every-token"):
        trained_messages(TALK, "first")


SPANS = assemble([
    ("bos", -1, "<s>"),
    ("header", 0, "U:"), ("content", 0, "a"), ("end_of_turn", 0, "."), ("separator", 0, "\n"),
    ("header", 1, "A:"), ("reasoning", 1, "b"), ("content", 1, "c"), ("end_of_turn", 1, "."), ("separator", 1, "\n"),
])  # fmt: skip
PAIR = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]


@pytest.mark.parametrize(
    ("conventions", "trained"),
    [
        (Conventions(), "......CCE."),
        (Conventions(end_of_turn=False), "......CC.."),
        (Conventions(separator=True), "......CCES"),
        (Conventions(header=True), ".....HCCE."),
        (Conventions(end_of_turn=False, separator=True, header=True), ".....HCC.S"),
    ],
)
def test_a_convention_chooses_parts_of_an_assistants_turn(conventions, trained):
    for policy in ("all", "last"):
        assert trained_spans(SPANS, PAIR, policy, conventions) == [letter != "." for letter in trained]


def test_every_token_trains_all_but_the_messages_that_are_not_to_train():
    policy = "-".join(("every", "token"))
    assert trained_spans(SPANS, PAIR, policy) == [True] * 10
    for index, expected in enumerate(("B....HCCES", "BHCES.....")):
        pair = [{**message, "train": place != index} for place, message in enumerate(PAIR)]
        assert trained_spans(SPANS, pair, policy) == [letter != "." for letter in expected]


FIVE = Encoded([7, 8, 9, 10, 11], [-100, -100, 9, 10, 11], [0, 0, 1, 1, 2], SPANS)


@pytest.mark.parametrize("limit", [None, 5, 6, 100])
def test_what_is_not_too_long_stays_as_it_is(limit):
    assert truncate(FIVE, limit) is FIVE and FIVE.truncated == 0


def test_every_cut_adds_to_what_was_lost():
    assert truncate(FIVE, 4) == Encoded([7, 8, 9, 10], [-100, -100, 9, 10], [0, 0, 1, 1], SPANS, 1)
    assert truncate(truncate(FIVE, 4), 1) == truncate(FIVE, 1) == Encoded([7], [-100], [0], SPANS, 4)
    assert truncate(truncate(FIVE, 2), 1).truncated == 4
    assert truncate(FIVE, 2, "left") == Encoded(FIVE.input_ids[3:], FIVE.labels[3:], FIVE.owners[3:], SPANS, 3)
    with pytest.raises(EncodingError, match="unknown truncation_side 'middle'; known: right, left"):
        truncate(FIVE, 2, "middle")


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_is_cut_to_nothing(limit):
    with pytest.raises(EncodingError, match=f"max_length is {limit}; give a positive number"):
        truncate(FIVE, limit)


def test_targets_are_the_labels_that_logits_precede():
    labels = json.loads("[5, 6, -100, 0, -101]")  # as read from a file: other objects than the source's
    assert (
        Encoded([5, 6, 7, 0, 8], labels, [0] * 5, SPANS).num_targets == 3
    )  # what is wrong counts, and is refused later
    with pytest.raises(FrozenInstanceError):
        FIVE.labels = labels  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Conventions().header = True  # type: ignore[misc]


@pytest.mark.parametrize("name", ["chatml/openai", "llama3/hf"])
def test_a_token_belongs_to_the_span_in_which_it_starts(name):
    """By the tokenizer's own offsets."""
    talk = TALK[:4]
    encoded, rendered = encode(talk, name, SMALL), render(talk, name)
    starts = [start for start, _ in SMALL.encode(rendered.text, add_special_tokens=False).offsets]
    assert encoded.owners == [next(k for k, end in enumerate(rendered.ends) if start < end) for start in starts]


def test_a_batch_is_encoded_as_its_conversations_are():
    """The targets of the first, by hand: its one answer and the token that ends it."""
    talks = [TALK[:2], TALK[:4], TALK[2:3]]
    batch = encode_batch(talks, tokenizer=SMALL)
    assert batch == [encode(talk, tokenizer=SMALL) for talk in talks]
    assert SMALL.decode(batch[0].input_ids, skip_special_tokens=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    )
    targets = [label for label in batch[0].labels if label >= 0]
    assert SMALL.decode(targets, skip_special_tokens=False) == "Yes<|im_end|>"
    assert set(batch[2].labels) == {-100}


def test_a_missing_tokenizer_is_said():
    with pytest.raises(EncodingError, match="encode needs a tokenizer"):
        encode(TALK)
