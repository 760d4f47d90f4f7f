"""The run as a whole: which examples a step holds, in which order, and that nothing depends on an interruption.

A step is made of the micro-batches that were asked for, an epoch of every example once in an order of its own, and a
run that was saved, lost and loaded goes on as if nothing had happened. The same job gives the same model, or no other
comparison means anything.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

from sftspec.counted import counted
from sftspec.properties import must, should


@must(laws=("ST-DET", "PK-DET"), floor=1, final=True)
def the_same_job_gives_the_same_model(run):
    """The same job and seed end with bitwise the same parameters.

    Unseeded order, sets in the data path: then no other comparison means anything.
    """
    if run.job.resume_at is None and run.twin is not None and run.twin.job.seed == run.job.seed:
        for name, value in run.final.items() if run.twin.final else ():  # a second run that was lost says nothing
            yield run, bool((value == run.twin.final[name]).all()), f"{name} differs between two equal runs"


@must(laws=("ST-RESUME",), claim="resume", floor=1, final=True)
def resuming_equals_not_stopping(run):
    """Saved, lost and loaded again, a run ends with bitwise the parameters of the run that went on.

    The data starts over (transformers#8878, accelerate#4071), the schedule or the optimizer restarts (Lightning#4655),
    the random state is lost and dropout draws another mask.
    """
    if run.job.resume_at is not None and run.twin is not None:
        saved = run.job.reported.get("bytes_in_workdir", 0)
        yield run, saved > 0, "nothing was saved in the job's workdir, so nothing was resumed"
        for name, value in run.final.items() if run.twin.final else ():  # a second run that was lost says nothing
            yield run, bool((value == run.twin.final[name]).all()), f"{name} differs from the uninterrupted run"


def are_grouped_by_length(run, batches: list[list[int]]) -> bool:
    """Holds every batch examples that follow each other in length?"""
    spans = sorted(sorted(len(run.streams[example]) for example in batch) for batch in batches)
    return all(one[-1] <= two[0] for one, two in pairwise(spans))


def by_epoch(run, units: list) -> list[list]:
    size = len(units) // run.job.epochs
    return [units[place * size : (place + 1) * size] for place in range(run.job.epochs)]


def epochs_of(run) -> list[list]:
    """What was shuffled epoch by epoch: packs, examples, or batches of examples that are alike in length; nothing if
    they are fewer than seven, which by chance come twice in one order once in 5,040 runs.
    """
    if run.job.packing:
        epochs = by_epoch(run, [[row.example for row in line] for line in run.lines.values()])
    else:
        calls: dict[int, list[int]] = {}
        for piece in run.pieces:
            calls.setdefault(piece.rows[0].forward, []).append(piece.example)
        epochs = by_epoch(run, list(calls.values()))
        if not all(are_grouped_by_length(run, batches) for batches in epochs):
            epochs = by_epoch(run, [piece.example for piece in run.pieces])
    return epochs if len(epochs[0]) >= 7 else []


@should(laws=("ST-EPOCH", "ST-DET"), floor=1)
def epochs_differ_in_order(run):
    """No epoch repeats the order of another one (trl#2030, torchtitan#2556)."""
    if run.job.epochs > 1 and not run.error:
        for (one, first), (two, second) in combinations(enumerate(epochs_of(run), 1), 2):
            yield run, first != second, f"epochs {one} and {two} have the same order"


@should(laws=("ST-DET",))
def another_seed_gives_another_order(run):
    """With another seed every epoch has another order, unless nothing is shuffled.

    A seed that is not passed on makes every repetition of an experiment the same one.
    """
    if run.twin is None or run.twin.job.seed == run.job.seed or run.error or run.twin.error:
        return
    mine, other = epochs_of(run), epochs_of(run.twin)
    if mine and (mine[0] != mine[-1] if run.job.packing else mine[0] != sorted(mine[0])):
        for number, (first, second) in enumerate(zip(mine, other, strict=False), 1):
            note = f"epoch {number}: seeds {run.job.seed} and {run.twin.job.seed} give the same order"
            yield run, first != second, note


def epochs_after(run) -> dict[int, tuple[int, int]]:
    """For each step, how often every example was begun when it ended, and how often some example was; those without a
    target, of which some steps make nothing, aside.
    """
    pieces = [piece for number, piece in enumerate(run.pieces) if number not in run.fillers]
    times = {piece.example: 0 for piece in pieces if piece.example not in run.empty}
    begun: dict[int, list[int]] = {step.index: [] for step in run.steps}
    for piece in pieces:
        if run.begins(piece) and piece.example in times:
            begun.setdefault(piece.rows[0].step, []).append(piece.example)
    after = {}
    for index, examples in begun.items():
        for example in examples:
            times[example] += 1
        passes = [divmod(count, run.copies.get(example, 1)) for example, count in times.items()]
        after[index] = min((whole for whole, _ in passes), default=0), max((n + bool(m) for n, m in passes), default=0)
    return after


@must(laws=("ST-EPOCH",), floor=5)
def steps_hold_the_examples_asked_for(run):
    """An optimizer step holds batch_size times accumulation times ranks examples (packed: rows) of one epoch; the last
    of an epoch may hold fewer.

    A setting that is ignored in silence is another batch size, and with it another learning rate. Packs that were
    flattened into one row, or were never made, are not read.
    """
    lines = {(piece.rows[0].forward, piece.rows[0].row) for piece in run.pieces}
    if run.error or run.lost or (run.job.packing and len(lines) == len(run.pieces)):
        return
    size = run.job.batch_size * run.job.accumulation * run.job.world_size
    held: dict[int, dict[tuple, int]] = {step.index: {} for step in run.steps}
    for piece in run.pieces:
        first = piece.rows[0]
        begun = held.setdefault(first.step, {})
        place = (first.forward, first.row, -1 if run.job.packing else piece.example)
        begun[place] = begun.get(place, 0) + run.begins(piece)
    if run.job.packing and any(
        len(run.forwards[forward].input_ids) == 1 and sum(row.example >= 0 for row in rows) > run.job.max_length
        for (forward, _), rows in run.lines.items()
    ):
        return
    what, finished = "row" if run.job.packing else "example", 0
    for index, (least, most) in epochs_after(run).items():
        times = held[index].values()
        ends, count = least == most, len(times) if run.job.packing else sum(max(1, begun) for begun in times)
        # An epoch that is over within a step, and not with it, goes on into the next.
        whole = (count == size or (0 < count < size and ends)) and least - finished <= ends
        held_there = counted(count, what) + (" of two epochs" if count == size else "")
        yield run, whole, f"step {index} holds {held_there}, {size} of one epoch were asked for", count / size
        finished = least


@must(laws=("ST-EPOCH",), claim="accumulation", floor=3)
def accumulation_makes_the_steps_asked_for(run):
    """An epoch of m micro-batches makes ceil(m / accumulation) optimizer steps; the last may be smaller.

    A partial window is lost, stepped never, or scaled as if it were full (ms-swift#10084). A micro-batch is a call of
    the model, or batch_size examples (packed: rows): a trainer may cut one again, or join several, to fit its memory.
    """
    if run.job.accumulation == 1 or run.error or run.lost or run.job.world_size > 1:
        return
    window, after = run.job.accumulation, epochs_after(run)
    calls = Counter(forward.step for forward in run.forwards if forward.trained)
    if run.job.packing:
        units = Counter(rows[0].step for rows in run.lines.values())
    else:
        units = Counter(piece.rows[0].step for piece in run.pieces if run.begins(piece))
    for number, step in enumerate(run.steps):
        least, most = after[step.index]
        last = number + 1 == len(run.steps) or least == most
        counts = {calls[step.index], units[step.index] / run.job.batch_size}
        full = window in counts or (last and min(counts) <= window)
        note = f"step {step.index} has {counted(calls[step.index], 'micro-batch')} of {window}"
        yield step, full, note, calls[step.index] / window
