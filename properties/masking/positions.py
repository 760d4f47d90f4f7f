"""Masking: which positions are trained, and on which token.

What the model is to write at inference is trained: the content of the assistant's turns and the token that ends them.
What it will be given is not. All of it is read off the gradient at the model, where a position without a target is
exactly zero: a mask that was right in the data loader and lost on the way (karpathy/nanochat#582: same training loss,
worse model) is seen here.
"""

from __future__ import annotations

import math

from sftspec.properties import must


def role_of(run, piece, offset: int) -> tuple[str, str]:
    """(role, kind of span) of a token of a piece's stream."""
    stream = run.streams[piece.example]
    span = stream.rendered.spans[stream.owners[offset]]
    role = run.job.conversations[piece.example][span.message]["role"] if span.message >= 0 else ""
    return role, span.kind


@must(laws=("MK-SPAN", "MK-ZERO", "MK-USERPERM"), floor=100)
def nothing_else_is_trained(run):
    """Only what the policy trains is trained: every other position has a gradient of exactly zero.

    The model otherwise learns to write the user's turn. Masks dropped in a refactor or by a fused path
    (nanochat#582, trl#3781), all-ones fallbacks (Megatron-Bridge#3359), tool results trained (prime-rl#978), role
    headers in the loss (trl#4201, maxtext#3284). Llama-2, arXiv:2307.09288 section 3.1.
    """
    for piece, row, expected in run.expected():
        if expected is None and row.offset + 1 == len(run.streams[piece.example]):
            yield row, row.target is None, "trained on what stands behind the conversation's last token"
        elif expected is None:
            role, kind = role_of(run, piece, row.offset + 1)
            yield row, row.target is None, f"trained on a token of the {role}'s {kind}, which is not to be trained"


@must(laws=("MK-SPAN",), floor=200)
def everything_chosen_is_trained(run):
    """Every token that the policy trains is trained.

    Supervision is otherwise lost in silence: only the last turn trained (ms-swift#7838, NVIDIA-NeMo/Speech#16284), a
    marker not found (trl#588), the first token of each answer lost (verl#3287), a drift of one token a turn
    (FastChat#2996).
    """
    for _piece, row, expected in run.expected():
        if expected is not None:
            yield row, row.target is not None, "not trained; expected a target here"


def distance(line, row) -> float:
    """How far ahead the token stands on which a position is trained: 0 for itself, 2 for the one after the next."""
    places = [other.column - row.column for other in line if other.token == row.target]
    return min(places, key=abs, default=math.nan)


@must(laws=("MK-LABEL", "MK-SHIFT", "MK-FIRST"), floor=200)
def each_target_is_the_next_token(run):
    """A position is trained on the token that follows it in the same row, and on no other.

    Shifted twice the model learns the token after the next (transformers#46898, #47395); not shifted it learns to copy
    (transformers#17987). On a random model the loss looks the same in all three cases (trap H7).
    """
    for line in run.lines.values():
        for row, following in zip(line, [*line[1:], None], strict=True):
            token = following.token if following else run.next_token(row)
            if row.target is not None and row.target == token:
                yield row, True
            elif row.target is not None:
                yield row, False, f"trained on {row.target}, followed by {token}", distance(line, row)


@must(laws=("MK-EOT",), floor=20)
def end_of_turn_is_trained(run):
    """Every trained assistant turn trains the token that ends it, unless it was cut off.

    A model that never sees it as a target never stops: pad equal to end-of-turn and labels masked by id (trl#976,
    Megatron-Bridge#4660), end-of-turn found by eos_token_id alone (axolotl#3754), never appended (trl#1623). LIMA,
    arXiv:2305.11206 section 3.
    """
    if not run.conventions.end_of_turn:
        return
    for piece, row, expected in run.expected():
        if expected is not None:
            role, kind = role_of(run, piece, row.offset + 1)
            if kind == "end_of_turn" and role == "assistant":
                yield row, row.target == expected, f"expected {expected} as target, saw {row.target}"


@must(laws=("MK-SPAN",), floor=20)
def first_token_of_an_answer_is_trained(run):
    """The first token of every trained answer is trained from the last token of its header.

    A mask that was not shifted with the labels starts one token late, or one early on the header itself (verl#3287,
    verl#3562, NVIDIA-NeMo/Speech#6409, alpaca-lora#306).
    """
    for piece, row, expected in run.expected():
        if expected is not None and not run.is_target(piece.example, row.offset):
            yield row, row.target == expected, f"expected {expected} as first target, saw {row.target}"


@must(laws=("MK-CAUSAL",), floor=20, needs=("packing/examples-do-not-see-each-other",))
def no_position_sees_what_follows_it(run):
    """Changing a token leaves the hidden state of every earlier position bitwise unchanged.

    The model otherwise reads the answer that it is to write: a bidirectional or prefix mask, polarity inverted
    (transformers#38094), left padding without a mask.
    """
    for replay in run.replays:
        if not (places := run.places.get(replay.forward)):
            continue
        # Of a row, what stands before every change: behind one, a leak from another example moves it as well.
        first: dict[int, int] = {}
        for line, column in replay.changed:
            first[line] = min(column, first.get(line, column))
        for (line, column), row in places.items():
            changed = first.get(line, 0)
            if row.example >= 0 and column < changed:
                yield row, (line, column) not in replay.moved, f"moved when column {changed}, behind it, was changed"


@must(laws=("MK-NONEMPTY",), floor=20)
def parameters_stay_finite(run):
    """No step writes NaN or inf into a parameter, whatever the batch holds.

    A batch without a target is 0/0 under a plain mean: NaN weights, or a loss reported as 0.0 while the run looks
    successful (nanochat#590, trl#6668, trl#6320).
    """
    for step in run.steps:
        finite = all(bool(value.isfinite().all()) for value in step.after.values())
        yield step, finite, f"optimizer step {step.index} left a parameter that is not finite"


@must(alone=True, laws=("MK-NONEMPTY",))
def a_step_without_targets_changes_nothing(run):
    """A step whose micro-batches have no target leaves every parameter bitwise as it was (SGD, no decay).

    Otherwise something that is no target moves the model: labels -100 read as a class, an auxiliary loss on padding.
    """
    if run.job.optimizer != "sgd":
        return
    for step in run.steps:
        if run.expected_of_step[step.index] == 0:
            same = all(bool((step.before[name] == value).all()) for name, value in step.after.items())
            yield step, same, f"optimizer step {step.index} had no target and changed parameters"
    # A trainer that never steps on such a batch shows it by the conversations that it left out.
    seen = {piece.example for piece in run.pieces}
    for index, stream in enumerate(run.streams):
        if stream.num_targets == 0 and index not in seen:
            yield run, True
