"""The process group of a trainer's ranks: each job opens its own, as a program that torchrun starts does.

What a job leaves open is closed after it, so that the next one meets at another port, and a rank that waits for one
that raised an error is told so by its connection.

No group ends before its job does. DistributedDataParallel holds its group too, and what lets go of it last ends it: a
model that is dropped after destroy_process_group() does so with the interpreter's lock in its hand, while gloo's
thread waits for that lock (PyTorch's issue 56297, open since 2021). Such a rank hangs, and the trainer would be
blamed for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_HELD: list[Any] = []


@contextlib.contextmanager
def meeting_at(port: int | None) -> Iterator[None]:
    """Ranks meet at this port of MASTER_ADDR, and part at the end; with None there are none."""
    if port is None:
        yield
        return
    os.environ["MASTER_PORT"] = str(port)
    were_met = _have_met()
    try:
        yield
    finally:
        if not were_met:
            _part()
        _HELD.clear()


def hold() -> None:
    """Hold the groups that are open now, until the job is over."""
    if _have_met():
        from torch.distributed import distributed_c10d

        for group in distributed_c10d._world.pg_map:
            if group not in _HELD:
                _HELD.append(group)


def _have_met() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _part() -> None:
    """Close the group that a trainer opened, and let accelerate forget it."""
    import torch

    if _have_met():
        torch.distributed.destroy_process_group()
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
