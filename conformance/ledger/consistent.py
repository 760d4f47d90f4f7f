"""A ledger that can be: every figure in its range, every reference to something that is there.

What comes from a stranger's folder is checked here once, so that whoever reads a run later need not ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sftspec.conformance.ledger.store import RecordingError
from sftspec.conventions import TOLD
from sftspec.counted import counted
from sftspec.job import COUNTS, PER_STEP
from sftspec.properties.ledger.run import Run

LARGEST = 2**31
LEAST_NLL = 0.01  # nats of a target that the witness reads: below -log(recovery.MAX_PROBABILITY), which is 0.01005
FITS = ("", "cross-entropy", "label-smoothing", "ambiguous")
WHOLE = ("step", "forward", "rank", "row", "column", "token", "position_id", "example", "offset")


def require_consistent(run: Run, place: str) -> None:
    """Raise RecordingError with the place of the first thing that cannot be."""
    for fault in faults(run):
        raise RecordingError(f"{place}: {fault}")


def faults(run: Run) -> Iterator[str]:
    if (said := misreported(run)) is not None:  # what is read of a run hangs on it
        yield f"job.reported.{said}"
        return
    yield from recut(run)
    yield from calls(run)
    yield from rows(run)
    yield from whole(run)
    yield from steps(run)
    yield from replays(run)


def is_whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < LARGEST


def is_number(value: Any) -> bool:
    """A number that a float can hold; NaN and the infinities are numbers here."""
    return type(value) in (int, float) and (isinstance(value, float) or abs(value) < 10**15)


def misreported(run: Run) -> str | None:
    """What `job.report` would not have taken: its name, and what it is not."""
    for name, figure in run.job.reported.items():
        if name == TOLD:
            if not is_weights(figure, [len(talk) for talk in run.job.conversations]):
                return f"{name} is no list of a number for each message of each conversation"
        elif name in PER_STEP:
            if not (isinstance(figure, list) and all(map(is_number, figure))):
                return f"{name} is no list of a number for each step"
        elif name not in {*COUNTS, "bytes_in_workdir"}:
            return f"{name:.80} is read by nobody"
        elif not (type(figure) is int and is_number(figure)):
            return f"{name} is no whole number"
    return None


def is_weights(told: Any, lengths: list[int]) -> bool:
    is_list = isinstance(told, list) and all(isinstance(item, list) for item in told)
    return (
        is_list
        and list(map(len, told)) == lengths
        and all(is_number(value) and math.isfinite(value) for item in told for value in item)
    )


def recut(run: Run) -> Iterator[str]:
    """Conversations that were read in other tokens: they are there, and so are the tokens."""
    vocabulary = run.job.model.config.vocab_size
    for index, ids in run.recut.items():
        if not 0 <= index < len(run.job.conversations):
            yield f"recut: there is no conversation {index}"
        elif not (isinstance(ids, list) and all(is_whole(token) and token < vocabulary for token in ids)):
            yield f"recut of conversation {index} is no list of token ids"


def calls(run: Run) -> Iterator[str]:
    vocabulary = run.job.model.config.vocab_size
    for number, call in enumerate(run.forwards):
        here = f"forwards[{number}]"
        if call.index != number:
            yield f"{here}.index is {call.index}; calls are numbered from 0 without a gap"
        if not (is_whole(call.step) and is_whole(call.rank)):
            yield f"{here}: step or rank is no whole number"
        if any(example >= len(run.job.conversations) for example in call.lost):
            yield f"{here}.lost names a conversation that is not there"
        lengths = {len(row) if isinstance(row, list) else -1 for row in call.input_ids}
        if len(lengths) != 1 or min(lengths) < 1:
            yield f"{here}.input_ids is no table of B rows of T token ids"
        elif not all(is_whole(token) and token < vocabulary for row in call.input_ids for token in row):
            yield f"{here}.input_ids holds what is no token id of the vocabulary"
        elif call.hidden is not None and tuple(call.hidden.shape[:2]) != (len(call.input_ids), lengths.pop()):
            yield f"{here}: its hidden states have the shape {tuple(call.hidden.shape)}"


def rows(run: Run) -> Iterator[str]:
    lengths = [len(stream) for stream in run.streams]
    for number, row in enumerate(run.rows):
        here = f"rows[{number}]"
        if not all(is_whole(getattr(row, name), -1 if name in ("example", "offset") else -LARGEST) for name in WHOLE):
            yield f"{here}: one of {', '.join(WHOLE)} is no whole number in its range"
        elif not 0 <= row.forward < len(run.forwards):
            yield f"{here}.forward is {row.forward}, of {counted(len(run.forwards), 'model call')}"
        elif not holds(run.forwards[row.forward].input_ids, row.row, row.column, row.token):
            yield f"{here}: token {row.token} does not stand in row {row.row}, column {row.column} of its model call"
        elif row.step != run.forwards[row.forward].step:
            yield f"{here}.step is {row.step}; its model call belongs to step {run.forwards[row.forward].step}"
        elif row.example >= len(lengths) or (row.example >= 0 and not 0 <= row.offset < lengths[row.example]):
            yield f"{here}: conversation {row.example} has no token {row.offset}"
        elif not (row.target is None or is_whole(row.target)):
            yield f"{here}.target is no token id"
        elif not (is_number(row.weight) and is_number(row.nll) and isinstance(row.fit, str)):
            yield f"{here}: weight, nll or fit is of another type"
        elif row.fit not in FITS:
            yield f"{here}.fit is {row.fit!r:.80}; known: {', '.join(FITS)}"
        elif (row.target is None) != (row.fit == "") or (row.target is None and (row.weight, row.nll) != (0, 0)):
            yield f"{here}: a target has a fit, and what is no target has no fit, no weight and no nll"
        elif row.target is not None and row.nll < LEAST_NLL:  # every bound would be as wide as one likes
            yield f"{here}.nll is {row.nll:g}; no target is read that has less than {LEAST_NLL:g}"
        elif not isinstance(row.attended, bool):
            yield f"{here}.attended is neither true nor false"


def whole(run: Run) -> Iterator[str]:
    """Every position of a call that was trained has its row: none is left out, none stands twice."""
    for number, call in enumerate(run.forwards):
        size = sum(map(len, call.input_ids))
        found = len(run.places.get(number, {}))
        if call.trained and not run.error and found != size:
            yield f"forwards[{number}] has {counted(size, 'position')}, and the ledger {found} of them"


def holds(table: list[list[int]], row: int, column: int, token: int) -> bool:
    return 0 <= row < len(table) and 0 <= column < len(table[row]) and table[row][column] == token


def steps(run: Run) -> Iterator[str]:
    shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(
        name for adapter in run.adapters for name in adapter.parameters
    )  # whose shapes are the adapter's own affair
    shapes |= {name: tuple(item.shape) for name, item in run.job.model.named_parameters()}
    yield from adapters(run, shapes)
    for number, step in enumerate(run.steps):
        here = f"steps[{number}]"
        if step.index != number:
            yield f"{here}.index is {step.index}; steps are numbered from 0 without a gap"
        if not all(is_number(value) for value in (step.learning_rate, step.scale, step.residual)):
            yield f"{here}: learning_rate, scale or residual is no number"
        if not all(is_rank_and_name(item, run, shapes) for item in step.apart):
            yield f"{here}.apart holds what is no rank beside the first, or no parameter"
        for kind in ("gradients", "before", "after", "again"):
            yield from tensors(getattr(step, kind), shapes, f"{here}.{kind}")
    yield from tensors(run.initial, shapes, "initial")
    yield from tensors(run.final, shapes, "final")


def is_rank_and_name(item: Any, run: Run, shapes: Mapping[str, Any]) -> bool:
    return len(item) == 2 and is_whole(item[0], 1) and item[0] < run.processes and item[1] in shapes


def adapters(run: Run, shapes: dict[str, Any]) -> Iterator[str]:
    for number, adapter in enumerate(run.adapters):
        if shapes.get(adapter.target) is None:
            yield f"adapters[{number}]: the model has no parameter {adapter.target!r:.80}"
        for name in adapter.parameters:
            if any(name not in step.before for step in run.steps):
                yield f"adapters[{number}]: a step has no tensor {name!r:.80} before it"


def tensors(found: Any, shapes: dict[str, tuple[int, ...] | None], here: str) -> Iterator[str]:
    for name, tensor in found.items():
        if name not in shapes:
            yield f"{here}: the model has no parameter {name!r:.80}"
        elif shapes[name] is not None and tuple(tensor.shape) != shapes[name]:
            yield f"{here}.{name} has the shape {tuple(tensor.shape)}; the parameter has {shapes[name]}"


def replays(run: Run) -> Iterator[str]:
    for number, replay in enumerate(run.replays):
        here = f"replays[{number}]"
        if not 0 <= replay.forward < len(run.forwards):
            yield f"{here}.forward is {replay.forward}, of {counted(len(run.forwards), 'model call')}"
            continue
        table = run.forwards[replay.forward].input_ids
        if not all(is_place(pair, table) for pair in (*replay.changed, *replay.moved)):
            yield f"{here}: a [row, column] pair lies outside its model call"


def is_place(pair: Iterable[Any], table: list[list[int]]) -> bool:
    values = tuple(pair)
    if len(values) != 2 or not all(is_whole(value) for value in values):
        return False
    return values[0] < len(table) and values[1] < len(table[values[0]])
