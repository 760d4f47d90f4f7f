"""What was heard of several ranks, as one: the calls of all of them, step by step, and one state of the parameters.

A step's calls stand in the order in which the ranks make them side by side; where ranks share rows, a call is theirs
together. A parameter that is kept whole on each rank
is rank 0's, one that is sharded is joined; wherever two ranks hold the same element, it is looked whether they hold the
same bits. What a trainer says through job.report is what its rank 0 says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sftspec.conformance.witness.listening import Heard
from sftspec.conformance.witness.shards import WHOLE, Place
from sftspec.conformance.witness.tap import Call, StepRecord
from sftspec.conformance.witness.tensor_file import is_same
from sftspec.counted import counted

State = Mapping[str, Tensor]


def merged(heard: Sequence[Heard], rows_are_shared: bool = False) -> Heard:
    """What was heard of all ranks together. Raises ValueError where their shards do not make up the whole.

    rows_are_shared: each rank holds a stretch of the columns of every row, which are joined, or every row whole.
    """
    first = heard[0]
    if len(heard) == 1:
        return first
    error, trace = _error(heard)
    if error:  # a rank that was lost leaves the others in the middle of a step
        heard = [_up_to(item, min(len(item.steps) for item in heard)) for item in heard]
    calls, numbers = (_joined_calls(heard), {}) if rows_are_shared else _calls(heard)
    places = [item.places for item in heard]
    steps = [_step(heard, index) for index in range(max(len(item.steps) for item in heard))]
    for index, step in enumerate(steps):
        step.apart = _apart([item.steps[index].after if index < len(item.steps) else {} for item in heard], places)
    if steps and not error:
        steps[-1].apart = tuple(sorted({*steps[-1].apart, *_apart([item.final for item in heard], places)}))
    return replace(
        first,
        calls=calls,
        steps=steps,
        replays=[
            replace(item, call=numbers[rank, item.call])
            for rank, one in enumerate(heard)
            for item in (() if rows_are_shared else one.replays)  # made on one rank, they wait for the others
        ],
        unheard="" if calls else next(filter(None, (item.unheard for item in heard)), ""),
        final=dict(steps[-1].after) if error and steps else _whole([item.final for item in heard], places),
        error=error,
        traceback=trace,
    )


def _up_to(heard: Heard, count: int) -> Heard:
    """What was heard in the first so many steps."""
    calls = [call for call in heard.calls if call.step < count]
    replays = [item for item in heard.replays if item.call < len(calls)]
    return replace(heard, calls=calls, steps=heard.steps[:count], replays=replays)


def _calls(heard: Sequence[Heard]) -> tuple[list[Call], dict[tuple[int, int], int]]:
    """The calls in order, numbered anew, and the new number of each by rank and old number."""
    made = []
    for rank, item in enumerate(heard):
        counts: dict[int, int] = {}
        for call in item.calls:
            counts[call.step] = counts.get(call.step, 0) + 1
            made.append((call.step, counts[call.step], rank, call))
    made.sort(key=lambda item: item[:3])
    numbers = {(rank, call.index): number for number, (*_, rank, call) in enumerate(made)}
    return [replace(call, index=number, rank=rank) for number, (*_, rank, call) in enumerate(made)], numbers


def _joined_calls(heard: Sequence[Heard]) -> list[Call]:
    """The calls of ranks that share rows, each of them once. Raises ValueError where ranks made unlike calls."""
    shapes = [[(call.step, len(call.input_ids)) for call in item.calls] for item in heard]
    if odd := [rank for rank, made in enumerate(shapes) if made != shapes[0]]:
        raise ValueError(f"rank {odd[0]} made other calls than rank 0, and they are to share rows")
    return [_joined_call(calls) for calls in zip(*(item.calls for item in heard), strict=True)]


def _joined_call(calls: Sequence[Call]) -> Call:
    """Stretches of rows, rank after rank; where positions say so (each of a row's once), in their order. Of ranks that
    were given the rows whole, and share the matrices (tensor parallelism), the first.
    """
    told = [(call.input_ids, call.position_ids) for call in calls]
    if all(is_same(ids, told[0][0]) and is_same(places, told[0][1]) for ids, places in told):
        return calls[0]
    places = torch.cat([call.position_ids for call in calls], 1)
    order = places.argsort(dim=1, stable=True)
    whole = torch.arange(places.shape[1])
    if not bool((places.gather(1, order) == whole).all()):
        order = whole.expand(places.shape)

    def join(parts: Sequence[Tensor]) -> Tensor:
        joined = torch.cat(list(parts), 1)
        index = order if joined.dim() == 2 else order[..., None].expand(joined.shape)
        return joined.gather(1, index)

    reached = any(call.gradient is not None for call in calls)
    gradients = [torch.zeros_like(call.hidden) if call.gradient is None else call.gradient for call in calls]
    return replace(
        calls[0],
        input_ids=join([call.input_ids for call in calls]),
        position_ids=join([call.position_ids for call in calls]),
        hidden=join([call.hidden for call in calls]),
        attended=join([call.attended for call in calls]),
        gradient=join(gradients) if reached else None,
        drew=any(call.drew for call in calls),
        overflowed=any(call.overflowed for call in calls),
    )


def _step(heard: Sequence[Heard], index: int) -> StepRecord:
    """A step of all ranks that made it."""
    made = [item for item in heard if index < len(item.steps)]
    records, places = [item.steps[index] for item in made], [item.places for item in made]
    return replace(
        records[0],
        gradients=_whole([item.gradients for item in records], places),
        before=_whole([item.before for item in records], places),
        after=_whole([item.after for item in records], places),
        again=_sum([item.again for item in records]) if all(item.again for item in records) else {},
        given=_sum([item.given for item in records]),
    )


def _sum(states: Sequence[State]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for state in states:
        for name, item in state.items():
            total[name] = total[name] + item if name in total else item
    return total


def _whole(states: Sequence[State], places: Sequence[Mapping[str, Place]]) -> dict[str, Tensor]:
    """Parameters or gradients by name, each as rank 0 has it; joined, where each rank has a part."""
    names = dict.fromkeys(name for state in states for name in state)
    return {name: _joined(name, states, places) for name in names}


def _joined(name: str, states: Sequence[State], places: Sequence[Mapping[str, Place]]) -> Tensor:
    both = zip(states, places, strict=True)
    held = [(state[name], place.get(name, WHOLE)) for state, place in both if name in state]
    if held[0][1] == WHOLE:
        return held[0][0]
    whole = torch.zeros(held[0][1].shape, dtype=held[0][0].dtype)
    filled = torch.zeros(held[0][1].shape, dtype=torch.bool)
    for part, place in reversed(held):
        whole[place.slices(part)], filled[place.slices(part)] = part, True
    if not bool(filled.all()):
        raise ValueError(
            f"the shards of {name} do not make up the whole: {counted(int((~filled).sum()), 'element')} missing"
        )
    return whole


def _apart(states: Sequence[State], places: Sequence[Mapping[str, Place]]) -> tuple[tuple[int, str], ...]:
    """(rank, parameter) where a rank holds other bits than a rank before it does, or nothing at all."""
    found = set()
    for name in dict.fromkeys(name for state in states for name in state):
        for rank, state in enumerate(states):
            mine, here = state.get(name), places[rank].get(name, WHOLE)
            for other in range(rank):
                theirs, there = states[other].get(name), places[other].get(name, WHOLE)
                if mine is None or theirs is None or (here == there and not is_same(mine, theirs)):
                    found.add((rank, name))
    return tuple(sorted(found))


def _error(heard: Sequence[Heard]) -> tuple[str, str]:
    """The error that was raised first, and on which rank: the others may only have waited for that one."""
    raised = [(item.ended, rank) for rank, item in enumerate(heard) if item.error]
    if raised:
        _, rank = min(raised)
        return f"rank {rank} of {len(heard)}: {heard[rank].error}", heard[rank].traceback
    odd = [rank for rank, item in enumerate(heard) if item.accepted != heard[0].accepted]
    return (f"rank {odd[0]} accepts other conversations than rank 0", "") if odd else ("", "")
