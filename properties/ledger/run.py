"""What was really done: one ledger, whatever the trainer.

A Run is a table with one row for each position that the model saw while it was trained: which token, where it came
from, whether it was a target, on which token, with which weight. The rows are read off the gradient at the model's
last hidden state, so they state what happened to the model and not what a data loader intended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from sftspec.adapters import Adapter
from sftspec.conversation import Conversation
from sftspec.job import Job, has_dropout
from sftspec.masking import IGNORE, Conventions, Encoded, encode, kept_range, masked, trained_spans
from sftspec.properties.ledger.weights import as_trained, shares_of, weights_of
from sftspec.vocabulary import Tokens, carriers


@dataclass(frozen=True)
class Row:
    """One position that the model saw.

    step, forward, rank  optimizer step, model call, rank
    row, column          place in the batch
    token, position_id   what stood there
    example, offset      where it came from: token `offset` of the example's token stream (-1, -1: from nowhere)
    target               the token on which this position is trained; None: its gradient is exactly zero
    weight               of this target in the optimizer's gradient (1/n for a token mean)
    fit                  "cross-entropy", "label-smoothing", "ambiguous", or "" for no target
    nll                  negative log-likelihood of the target, in nats
    attended             False where the attention mask of the call hides the position
    """

    step: int
    forward: int
    rank: int
    row: int
    column: int
    token: int
    position_id: int
    example: int
    offset: int
    target: int | None = None
    weight: float = 0.0
    fit: str = ""
    nll: float = 0.0
    attended: bool = True


@dataclass(frozen=True)
class Token:
    """Token `offset` of an example's stream, whether the model saw it or not."""

    example: int
    offset: int


@dataclass(frozen=True)
class Piece:
    """A stretch of one example in one row of a batch: the whole example, unless it was cut or split."""

    example: int
    rows: tuple[Row, ...]

    @property
    def start(self) -> int:
        return self.rows[0].offset

    @property
    def end(self) -> int:
        return self.rows[-1].offset + 1

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    learning_rate  of the head's parameter group when the optimizer stepped
    scale          factor between the gradients seen at the hidden states and the one the optimizer got
    residual       part of the head's gradient that no position explains, relative to its norm
    gradients      by parameter name, as the optimizer got them
    before, after  parameters by name
    again          with dropout: the gradients of the step's calls, made again; {} where they were not
    frozen         names of the parameters that wanted no gradient
    apart          (rank, parameter): after the step, that rank held other bits of it than a rank before it
    """

    index: int
    learning_rate: float
    scale: float
    residual: float
    gradients: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    again: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    apart: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Replay:
    """A recorded model call, made again with its exact arguments but other tokens at some positions.

    changed, moved  sets of (row, column): where a token was replaced; where the last hidden state changed in any bit
    """

    forward: int
    changed: frozenset[tuple[int, int]]
    moved: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Forward:
    """One model call: token ids (B, T) as lists, which arguments it was given, and whether a gradient came back.

    hidden  (B, T, H) last hidden states as the trainer computed them
    random  a digest of torch's random state as the call began: equal states draw equal dropout masks
    drew    it was another state when the call ended
    autocast  the dtype of torch.autocast around the call ("" where it was off)
    lost    the examples of the call, if it cannot be read: its gradients overflowed and no step was made of them (a
            GradScaler's rule), or a parameter was not finite
    """

    index: int
    step: int
    rank: int
    input_ids: list[list[int]]
    arguments: tuple[str, ...]
    trained: bool
    hidden: Any = None
    random: str = ""
    drew: bool = False
    autocast: str = ""
    lost: tuple[int, ...] = ()


@dataclass
class Run:
    """What a trainer did with a job. `error` holds what it raised, if it did.

    initial, final  parameters by name, as they were given to the trainer and as it left them
    adapters        what was put beside matrices of the model, and trains
    saved           parameters trained whole beside adapters, and saved with them
    unread          why the parameters' gradients cannot be computed again ("": they can)
    cut             the conventions by which its text was seen to be cut into tokens, where they are not those declared
    recut           the tokens of each conversation whose text was seen in others, and as no convention says
    processes       how many processes shared its steps, each a rank
    refused         the conversations that the trainer does not accept, and was not given
    """

    job: Job
    conventions: Conventions = field(default_factory=Conventions)
    rows: list[Row] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    scenario: str = ""
    error: str = ""
    initial: Mapping[str, Any] = field(default_factory=dict)
    final: Mapping[str, Any] = field(default_factory=dict)
    twin: Run | None = None
    traceback: str = ""
    adapters: tuple[Adapter, ...] = ()
    saved: tuple[str, ...] = ()
    unread: str = ""
    cut: Mapping[str, Any] = field(default_factory=dict)
    recut: Mapping[int, list[int]] = field(default_factory=dict)
    processes: int = 1
    refused: list[Conversation] = field(default_factory=list)

    @cached_property
    def untaken(self) -> list[Any]:
        """What became of the conversations that were not taken as they are (sftspec.properties.masking.untaken)."""
        from sftspec.properties.masking.untaken import untaken

        return untaken(self)

    @property
    def pad(self) -> int | None:
        """The id with which rows are filled up: the one that is declared, or the tokenizer's."""
        return self.job.tokenizer.pad_token_id if self.conventions.pad is None else self.conventions.pad

    @property
    def dropout(self) -> bool:
        """Does the model's configuration ask for dropout, or an adapter?"""
        return has_dropout(self.job.model.config) or any(adapter.dropout for adapter in self.adapters)

    @property
    def is_noisy(self) -> bool:
        """Does the trainer declare something beside the cross-entropy, and draw random numbers without dropout?"""
        drew = any(call.drew for call in self.forwards if call.trained)
        return bool(self.conventions.auxiliary) and not self.dropout and drew

    @property
    def is_merged(self) -> bool:
        """Did the trainer write its adapters into the matrices when it was done, and take them away?"""
        return bool(self.adapters) and self.adapters[0].a not in self.final

    @cached_property
    def autocast(self) -> str:
        """The dtype of torch.autocast in the calls that were trained ("" where it was off): "bfloat16", "float16"."""
        return next((call.autocast for call in self.forwards if call.trained and call.autocast), "")

    @cached_property
    def lost(self) -> Counter[int]:
        """How often each example stood in a call that cannot be read (see Forward.lost)."""
        return Counter(example for call in self.forwards for example in call.lost)

    @cached_property
    def arithmetic(self) -> str:
        """The coarsest dtype that computed: autocast's, or that of the parameters. Such as "bfloat16"."""
        return self.autocast or self.lowered or str(next(iter(self.final.values())).dtype).removeprefix("torch.")

    @cached_property
    def lowered(self) -> str:
        """The dtype of 16 bits in which copies of the parameters computed, as fully_shard makes them by a
        MixedPrecisionPolicy; "" where they computed as they are, or under autocast.
        """
        states = [call.hidden for call in self.forwards[:1] if call.hidden is not None]
        if not states or self.autocast or states[0].element_size() >= next(iter(self.final.values())).element_size():
            return ""
        return str(states[0].dtype).removeprefix("torch.")

    @cached_property
    def oracle(self):
        """Independent float64 computations of the run's steps (sftspec.properties.ledger.oracle.Oracle)."""
        from sftspec.properties.ledger.oracle import Oracle

        return Oracle(self)

    @cached_property
    def streams(self) -> list[Encoded]:
        """Each conversation as the specification encodes it, whole, under the conventions declared; where its text is
        seen to be cut into other tokens, in those.
        """
        streams = streams_of(self.job, replace(self.conventions, **self.cut))
        for index, ids in self.recut.items():
            streams[index] = recut(streams[index], ids, self.job, index, self.conventions)
        return streams

    @cached_property
    def copies(self) -> dict[int, int]:
        """How often each conversation stands in the corpus, by the first of its copies, to which all are resolved."""
        first: dict[tuple[int, ...], int] = {}
        counts: dict[int, int] = {}
        for index, stream in enumerate(self.streams):
            example = first.setdefault(tuple(stream.input_ids), index)
            counts[example] = counts.get(example, 0) + 1
        return counts

    @cached_property
    def pieces(self) -> list[Piece]:
        """The stretches of examples that the model was trained on, in order."""
        pieces: list[Piece] = []
        current: list[Row] = []
        for row in self.rows:
            follows = current and (
                (row.forward, row.row, row.example) == (current[-1].forward, current[-1].row, current[-1].example)
                and row.column == current[-1].column + 1
                and row.offset == current[-1].offset + 1
            )
            if current and not follows:
                pieces.append(Piece(current[0].example, tuple(current)))
                current = []
            if row.example >= 0:
                current.append(row)
        if current:
            pieces.append(Piece(current[0].example, tuple(current)))
        return pieces

    @cached_property
    def fillers(self) -> frozenset[int]:
        """The pieces, by number, that fill up the last batches of an epoch on several ranks."""
        from sftspec.properties.ledger.fillers import fillers_of

        return fillers_of(self)

    @cached_property
    def dummies(self) -> frozenset[tuple[int, int, int]]:
        """Where those of them stand of which nothing is trained: their rank keeps pace with the others."""
        filling = (self.pieces[number] for number in self.fillers)
        return frozenset(self._place(piece) for piece in filling if all(row.target is None for row in piece.rows))

    def is_dummy(self, piece: Piece) -> bool:
        return self._place(piece) in self.dummies

    def _place(self, piece: Piece) -> tuple[int, int, int]:
        first = piece.rows[0]
        return first.forward, first.row, first.column

    @cached_property
    def appearances(self) -> list[tuple[Piece, ...]]:
        """How conversations stand in the rows: one piece, or several in their order, between which other tokens stand
        or none of its own.
        """
        found: list[tuple[Piece, ...]] = []
        for piece in self.pieces:
            first, last = piece.rows[0], found[-1][-1] if found else None
            goes_on = (
                last is not None
                and (first.forward, first.row, first.example) == (last.rows[0].forward, last.rows[0].row, last.example)
                and piece.start >= last.end
            )
            if goes_on:
                found[-1] += (piece,)
            else:
                found.append((piece,))
        return found

    def between(self, one: Piece, two: Piece) -> list[Row]:
        """The positions of a row between two pieces that stand in it."""
        last, first = one.rows[-1], two.rows[0]
        return self.lines[last.forward, last.row][last.column + 1 : first.column]

    def is_same_text(self, one: Piece, two: Piece) -> bool:
        """Stands between two pieces of a conversation what belongs there, in other tokens?"""
        seen, lost = self.between(one, two), self.streams[one.example].input_ids[one.end : two.start]
        decode = self.job.tokenizer.decode
        return bool(seen) and bool(lost) and decode([row.token for row in seen]) == decode(lost)

    @cached_property
    def inside(self) -> dict[tuple[int, int, int], bool]:
        """Positions (forward, row, column) that come from nowhere, within a conversation: are they its own text?"""
        return {
            (row.forward, row.row, row.column): self.is_same_text(one, two)
            for pieces in self.appearances
            for one, two in pairwise(pieces)
            for row in self.between(one, two)
        }

    @cached_property
    def unseen(self) -> frozenset[tuple[int, int, int]]:
        """Positions (forward, row, column) of no conversation that no position of one attends to.

        In a call that was made again with other tokens there: none of its row moved. In any other: they stand behind
        all that the row holds, where a causal model sees nothing of them.
        """
        found: set[tuple[int, int, int]] = set()
        made_again: set[int] = set()
        for replay in self.replays:
            places = self.places.get(replay.forward, {})
            if places and all(places[place].example < 0 for place in replay.changed):
                made_again.add(replay.forward)
                moved = {row for row, column in replay.moved if places[row, column].example >= 0}
                found |= {(replay.forward, row, column) for row, column in replay.changed if row not in moved}
        for (forward, number), line in self.lines.items():
            if forward not in made_again:
                last = max((row.column for row in line if row.example >= 0), default=-1)
                found |= {(forward, number, row.column) for row in line if row.column > last}
        return frozenset(found)

    @cached_property
    def lines(self) -> dict[tuple[int, int], list[Row]]:
        """Rows of the ledger by (forward, row of the batch)."""
        lines: dict[tuple[int, int], list[Row]] = {}
        for row in self.rows:
            lines.setdefault((row.forward, row.row), []).append(row)
        return lines

    def is_fed_without_its_last(self, row: Row) -> bool:
        """Does a row of the batch end at this position, trained on the token that follows it in its conversation? So
        do inputs ids[:-1] with targets ids[1:]: the last token is a target and no input.
        """
        ends = self.lines[row.forward, row.row][-1] is row
        return ends and row.target is not None and row.target == self.next_token(row)

    def next_token(self, row: Row) -> int | None:
        """The token that follows a position in its conversation; None at the end, and of one from nowhere."""
        ids = self.streams[row.example].input_ids if row.example >= 0 else []
        return ids[row.offset + 1] if row.offset + 1 < len(ids) else None

    def expected_target(self, piece: Piece, row: Row) -> int | None:
        """The token on which a position is to be trained under the job's policy; None where it is not.

        The last position of a piece has no successor in its own example, so it is never trained, unless the row was
        fed without its last token. Nothing of what a rank is fed to keep pace with the others, where all of it is
        masked, is to be trained.
        """
        ends = row.offset + 1 >= piece.end and not self.is_fed_without_its_last(row)
        if ends or self.is_dummy(piece):
            return None
        label = self.streams[piece.example].labels[row.offset + 1]
        return None if label == IGNORE else label

    def is_target(self, example: int, offset: int) -> bool:
        """Is this token of an example's stream a target under the job's policy?"""
        return self.streams[example].labels[offset] != IGNORE

    def expected(self) -> Iterator[tuple[Piece, Row, int | None]]:
        """Every resolved position with the target that the specification gives it; none for one behind which its
        conversation goes on with something else.
        """
        for pieces in self.appearances:
            for piece in pieces:
                for row in piece.rows if piece is pieces[-1] else piece.rows[:-1]:
                    yield piece, row, self.expected_target(piece, row)

    @cached_property
    def places(self) -> dict[int, dict[tuple[int, int], Row]]:
        """Rows of the ledger by forward, then by (row, column) of the batch."""
        places: dict[int, dict[tuple[int, int], Row]] = {}
        for row in self.rows:
            places.setdefault(row.forward, {})[row.row, row.column] = row
        return places

    @cached_property
    def labels_of_step(self) -> dict[int, int]:
        """Targets of each optimizer step, and the first tokens of its rows that the policy labels as such."""
        counts = dict(self.targets_of_step)
        for line in self.lines.values():
            first = line[0]
            if first.example >= 0 and self.is_target(first.example, first.offset):
                counts[first.step] = counts.get(first.step, 0) + 1
        return counts

    @cached_property
    def expected_of_step(self) -> dict[int, int]:
        """Number of positions that the policy trains in each optimizer step."""
        counts = {step.index: 0 for step in self.steps}
        for _, row, target in self.expected():
            counts[row.step] = counts.get(row.step, 0) + (target is not None)
        return counts

    @cached_property
    def targets(self) -> dict[int, list[Row]]:
        """The trained positions of each optimizer step."""
        targets: dict[int, list[Row]] = {step.index: [] for step in self.steps}
        for row in self.rows:
            if row.target is not None:
                targets.setdefault(row.step, []).append(row)
        return targets

    @cached_property
    def targets_of_step(self) -> dict[int, int]:
        """Number of trained positions of each optimizer step."""
        return {index: len(rows) for index, rows in self.targets.items()}

    @cached_property
    def shares(self) -> dict[int, list[float]]:
        """The weight that is declared for each trained position of a step, in the order of `targets`."""
        return {index: shares_of(self, rows) for index, rows in self.targets.items()}

    def declared_total(self, index: int) -> float:
        """What the weights of a step's targets sum to, as declared: 1, unless the denominator is not theirs."""
        return sum(self.shares[index]) or 1.0

    @cached_property
    def weights(self) -> list[list[float]]:
        """The weight of each message of each conversation, as the data or the trainer's conventions say."""
        return weights_of(self.job)

    @cached_property
    def is_weighted(self) -> bool:
        """Does a message weigh anything but 1, and 0, which takes it out?"""
        return any(weight not in (0.0, 1.0) for talk in self.weights for weight in talk)

    @cached_property
    def empty(self) -> frozenset[int]:
        """The conversations that keep no target within max_length: whoever trains may leave them out."""
        return frozenset(index for index in range(len(self.streams)) if not self.kept_targets(index))

    def kept(self, index: int) -> range:
        """The tokens of a conversation that the cut at max_length leaves."""
        return kept_range(len(self.streams[index]), self.job.max_length, self.job.truncation_side)

    def begins(self, piece: Piece) -> bool:
        """Does a piece begin with the first token of its conversation, or with the first that a left cut leaves?"""
        return piece.start in (0, self.kept(piece.example).start)

    def kept_targets(self, index: int) -> list[int]:
        """Those of them that are targets; the first of a row has no logits before it."""
        return [offset for offset in self.kept(index)[1:] if self.is_target(index, offset)]


def streams_of(job: Job, conventions: Conventions) -> list[Encoded]:
    """The whole token stream of each conversation, and its labels."""
    return [
        stream_of(as_trained(conversation, weights), job, conventions)
        for conversation, weights in zip(job.conversations, weights_of(job), strict=True)
    ]


def stream_of(conversation: Conversation, job: Job, conventions: Conventions) -> Encoded:
    """The whole token stream of a conversation as a job asks for it, with labels, and weights where it has some."""
    return encode(
        conversation,
        template=job.template,
        tokenizer=job.tokenizer,
        special_tokens=conventions.special_tokens,
        tokenization=conventions.tokenization,
        policy=job.policy,
        conventions=conventions,
    )


def recut(stream: Encoded, ids: list[int], job: Job, index: int, conventions: Conventions) -> Encoded:
    """A conversation's stream in other tokens of the same spelling, in a byte-level vocabulary; else as it was."""
    rendered, tokens = stream.rendered, job.tokenizer.convert_ids_to_tokens(ids)
    ends = np.cumsum([len(rendered.text[span.start : span.end].encode()) for span in rendered.spans])
    stops = np.cumsum([len(token) for token in tokens])
    if stops[-1] != ends[-1]:
        return stream
    starts = stops - [len(token) for token in tokens]
    messages = as_trained(job.conversations[index], weights_of(job)[index])
    trained = trained_spans(rendered, messages, job.policy, conventions)
    return masked(Tokens(ids, *carriers(starts, stops, ends)), rendered, trained)
