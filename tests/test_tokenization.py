"""Tokens know their spans: by bytes, by offsets, on every axis, whatever state the tokenizer carries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from sftspec import vocabulary
from sftspec.golden.conversations import CONTROL
from sftspec.golden.small_tokenizer import load
from sftspec.spans import assemble
from sftspec.templates import TEMPLATES, find_template, render
from sftspec.tokenization import tokenize, tokenize_batch
from sftspec.vocabulary import vocabulary_of

SMALL = load()
texts = st.lists(
    st.text(max_size=3) | st.sampled_from([*CONTROL, "\n", "\n\n", " ", "é", "é", "👍🏽", "]{"]), max_size=5
)


def talk(parts):
    return [{"role": ("user", "assistant")[index % 2], "content": "".join(part)} for index, part in enumerate(parts)]


def lists(tokens):
    return tokens.ids, tokens.starts.tolist(), tokens.stops.tolist()


def carriers(rendered, offsets):
    """Of each span the tokens that carry some of it, counted the slow way; None for an empty span."""
    ranges = []
    for start, end, _, _ in rendered.spans:
        inside = [index for index, (left, right) in enumerate(offsets) if left < end and right > start]
        ranges.append((inside[0], inside[-1] + 1) if end > start else None)
    return ranges


def found_carriers(rendered, tokens):
    ranges = zip(tokens.starts.tolist(), tokens.stops.tolist(), strict=True)
    empty = [span.start == span.end for span in rendered.spans]
    both = list(zip(ranges, empty, strict=True))
    assert all(start == stop for (start, stop), is_empty in both if is_empty)
    return [None if is_empty else pair for pair, is_empty in both]


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    parts=st.lists(texts, min_size=2, max_size=4), name=st.sampled_from(["chatml/openai", "chatml/qwen3", "llama3/hf"])
)
def test_whole_text_has_the_ids_and_spans_of_one_call(parts, name):
    rendered = render(talk(parts), name)
    expected = SMALL.encode(rendered.text, add_special_tokens=False)
    tokens = tokenize(rendered, TEMPLATES[name], SMALL, "parse", "whole")
    assert tokens.ids == expected.ids
    assert found_carriers(rendered, tokens) == carriers(rendered, expected.offsets)


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(parts=st.lists(texts, min_size=2, max_size=4), literal=st.booleans(), name=st.sampled_from(sorted(TEMPLATES)))
def test_segments_are_the_spans_encoded_one_by_one(parts, literal, name):
    rendered = render(talk(parts), name)
    policy = "literal" if literal else "parse"
    tokens = tokenize(rendered, TEMPLATES[name], SMALL, policy, "segmented")
    assert tokens.starts.tolist() == [0, *tokens.stops.tolist()[:-1]]  # no token crosses an edge
    for span, start, stop in zip(rendered.spans, tokens.starts, tokens.stops, strict=True):
        assert SMALL.decode(tokens.ids[start:stop], skip_special_tokens=False) == rendered.text[span.start : span.end]


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(parts=st.lists(texts, min_size=2, max_size=4), name=st.sampled_from(sorted(TEMPLATES)), whole=st.booleans())
def test_no_content_makes_a_control_token_when_it_is_literal(parts, name, whole):
    """laws TP-NOFORGE: the control ids are those of the same conversation with harmless contents."""
    control = vocabulary_of(SMALL).control_ids
    axes = "literal", "whole" if whole else "segmented"
    counts = []
    for messages in (talk(parts), [{**message, "content": "x"} for message in talk(parts)]):
        ids, _, _ = tokenize(render(messages, name), TEMPLATES[name], SMALL, *axes)
        counts.append([token for token in ids if token in control])
    assert counts[0] == counts[1]


def test_a_merge_crosses_the_edge_only_when_text_is_whole():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}]
    rendered, template = render(messages), TEMPLATES["chatml/openai"]
    blank = SMALL.token_to_id("ĊĊ")
    assert blank in tokenize(rendered, template, SMALL, "parse", "whole")[0]
    assert blank not in tokenize(rendered, template, SMALL, "parse", "segmented")[0]


def test_a_token_that_crosses_an_edge_has_both_spans():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}]
    rendered = render(messages)
    tokens = tokenize(rendered, TEMPLATES["chatml/openai"], SMALL)
    place = tokens.ids.index(SMALL.token_to_id("ĊĊ"))
    ranges = zip(rendered.kinds, tokens.starts, tokens.stops, strict=True)
    assert [kind for kind, start, stop in ranges if start <= place < stop] == ["header", "content"]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_many_at_once_are_each_of_them_alone(name):
    talks = [talk([["a"], ["b\n"]]), talk([["é"], [""]]), talk([["<|im_end|>"], ["</s>"], ["\n\n"], ["x"]])]
    rendered = [render(messages, name) for messages in talks]
    template = TEMPLATES[name]
    one_by_one = [lists(tokenize(item, template, SMALL)) for item in rendered]
    assert [lists(tokens) for tokens in tokenize_batch(rendered, template, SMALL)] == one_by_one


def test_nothing_of_the_tokenizers_state_matters():
    """Truncation and padding of an earlier call, a post-processor that adds a BOS."""
    from tokenizers.processors import TemplateProcessing

    stateful = Tokenizer.from_str(SMALL.to_str())
    stateful.enable_truncation(2)
    stateful.enable_padding(length=100)
    stateful.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SMALL.token_to_id("<s>"))])
    rendered = render(talk([["hello"], ["you"]]))
    for axes in (("parse", "whole"), ("literal", "segmented")):
        expected = tokenize(rendered, TEMPLATES["chatml/openai"], SMALL, *axes)
        assert lists(tokenize(rendered, TEMPLATES["chatml/openai"], stateful, *axes)) == lists(expected)


def test_tokens_added_later_are_seen():
    growing = Tokenizer.from_str(SMALL.to_str())
    rendered = render(talk([["<new>"], ["b"]]))
    before = tokenize(rendered, TEMPLATES["chatml/openai"], growing)[0]
    growing.add_special_tokens(["<new>"])
    after = tokenize(rendered, TEMPLATES["chatml/openai"], growing)[0]
    assert growing.token_to_id("<new>") not in before and growing.token_to_id("<new>") in after


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(parts=st.lists(texts, min_size=2, max_size=3))
def test_a_normalizing_vocabulary_has_the_spans_of_its_offsets(parts):
    """Qwen composes e + U+0301: token lengths do not add up to the text, offsets do."""
    state = json.loads(SMALL.to_str()) | {"normalizer": {"type": "NFC"}}
    composing = Tokenizer.from_str(json.dumps(state))
    rendered = render(talk(parts))
    expected = composing.encode(rendered.text, add_special_tokens=False)
    tokens = tokenize(rendered, TEMPLATES["chatml/openai"], composing, "parse", "whole")
    assert tokens.ids == expected.ids
    assert found_carriers(rendered, tokens) == carriers(rendered, expected.offsets)


def test_control_tokens_that_swallow_white_space_are_encoded_with_their_surroundings():
    """Phi-3's <|end|> takes the newline after it: cutting there would give other ids than Hugging Face."""
    greedy = Tokenizer.from_str(SMALL.to_str())
    state = json.loads(greedy.to_str())
    for token in state["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    greedy = Tokenizer.from_str(json.dumps(state))
    rendered = render(talk([["a"], ["b"]]))
    ids = tokenize(rendered, TEMPLATES["chatml/openai"], greedy, "parse", "whole")[0]
    assert ids == greedy.encode(rendered.text).ids != SMALL.encode(rendered.text).ids


def test_a_vocabulary_that_makes_control_tokens_of_plain_text_is_refused():
    words = Tokenizer(models.WordLevel({"hello": 0, "<s>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_tokens([AddedToken("<s>", special=True, normalized=False)])
    rendered = assemble([("content", 0, "hello <s>")])
    with pytest.raises(ValueError, match="makes control tokens of plain text"):
        tokenize(rendered, find_template("chatml/openai"), words, "literal", "whole")


def test_wrong_axes_and_slow_tokenizers_are_named():
    rendered = render(talk([["a"], ["b"]]))
    with pytest.raises(ValueError, match="special_tokens is 'yes'; choose one of parse, literal"):
        tokenize(rendered, TEMPLATES["chatml/openai"], SMALL, "yes")
    with pytest.raises(ValueError, match="tokenization is 'bytes'; choose one of whole, answers, segmented"):
        tokenize(rendered, TEMPLATES["chatml/openai"], SMALL, "parse", "bytes")
    with pytest.raises(ValueError, match="object has no offsets"):
        tokenize(rendered, TEMPLATES["chatml/openai"], object())


def test_a_fast_hugging_face_tokenizer_is_its_backend():
    from transformers import PreTrainedTokenizerFast

    rendered = render(talk([["a"], ["b"]]))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=SMALL)
    tokens = [lists(tokenize(rendered, TEMPLATES["chatml/openai"], tokenizer)) for tokenizer in (wrapped, SMALL)]
    assert tokens[0] == tokens[1]


class Bare:
    """A tokenizer as tokenizers < 0.23 has it: nothing can refer to it weakly."""

    __slots__ = ("backend_tokenizer",)

    def __init__(self, inner):
        self.backend_tokenizer = inner


def test_a_vocabulary_is_made_once_and_not_kept_for_ever():
    bare = [Bare(Tokenizer.from_str(SMALL.to_str())) for _ in range(40)]
    assert all(vocabulary_of(item) is vocabulary_of(item) for item in bare)
    assert vocabulary_of(bare[-1]) is not vocabulary_of(bare[0]) and len(vocabulary._vocabularies) <= 16
    known = vocabulary_of(bare[0])
    bare[0].backend_tokenizer.add_tokens(["<|new|>"])
    assert vocabulary_of(bare[0]) is not known and "<|new|>" in vocabulary_of(bare[0]).added
