"""What is seen again so that all ranks get equally many examples.

PyTorch's `DistributedSampler` and accelerate's `even_batches` repeat examples of an epoch in its last batches, fewer
than one batch of all ranks holds. Any other example that is seen twice is seen twice.
"""

from __future__ import annotations

from collections import Counter
from typing import Any


def fillers_of(run: Any) -> frozenset[int]:
    """The pieces of a run, by number, that stand in the last step of an epoch although that had seen them already.

    None where one process trained, or where its conversations are not seen more often than was asked for.
    """
    if run.processes == 1:
        return frozenset()
    steps: dict[int, list[int]] = {}
    for number, piece in enumerate(run.pieces):
        steps.setdefault(piece.rows[0].step, []).append(number)
    begun = Counter(piece.example for piece in run.pieces if run.begins(piece))
    copies = {example: run.copies.get(example, 1) for example in begun}
    left = Counter({example: count - copies[example] * run.job.epochs for example, count in begun.items()})
    found: set[int] = set()
    seen: Counter[int] = Counter()
    for _, numbers in sorted(steps.items()):
        again = []
        for number in numbers:
            piece = run.pieces[number]
            seen[piece.example] += run.begins(piece)
            if seen[piece.example] > copies[piece.example] and left[piece.example] > 0:
                again.append(number)
        if all(seen[example] >= count for example, count in copies.items()):  # the epoch is over
            if places(run, again) < run.job.batch_size * run.job.world_size:
                found.update(again)
                left -= Counter(run.pieces[number].example for number in again if run.begins(run.pieces[number]))
            seen.clear()
    return frozenset(found)


def places(run: Any, numbers: list[int]) -> int:
    """How many examples (packed: rows) these pieces are in their batches."""
    if not run.job.packing:
        return len(numbers)
    return len({(run.pieces[number].rows[0].forward, run.pieces[number].rows[0].row) for number in numbers})
