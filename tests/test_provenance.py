"""Every position is resolved, whatever packing, cutting, splitting and padding did to it."""

from __future__ import annotations

import random

import pytest

from sftspec.conformance.trial.corpora import ALPHABET, Writer, hostile_conversations, unequal_conversations
from sftspec.conformance.witness.model import make_tokenizer
from sftspec.conformance.witness.provenance import NOWHERE, Provenance
from sftspec.masking import encode

TOKENIZER = make_tokenizer()
LETTERS = TOKENIZER.convert_tokens_to_ids(list(ALPHABET))


@pytest.fixture(params=[hostile_conversations, unequal_conversations], ids=["hostile", "unequal"])
def streams(request):
    return [encode(talk, tokenizer=TOKENIZER).input_ids for talk in request.param(Writer(5))]


def test_packed_shuffled_and_padded_rows_are_resolved(streams):
    draw = random.Random(1)
    provenance = Provenance(streams, LETTERS)
    for _ in range(20):
        chosen = draw.sample(range(len(streams)), 4)
        row = [token for example in chosen for token in streams[example]] + [TOKENIZER.pad_token_id] * 3
        expected = [(example, offset) for example in chosen for offset in range(len(streams[example]))] + [NOWHERE] * 3
        assert provenance.resolve([row]) == [expected]


def test_truncated_rows_are_resolved_from_the_first_word_on(streams):
    provenance = Provenance(streams, LETTERS)
    for example, stream in enumerate(streams):
        for length in range(12, len(stream)):
            assert provenance.resolve([stream[:length]])[0] == [(example, offset) for offset in range(length)]


def test_a_stream_that_is_cut_anywhere_goes_on_in_the_next_row(streams):
    joined = [(example, offset) for example in range(len(streams)) for offset in range(len(streams[example]))]
    provenance = Provenance(streams, LETTERS)
    rows = [joined[start : start + 50] for start in range(0, len(joined), 50)]
    resolved = provenance.resolve([[streams[example][offset] for example, offset in row] for row in rows])
    wrong = sum(
        got != want for row, origins in zip(rows, resolved, strict=True) for got, want in zip(origins, row, strict=True)
    )
    # A stretch of less than a word at a cut may be anybody's ("<|im_end|>" and a newline).
    assert wrong <= 3 * len(rows)


def test_equal_streams_are_one_origin_wherever_they_are_cut(streams):
    stream = max(streams, key=len)
    provenance = Provenance([*streams, stream], LETTERS)
    place = streams.index(stream)
    expected = [(place, offset) for offset in range(len(stream))]
    for cut in range(12, len(stream) - 12):
        assert provenance.resolve([stream[:cut], stream[cut:], stream]) == [expected[:cut], expected[cut:], expected]


def test_a_token_put_in_resolves_to_nothing(streams):
    provenance = Provenance(streams, LETTERS)
    extra = TOKENIZER.convert_tokens_to_ids("<s>")
    row = [*streams[0][:8], extra, *streams[0][8:]]
    assert provenance.resolve([row])[0][8] == NOWHERE


def test_the_end_of_a_text_put_in_is_not_what_was_cut_off_another_conversation(streams):
    """Both end with the token of an end of turn and a newline."""
    provenance = Provenance(streams, LETTERS)
    cut, whole = streams[:2]
    put_in = encode([{"role": "system", "content": "thinking off"}], tokenizer=TOKENIZER).input_ids
    assert put_in[-2:] == cut[-2:]
    _, origins = provenance.resolve([cut[:-2], [*put_in, *whole]])
    assert origins == [NOWHERE] * len(put_in) + [(1, offset) for offset in range(len(whole))]


def test_replays_tell_every_ordered_pair_of_examples_apart(streams):
    provenance = Provenance(streams, LETTERS)
    row = [token for stream in streams[:7] for token in stream]
    origins = provenance.resolve([row])
    masks = list(provenance.perturbations(origins))
    changed = [{origin[0] for origin, on in zip(origins[0], mask[0], strict=True) if on} for mask in masks]
    for one in range(7):
        for other in range(7):
            if one != other:
                assert any(one in examples and other not in examples for examples in changed)


@pytest.mark.parametrize("cut", [0, 1, 2, 3], ids=lambda cut: f"{cut} cut on the left")
def test_a_turn_that_begins_at_the_limit_is_resolved_where_nobody_cut_there(cut):
    """The row once kept `resolve` in a loop without an end."""
    start, a, b, c, d, e, f = 1, 10, 11, 12, 13, 14, 15
    stream = [start, a, b, c, start, d, e, f]
    found = Provenance([stream], [a, b, c, d, e, f], pad=0, limit=4)
    assert found.resolve([stream[cut:]]) == [[(0, offset) for offset in range(cut, len(stream))]]
    assert found.resolve([stream[:4]]) == [[(0, offset) for offset in range(4)]]
    twice = [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert found.resolve([stream[:4] * 2]) == [twice * 2]


def test_any_row_of_few_tokens_is_resolved():
    """Short vocabularies repeat words, turns and beginnings, at any limit."""
    draw = random.Random(0)
    for _ in range(2000):
        streams = [[1, *draw.choices((1, 2, 3, 4), k=draw.randint(3, 9))] for _ in range(draw.randint(1, 3))]
        found = Provenance(streams, [2, 3, 4], pad=0, limit=draw.choice((None, 1, 2, 4, 5)))
        row = draw.choices((0, 1, 2, 3, 4), k=3) + draw.choice(streams) + draw.choice(streams)
        for token, (example, offset) in zip(row, found.resolve([row])[0], strict=True):
            assert example < 0 or streams[example][offset] == token
