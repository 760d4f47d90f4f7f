"""Packing: several examples share a row, and none of them can tell.

A packed example is trained as if it stood alone: it is whole, sees no token of another example, has the positions that
it would have alone, and its last token is not trained to predict the next example. A leak moves the loss by a fraction
of a percent (trap H1), so it is not looked for in the loss: the recorded call is made again, with its exact
arguments, with the tokens of other examples changed, and not one bit of this example may move. (Krell et al. 2021,
arXiv:2107.02027; Kundu et al. 2024, arXiv:2407.09105.)

These properties read a run, packed or padded. The packer and the collator as functions are in `packer` and `collator`.
"""

from __future__ import annotations

from sftspec.counted import counted
from sftspec.properties import must, should


def shared_lines(run):
    """Rows of batches that hold more than one example: ((forward, row), the row's pieces)."""
    lines: dict[tuple[int, int], list] = {}
    for piece in run.pieces:
        lines.setdefault((piece.rows[0].forward, piece.rows[0].row), []).append(piece)
    return [(place, pieces) for place, pieces in lines.items() if len({piece.example for piece in pieces}) > 1]


@must(laws=("PK-INDEP", "PK-JAC", "PK-MASK", "PK-BACKEND"), floor=20)
def examples_do_not_see_each_other(run):
    """Changing the tokens of other examples leaves an example's hidden states bitwise unchanged.

    A plain causal mask over the pack (trl#1230, LLaMA-Factory#4224, torchtune#875); position_ids alone on a backend
    that does not read them (trl#2834); an attention mask of ones that overrides them (fla#838).
    """
    for replay in run.replays:
        if not (places := run.places.get(replay.forward)):
            continue
        changed = {places[place].example for place in replay.changed} - {-1}
        if not changed:
            continue
        for place, row in places.items():
            if row.example >= 0 and row.example not in changed:
                names = ", ".join(map(str, sorted(changed)[:4]))
                yield row, place not in replay.moved, f"moved when tokens of conversations {names} were changed"


@must(laws=("PK-JAC",), floor=10, needs=("masking/every-position-has-an-origin",))
def an_example_sees_itself(run):
    """Changing tokens of an example moves what follows them in it: isolation is not bought by attending to nothing.

    An inverted or all-false mask isolates perfectly (transformers#38094, pytorch#139462). Read in float32 and above,
    where at least three positions follow: a 16-bit state may round a small change away.
    """
    if run.oracle.stored > 1e-6 or run.lowered:
        return
    for replay in run.replays:
        if not (places := run.places.get(replay.forward)):
            continue
        first: dict[tuple[int, int], int] = {}
        for place in sorted(replay.changed):
            first.setdefault((place[0], places[place].example), place[1])
        follows: dict[tuple[int, int], list] = {}
        for place, row in places.items():
            changed = first.get((place[0], row.example))
            if row.example >= 0 and changed is not None and place[1] > changed and place not in replay.changed:
                follows.setdefault((place[0], row.example), []).append(place)
        for found in follows.values():
            if len(found) >= 3:
                yield (
                    places[found[-1]],
                    any(place in replay.moved for place in found),
                    ("no later position of the example moved when its own tokens were changed"),
                )


@must(laws=("PK-PAD", "ST-PAD"), floor=5, needs=("masking/every-position-has-an-origin",))
def padding_is_never_attended(run):
    """Changing the padding moves no position of any example.

    Left padding without a mask, pads counted as context, an attention mask of ones over pads.
    """
    for replay in run.replays:
        if not (places := run.places.get(replay.forward)):
            continue
        if any(places[place].example >= 0 for place in replay.changed):
            continue
        for place, row in places.items():
            if row.example >= 0:
                yield row, place not in replay.moved, "moved when the padding was changed"


@must(laws=("PK-POS",), floor=50)
def positions_restart_with_each_example(run):
    """position_ids count 0, 1, 2 … from the first token of every example.

    Counted on over the pack, learned positions go astray, and rotary models hide it (LLaMA-Factory#7318, trap H2).
    Left padding may begin later; what counts is read off padded rows too. Behind text that was put in before an example
    nothing is read: it is masking/every-position-has-an-origin's.
    """
    for pieces in run.appearances:
        first = pieces[0].rows[0].column
        before = run.lines[pieces[0].rows[0].forward, pieces[0].rows[0].row][first - 1] if first else None
        if before and before.example < 0 and before.attended and before.token != run.pad:
            continue
        for row in (row for piece in pieces for row in piece.rows):
            place = row.column - first
            note = f"expected position {place}, saw {row.position_id}"
            yield row, row.position_id == place, note, row.position_id - place


@must(
    laws=("PK-LOGITS", "PK-BACKEND"),
    bounded=True,
    floor=20,
    costly=True,
    needs=("masking/every-position-has-an-origin", "masking/conversations-stand-as-rendered"),
)
def hidden_states_equal_those_alone(run):
    """An example's hidden states in a batch equal those it has alone, within the rounding of the dtype.

    Whatever changes them (a leak, a position, a sliding window in place of the block mask, axolotl#732) is seen here.
    BOUND-SELF: four times the error of the example alone against its own float64 run, plus 8 roundings; in 16 bits
    of the norm over the example.
    """
    for piece, error, bound in run.oracle.compare_hidden():
        yield piece, error <= bound, f"differs by {error:.2e}, {bound:.2e} is rounding", error


@must(laws=("PK-BOUND", "PK-NTOK"), floor=5)
def no_example_is_trained_to_predict_the_next(run):
    """The last position of an example is not trained, in whatever row it stands.

    Otherwise the end of one example is taught to foretell an unrelated beginning (transformers#31629). A prompt masks
    it by chance, so the scenario that trains every token counts most (trap H8).
    """
    for piece in run.pieces:
        last = piece.rows[-1]
        if last.offset + 1 == len(run.streams[piece.example]) or _is_cut(run, piece):
            yield last, last.target is None, f"the last position is trained on token {last.target}"


@must(laws=("PK-PART",), claim="packing", floor=10)
def packed_examples_are_whole(run):
    """Every packed example stands in one piece, from its first token to its last (or to the capacity).

    Concatenate-and-cut packing ("wrapped", trl#1850) splits examples by design: such a setting fails here, and says so
    of itself; answers lose their questions.
    """
    if not run.job.packing:
        return
    for first, *more in run.appearances:
        length = min(len(run.streams[first.example]), run.job.max_length or 10**9)
        start, end = first.start, more[-1].end if more else first.end
        yield (
            first,
            (start, end) == (0, length),
            f"expected tokens 0 to {length} in one piece, saw {start} to {end}",
            (end - start) / length,
        )


@must(laws=("PK-CAP",), claim="packing", floor=5)
def no_row_exceeds_the_capacity(run):
    """A packed row holds at most max_length tokens of examples.

    What is over is cut off by the model's context or by the kernel, without a word.
    """
    if not run.job.packing:
        return
    for (forward, line), rows in run.lines.items():
        held = sum(row.example >= 0 for row in rows)
        # Rows flattened into one (padding-free) hold a batch of packs.
        packs = run.job.batch_size if len(run.forwards[forward].input_ids) == 1 else 1
        yield (
            rows[0],
            held <= run.job.max_length * packs,
            f"row {line} holds {counted(held, 'token')} of {run.job.max_length}",
        )


@should(laws=("PK-EFF", "PK-ANYFIT"), claim="packing", floor=1)
def packing_packs(run):
    """A packed run has fewer rows than examples, when examples fit together: the feature is on.

    Packing or padding-free training falls back in silence (unsloth#7234, unsloth-zoo#1279).
    """
    if not run.job.packing or run.job.epochs != 1 or run.error:
        return
    limit = run.job.max_length
    lengths = sorted(min(len(stream), limit) for stream in run.streams if stream.num_targets)
    if len(lengths) > 1 and lengths[0] + lengths[1] <= limit:
        yield run, bool(shared_lines(run)), f"{len(lengths)} examples, no row holds two of them"


def _is_cut(run, piece) -> bool:
    limit = run.job.max_length
    return limit is not None and piece.end == limit
