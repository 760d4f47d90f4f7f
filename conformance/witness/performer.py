"""The trainer's process: it does one job after another, and writes what was heard into the job's folder.

It talks with the judge through files alone (`mailbox`): a trainer may close every descriptor and print what it likes.
It goes when it is told to stop, or when the judge is gone.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters import TrainerError, resolve
from sftspec.conformance.witness.identity import environment, identify
from sftspec.conformance.witness.leftovers import Watch
from sftspec.conformance.witness.mailbox import (
    DONE,
    FIRST,
    HELLO,
    NEXT,
    ORDER,
    STARTED,
    STOP,
    TWIN,
    job_folder,
    write_whole,
)

POLL = 0.005


def main(folder: Path, start: int) -> None:
    """Make the trainer that is ordered, say who it is, and do its jobs until there are no more."""
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # before it is ended for taking too long, it shows where it is
    judge, order = os.getppid(), json.loads((folder / ORDER).read_text(encoding="utf-8"))
    try:
        candidate = resolve(order["place"], order["settings"])
        said = {
            "identity": identify(candidate.trainer, candidate.setting),
            "policy": getattr(candidate.trainer, "policy", "all"),
            "functions": functions_of(candidate.trainer),
            "command": candidate.command,
            "environment": environment(),
        }
    except TrainerError as error:
        said = {"refused": str(error)}
    write_whole(folder / f"{start}-{HELLO}", said)
    if "refused" not in said:
        warm_up()
    order_of_day = folder / f"{start}-{NEXT}"
    while "refused" not in said:
        while not order_of_day.exists():
            if (folder / STOP).exists() or os.getppid() != judge:
                return
            time.sleep(POLL)
        number = json.loads(order_of_day.read_text(encoding="utf-8"))
        order_of_day.unlink()
        do(candidate.trainer, job_folder(folder, number))


def warm_up() -> None:
    """Import what every job needs, which takes seconds, before the time of the first one is measured."""
    from sftspec.conformance.witness import exchange

    exchange.load_libraries()


def do(trainer: Any, folder: Path) -> None:
    """Do the one or two jobs in a folder, and write what was heard into it."""
    from sftspec.conformance.witness.exchange import write_heard  # torch is imported when a trainer is known

    (folder / STARTED).touch()
    began, watch = time.perf_counter(), Watch(folder)
    for part in (folder / FIRST, folder / TWIN):
        if part.is_dir():
            heard = perform(trainer, part)
            if watch.is_copy():
                os._exit(0)
            watch.reopen()
            write_heard(part, heard)
            del heard
    gc.collect()
    flush(sys.stdout), flush(sys.stderr)
    seconds = time.perf_counter() - began
    write_whole(folder / DONE, {"seconds": seconds, "left": watch.left()})


def perform(trainer: Any, folder: Path) -> Any:
    """Let the trainer do the job in a folder. Returns what was heard."""
    from sftspec.conformance.witness.exchange import keep, read_job
    from sftspec.conformance.witness.listening import Heard, listen, said_by

    asked = read_job(folder)
    everything = keep(asked.job.conversations, range(len(asked.job.conversations)))
    accepts = getattr(trainer, "accepts", None)
    try:
        numbers = [n for n, item in enumerate(everything) if accepts is None or accepts(item)]
    except Exception as error:
        return Heard(error=f"accepts() raised {said_by(error)}")
    job, provenance = asked.accepted(numbers)
    heard = listen(trainer, job, provenance, asked.max_replays, asked.seed)
    heard.accepted = numbers
    return heard


def functions_of(trainer: Any) -> str:
    """Which functions of a trainer are judged beside it: "pipeline" (its stages), "parts" (those it names) or none."""
    if any((kind.__module__, kind.__name__) == ("sftspec.trainer", "Pipeline") for kind in type(trainer).__mro__):
        return "pipeline"
    return "parts" if getattr(trainer, "parts", None) else ""


def flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # a trainer may have closed it, or put anything in its place
        return
