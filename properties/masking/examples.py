"""Masking: which examples reach the model, as what, and what is said of those that do not.

Nothing is dropped, cut or put in silently: every position comes from somewhere, every loss of data is counted.
"""

from __future__ import annotations

from itertools import pairwise, takewhile

from sftspec.properties import must, should
from sftspec.properties.ledger.run import Token


@must(laws=("MK-TRUNC",), claim="truncation", floor=5)
def a_cut_example_is_a_prefix(run):
    """An example over max_length keeps its first tokens and their labels, and gets nothing in place of the rest.

    An end-of-turn token put after the cut teaches to stop in mid-sentence; ids cut without labels shift the mask.
    """
    limit = run.job.max_length
    if limit is None or run.job.packing:
        return
    for piece in run.pieces:
        if len(run.streams[piece.example]) > limit:
            last = piece.rows[-1]
            line = run.lines[last.forward, last.row]
            after = takewhile(lambda row: row.example < 0, line[line.index(last) + 1 :])
            clean = last.target is None and all(row.target is None for row in after)
            yield (
                piece,
                piece.start == 0 and piece.end == limit and clean,
                (f"expected tokens 0 to {limit} and nothing trained after them, saw {piece.start} to {piece.end}"),
            )


@must(laws=("MK-TRUNCDROP", "PK-LONG"), floor=10)
def every_conversation_with_a_target_is_trained(run):
    """Every conversation that keeps a target is seen once in each epoch, and no position of it twice.

    Conversations otherwise vanish in silence: the whole one masked on a length mismatch (FastChat#2996), the last
    partial batch dropped, packing that throws away long examples (trl#4554). One that stands in the corpus twice is
    seen twice: whoever repeats it wants it to weigh more.
    """
    if run.error:
        return
    limit = run.job.max_length
    seen: dict[tuple[int, int], int] = {}
    for piece in run.pieces:
        for row in piece.rows:
            seen[row.example, row.offset] = seen.get((row.example, row.offset), 0) + 1
    for index, copies in run.copies.items():
        stream = run.streams[index]
        kept = range(len(stream) if limit is None else min(limit, len(stream)))
        targets = [offset for offset in kept if offset and stream.labels[offset] != -100]
        for offset in targets:
            count = seen.get((index, offset), 0) + run.lost[index]
            note = f"token {offset} was seen {count} times"
            times = copies * run.job.epochs
            yield Token(index, offset), count == times, note, count / times


@should(laws=("MK-TRUNCDROP",), claim="report", floor=3)
def lost_data_is_counted(run):
    """What was dropped or cut is reported: how many examples, how many tokens.

    trl#4554: 99.8 % of the tokens of long documents were dropped without a word. An example without a target that went
    through the model all the same may be called dropped or not. Of counts that are reported one left out is 0.
    """
    limit = run.job.max_length or 10**9
    unseen = run.empty - {piece.example for piece in run.pieces}
    cut = [len(stream) - limit for stream in run.streams if len(stream) > limit]
    counts = {"examples_dropped": {len(unseen), len(run.empty)}, "tokens_truncated": {sum(cut)}}
    if "examples_truncated" in run.job.reported:  # it may be left out, and not be wrong
        counts["examples_truncated"] = {len(cut)}
    for name, expected in counts.items():
        reported = run.job.reported.get(name, 0 if counts.keys() & run.job.reported.keys() else None)
        note = f"{name}: expected {max(expected)}, reported {reported}"
        yield run, reported in expected, note, (reported or 0) - max(expected)


@must(laws=("MK-COUNT",), claim="report", floor=5)
def reported_targets_are_the_scored_ones(run):
    """The number of targets that is reported is the number of positions that were scored.

    Counting labels before the shift counts a first token that no logits precede. Read where it is reported, which is
    then asked of every step.
    """
    if "num_targets" not in run.job.reported:
        return
    counted = [number for number in run.job.reported["num_targets"] if number]
    scored = [count for count in run.targets_of_step.values() if count]
    yield run, len(counted) == len(scored), f"{len(scored)} steps had targets, {len(counted)} were reported"
    for number, expected in zip(counted, scored, strict=False):
        yield run, number == expected, f"{expected} were scored in a step, {number} reported", number / expected


@must(floor=200)
def every_position_has_an_origin(run):
    """Every token that the model saw comes from a conversation, or is a control token, or hidden by the attention mask.

    Text that stands in no conversation was made up on the way: a template with one newline more or less, a default
    system prompt that nobody wrote (LLaMA-Factory#10772), a header doubled.
    """
    control = set(run.job.tokenizer.all_special_ids)
    for row in run.rows:
        filler = row.token in control or not row.attended
        known = row.example >= 0 or (filler and row.target is None)
        yield row, known, f"token {row.token} at row {row.row}, column {row.column} comes from no conversation"


@must(laws=("MK-SPAN",), floor=10)
def conversations_stand_as_rendered(run):
    """Within a row the tokens of a conversation follow each other as the template renders them: none lost, none put in.

    A newline of the template that is missing, or one token too many between turns, trains another format than the one
    used at inference (gorilla#430, FastChat#1997).
    """
    pieces: dict[tuple[int, int, int], list] = {}
    for piece in run.pieces:
        first = piece.rows[0]
        pieces.setdefault((first.forward, first.row, piece.example), []).append(piece)
    for parts in pieces.values():
        note = "is broken between tokens " + ", ".join(f"{one.end - 1} and {two.start}" for one, two in pairwise(parts))
        twice = run.copies[parts[0].example] > 1 and all(one.start == 0 for one in parts)
        yield parts[0], len(parts) == 1 or twice, note


@must(floor=50)
def padding_is_never_trained(run):
    """A position outside every conversation is not trained, also where pad equals the end-of-turn token.

    Mask by position, not by id: the pads after an end-of-turn look like it (trl#976, transformers#23530).
    """
    for row in run.rows:
        if row.example < 0:
            yield row, row.target is None, f"padding is trained on token {row.target}"
