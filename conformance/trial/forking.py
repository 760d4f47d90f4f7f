"""Ranks that are copies of this process: so bugs of several ranks are planted without starting a program for each.

A trainer that says `processes = N` is performed so where it is an object in the judge's own process. What has used a
GPU cannot be copied: `sftspec check --processes N` starts its ranks anew.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from sftspec.conformance.trial.launch import death, free_port, torchrun
from sftspec.conformance.trial.merging import merged
from sftspec.conformance.witness.exchange import read_heard, write_heard
from sftspec.conformance.witness.groups import meeting_at
from sftspec.conformance.witness.identity import SEQUENCE, claims_of
from sftspec.conformance.witness.listening import Heard, listen
from sftspec.conformance.witness.provenance import Provenance
from sftspec.job import Job

LIMIT = 120.0  # seconds


def listen_to_ranks(trainer: Any, job: Job, provenance: Provenance, max_replays: int, seed: int) -> Heard:
    """Let a trainer do a job as its ranks. What was heard has an error where one of them is lost."""
    port, shared = free_port(), SEQUENCE in claims_of(trainer)
    with tempfile.TemporaryDirectory(prefix="sftspec-") as name:
        folder, children = Path(name), []
        for rank in range(trainer.processes):
            child = os.fork()
            if not child:
                _be(rank, port, folder, trainer, job, provenance, max_replays, seed)
            children.append(child)
        lost = _wait(children)
        heard = [] if lost else [read_heard(folder, rank) for rank in range(len(children))]
        return Heard(error=lost) if lost else merged(heard, shared)


def _be(rank: int, port: int, folder: Path, trainer: Any, job: Job, *how: Any) -> None:
    """Be this rank, and end."""
    code = 1
    try:
        os.environ.update(torchrun(rank, trainer.processes, port, os.environ))
        provenance, max_replays, seed = how
        with meeting_at(port):
            replays = 0 if SEQUENCE in claims_of(trainer) else max_replays
            heard = listen(trainer, job, provenance, replays, seed + rank)
        heard.accepted = list(range(len(job.conversations)))
        write_heard(folder, heard, rank)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(children: list[int]) -> str:
    """Wait until all have ended; when one of them is lost, or time is over, end the others. Returns what was wrong."""
    at_work, lost, deadline = dict(enumerate(children)), "", time.monotonic() + LIMIT
    while at_work:
        for rank, child in list(at_work.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del at_work[rank]
                code = os.waitstatus_to_exitcode(status)
                lost = lost or (f"rank {rank} of {len(children)}: {death(code)}" if code else "")
        if not lost and time.monotonic() > deadline:
            lost = f"train() did not come back within {LIMIT:g} s on rank {', '.join(map(str, at_work))}"
        if lost:
            for child in at_work.values():
                with contextlib.suppress(OSError):
                    os.kill(child, 9)
        time.sleep(0.005)
    return lost
