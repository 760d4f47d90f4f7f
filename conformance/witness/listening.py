"""A trainer does a job while the tap listens; what was heard is all that leaves the trainer's process.

Whatever the trainer raises is caught, also what is no Exception: SystemExit and asyncio.CancelledError end a job, not
the process in which the next one is done.
"""

from __future__ import annotations

import contextlib
import copy
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sftspec.adapters import Adapter
from sftspec.conformance.witness.asked import said_by
from sftspec.conformance.witness.place import PlaceError, kernel, place
from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.replay import Replay
from sftspec.conformance.witness.shards import Place
from sftspec.conformance.witness.tap import Call, StepRecord, Tap
from sftspec.job import Job


@dataclass
class Heard:
    """What a trainer did with a job, as the tap recorded it.

    calls, steps, replays  see `tap` and `replay`
    unheard                why a training call could not be recorded
    adapters, saved        what stands beside matrices of the model, and what is trained whole beside that
    unread                 why the parameters' gradients cannot be computed again ("": they can)
    head_name              the head among the parameters
    final                  parameters by name, as the trainer left them
    reported               what it told through job.report, and the bytes that it left in its folder
    error, traceback       what it raised ("" if it did not)
    accepted, refused      which of the conversations it accepts, by their numbers; how many it does not
    places                 of the parameters of which this rank holds a part
    ended                  when train() came back, in seconds of the clock
    """

    calls: list[Call] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    unheard: str = ""
    adapters: tuple[Adapter, ...] = ()
    saved: tuple[str, ...] = ()
    unread: str = ""
    head_name: str = ""
    final: Mapping[str, Tensor] = field(default_factory=dict)
    reported: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""
    accepted: list[int] = field(default_factory=list)
    refused: int = 0
    places: Mapping[str, Place] = field(default_factory=dict)
    ended: float = 0.0


OTHER = 2**31  # torch's generator on a CPU reads 32 bits of a seed


def listen(trainer: Any, job: Job, provenance: Provenance, max_replays: int, seed: int) -> Heard:
    """Let a trainer do a job.

    max_replays: how many model calls are made again with other tokens.
    """
    torch.set_num_threads(1)  # tensors are tiny: a second thread only waits, and may reorder sums
    heard = Heard()
    # Not the model's own seed: from that, a model made anew and never loaded would have the very weights of job.model.
    torch.manual_seed(OTHER + seed)
    try:
        place(job)
    except PlaceError as error:
        heard.error = said_by(error)
        return heard
    # What a trainer writes into its job, or into the conversations, changes nothing of what was asked of it.
    given = replace(job, conversations=copy.deepcopy(job.conversations), tokenizer=copy.deepcopy(job.tokenizer))
    with Tap(job, provenance, max_replays) as tap:
        try:
            with kernel(job.attention):
                trainer.train(given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            heard.error, heard.traceback = said_by(error), traceback.format_exc()
    heard.ended = time.time()
    heard.calls, heard.steps, heard.replays, heard.unheard = tap.calls, tap.steps, tap.replays, tap.unheard
    heard.unheard = heard.unheard or ("" if tap.calls else tap.silence())
    heard.adapters, heard.saved, heard.unread, heard.head_name = tap.adapters, tap.saved, tap.unread, tap.ear.head_name
    heard.final, heard.places = {name: item.clone() for name, item in tap.ear.final().items()}, tap.places
    heard.reported = job.reported
    heard.reported["bytes_in_workdir"] = sum(sizes(job))
    return heard


def sizes(job: Job) -> Iterator[int]:
    """Bytes of what the trainer left in its folder; another rank may take something away meanwhile."""
    for item in job.workdir.rglob("*"):
        if item != job.path and item.is_file() and not set(job.handover.folders).intersection(item.parents):
            with contextlib.suppress(FileNotFoundError):
                yield item.stat().st_size
