"""Masking: which examples reach the model, as what, and what is said of those that do not.

Nothing is dropped, cut or put in silently: every position comes from somewhere, every loss of data is counted.
"""

from __future__ import annotations

from itertools import pairwise, takewhile

from sftspec.counted import counted as times_of
from sftspec.properties import must, should
from sftspec.properties.ledger.run import Token, streams_of
from sftspec.properties.masking.traits import in_common
from sftspec.properties.masking.untaken import counted


@must(laws=("MK-TRUNC",), claim="truncation", floor=5)
def a_cut_example_is_a_prefix(run):
    """An example over max_length keeps its first tokens and their labels, and gets nothing in place of the rest.

    An end-of-turn token put after the cut teaches to stop in mid-sentence; ids cut without labels shift the mask.
    """
    limit = run.job.prefix
    if limit is None or run.job.packing:
        return
    for first, *more in run.appearances:
        if len(run.streams[first.example]) > limit:
            piece = [first, *more][-1]
            last = piece.rows[-1]
            line = run.lines[last.forward, last.row]
            after = takewhile(lambda row: row.example < 0, line[line.index(last) + 1 :])
            beyond = run.is_fed_without_its_last(last)  # a token that is no target may have been left out unseen
            end = piece.end + (beyond or (piece.end == limit - 1 and not run.is_target(first.example, piece.end)))
            clean = (last.target is None or beyond) and all(row.target is None for row in after)
            yield (
                first,
                first.start == 0 and end == limit and clean,
                (f"expected tokens 0 to {limit} and nothing trained after them, saw {first.start} to {end}"),
            )


@must(laws=("MK-TRUNCLEFT",), claim="left-truncation", floor=5)
def a_left_cut_keeps_the_last_tokens(run):
    """With truncation_side="left" an example over max_length keeps its last tokens and their labels.

    Cut at the right end all the same (verl 0.9.1, `truncation: left` without padding) it keeps the question and loses
    the answer, and nothing says so.
    """
    if run.job.truncation_side != "left" or run.job.max_length is None:
        return
    for first, *more in run.appearances:
        whole, last = len(run.streams[first.example]), [first, *more][-1].rows[-1]
        if whole > run.job.max_length:
            kept, end = run.kept(first.example), last.offset + 1 + run.is_fed_without_its_last(last)
            note = f"expected tokens {kept.start} to {whole}, saw {first.start} to {end}"
            yield first, (first.start, end) == (kept.start, whole), note, first.start - kept.start


@must(laws=("MK-TRUNC",), floor=10)
def a_row_begins_with_its_conversations_first_token(run):
    """A conversation that needs no cut stands in its row from its first token on.

    A limit on prompts cuts them from the left, in silence, and every target is trained all the same: the model learns
    answers to questions that it did not see (MAX_PROMPT_LENGTH, `truncation_side="left"`). In packs
    packing/packed-examples-are-whole says so.
    """
    limit = run.job.max_length
    if run.job.packing:
        return
    for first, *_ in run.appearances:
        if limit is None or len(run.streams[first.example]) <= limit:
            yield first, first.start == 0, f"begins with token {first.start} of its conversation", first.start


@must(laws=("MK-TRUNCDROP", "PK-LONG"), floor=10)
def every_conversation_with_a_target_is_trained(run):
    """Every conversation that keeps a target is seen once in each epoch, and no position of it twice.

    Conversations otherwise vanish in silence: the whole one masked on a length mismatch (FastChat#2996), the last
    partial batch dropped, packing that throws away long examples (trl#4554). One that stands in the corpus twice is
    seen twice: it is to weigh more. Those that a trainer says it dropped are shown beside the verdicts. On several
    ranks, what fills up the last batches is step/no-example-fills-up-the-last-batches.
    """
    if run.error:
        return
    seen: dict[tuple[int, int], int] = {}
    for number, piece in enumerate(run.pieces):
        last = piece.rows[-1]
        beyond = (last.offset + 1,) if run.is_fed_without_its_last(last) else ()
        for offset in (*range(piece.start, piece.end), *beyond) if number not in run.fillers else ():
            seen[piece.example, offset] = seen.get((piece.example, offset), 0) + 1
    for pieces in run.appearances:
        for one, two in pairwise(pieces):
            for offset in range(one.end, two.start) if run.is_same_text(one, two) else ():
                seen[one.example, offset] = seen.get((one.example, offset), 0) + 1
    targets = {index: run.kept_targets(index) for index in run.copies}
    told = counted(run)
    asked = [index for index, offsets in targets.items() if offsets and not run.lost[index] and index not in told]
    lost = [index for index in asked if not any((index, offset) in seen for offset in targets[index])]
    vanished = f"the whole conversation is lost, as {len(lost)} of {len(asked)} are"
    if shared := in_common(run, lost, [index for index in asked if index not in lost]):
        vanished += f": {shared}"
    for index, copies in run.copies.items():
        for offset in targets[index] if index not in told else ():
            count, times = seen.get((index, offset), 0) + run.lost[index], copies * run.job.epochs
            note = vanished if index in lost else f"token {offset} was seen {times_of(count, 'time')}, not {times}"
            yield Token(index, offset), count == times, note, count / times


@should(laws=("MK-TRUNCDROP",), claim="report", floor=3)
def lost_data_is_counted(run):
    """What was dropped or cut is reported: how many examples, how many tokens.

    trl#4554: 99.8 % of the tokens of long documents were dropped without a word. An example without a target that went
    through the model all the same may be called dropped or not. Of counts that are reported one left out is 0.
    """
    limit = run.job.max_length or 10**9
    unseen = run.empty - {piece.example for piece in run.pieces}
    told = counted(run)
    over = {number: len(stream) - limit for number, stream in enumerate(run.streams) if len(stream) > limit}
    cut = [tokens for number, tokens in over.items() if number not in told]
    in_rows = [tokens for number, tokens in over.items() if number not in told | unseen]  # a dropped one is not cut
    gone = sum(run.copies[index] for index in told)
    counts = {
        "examples_dropped": {gone + len(unseen), gone + len(run.empty)},
        "tokens_truncated": {sum(cut), sum(in_rows)},
    }
    if "examples_truncated" in run.job.reported:  # it may be left out, and not be wrong
        counts["examples_truncated"] = {len(cut), len(in_rows)}
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
    if "num_targets" not in run.job.reported or run.lost:  # the targets of a step that was left out are reported too
        return
    counted = [number for number in run.job.reported["num_targets"] if number]
    scored = [count for count in run.targets_of_step.values() if count]
    yield run, len(counted) == len(scored), f"{times_of(len(scored), 'step')} had targets, {len(counted)} reported"
    for number, expected in zip(counted, scored, strict=False):
        yield run, number == expected, f"{expected} were scored in a step, {number} reported", number / expected


@must(floor=200)
def every_position_has_an_origin(run):
    """Every token that the model saw comes from a conversation, or is a control token, or hidden by the attention mask.

    Text that stands in no conversation was made up on the way: a template with one newline more or less, a default
    system prompt that was not written (LLaMA-Factory#10772), a header doubled. What no position attends to and nothing
    trains is padding, whatever its id.
    """
    control = {*run.job.tokenizer.all_special_ids, run.pad}
    for row in run.rows:
        place = row.forward, row.row, row.column
        filler = row.token in control or not row.attended or place in run.unseen
        known = row.example >= 0 or (filler and row.target is None) or run.inside.get(place, False)
        yield row, known, f"token {row.token} at row {row.row}, column {row.column} comes from no conversation"


@must(laws=("TP-CAT", "TP-TRAININF"), floor=10)
def text_is_cut_into_tokens_as_declared(run):
    """The text of a conversation is cut into tokens as the trainer's conventions declare.

    Prompt and answer encoded apart, or each message by itself, make other tokens where two pieces meet (litgpt#1567,
    torchtitan#4504). What is trained is then not what inference makes of the same text, unless it does so too.
    """
    declared = streams_of(run.job, run.conventions) if run.cut or run.recut else run.streams
    way = ", ".join(f"{axis}={value!r}" for axis, value in run.cut.items())
    note = f"cut as with {way}: if that is meant, and inference does so too, declare sftspec.Conventions({way})"
    if run.recut:
        note = "the same text in other tokens, cut as no convention of sftspec says"
    for first, *_ in run.appearances:
        same = declared[first.example].input_ids == run.streams[first.example].input_ids
        yield first, same, note


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
        if tuple(parts) in run.appearances and any(map(run.is_same_text, parts, parts[1:])):
            note += ": the same text in other tokens, cut as no convention of sftspec says"
        twice = run.copies[parts[0].example] > 1 and all(map(run.begins, parts))
        yield parts[0], len(parts) == 1 or twice, note


@must(floor=50)
def padding_is_never_trained(run):
    """A position outside every conversation is not trained, also where pad equals the end-of-turn token.

    Mask by position, not by id: the pads after an end-of-turn look like it (trl#976, transformers#23530).
    """
    for row in run.rows:
        if row.example < 0 and (row.forward, row.row, row.column) not in run.inside:
            yield row, row.target is None, f"padding is trained on token {row.target}"
