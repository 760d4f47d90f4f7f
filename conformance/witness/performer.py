"""The trainer's process: it does one job after another, and writes what was heard into the job's folder.

It talks with the judge through files alone (`mailbox`): a trainer may close every descriptor and print what it likes.
It goes when it is told to stop, or when the judge is gone.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters import TrainerError, resolve
from sftspec.conformance.witness.asked import even, keep, said_by
from sftspec.conformance.witness.groups import meeting_at
from sftspec.conformance.witness.identity import SEQUENCE, claims_of, environment, identify, weights_told
from sftspec.conformance.witness.leftovers import Watch
from sftspec.conformance.witness.mailbox import (
    DONE,
    FIRST,
    FORKED,
    HELLO,
    NEXT,
    ORDER,
    STARTED,
    STOP,
    TWIN,
    job_folder,
    of_rank,
    write_whole,
)

POLL = 0.005
# What reads a job and writes what was heard, and what listens, for each framework that a trainer may name: modules of
# this package that are imported when a trainer is known, for they import the framework.
FRAMEWORKS = {
    "torch": ("exchange", "listening"),
    "jax": ("array_exchange", "jax_recorder"),
    "mlx": ("array_exchange", "mlx_recorder"),
}


def main(folder: Path, start: int, rank: int) -> None:
    """Make the trainer that is ordered, say who it is, and do its jobs until there are no more.

    rank: of this process, where several do one job together; else 0.
    """
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # before it is ended for taking too long, it shows where it is
    judge, order = os.getppid(), json.loads((folder / ORDER).read_text(encoding="utf-8"))
    try:
        candidate = resolve(order["place"], order["settings"])
        require_framework(candidate.trainer, order["processes"], order["device"])
        said = {
            "identity": identify(candidate.trainer, candidate.setting),
            "policy": getattr(candidate.trainer, "policy", "all"),
            "functions": functions_of(candidate.trainer),
            "command": candidate.command,
            "environment": environment(),
        }
    except TrainerError as error:
        said = {"refused": str(error)}
    write_whole(folder / of_rank(f"{start}-{HELLO}", rank), said)
    if "refused" not in said:
        recorder_of(candidate.trainer)[0].load_libraries()  # seconds, before the time of the first job is measured
    order_of_day = folder / of_rank(f"{start}-{NEXT}", rank)
    while "refused" not in said:
        while not order_of_day.exists():
            if (folder / STOP).exists() or os.getppid() != judge:
                return
            time.sleep(POLL)
        asked = json.loads(order_of_day.read_text(encoding="utf-8"))
        order_of_day.unlink()
        do(candidate.trainer, job_folder(folder, asked["number"]), rank, asked["ports"])


def require_framework(trainer: Any, processes: int, device: str = "") -> None:
    """Raise TrainerError for a framework that no recorder is for, or none for ranks, or that is not installed here; and
    for a device that torch does not have here.
    """
    framework = getattr(trainer, "framework", "torch")
    if framework not in FRAMEWORKS:
        raise TrainerError(f"framework is {framework!r}; known: {', '.join(FRAMEWORKS)}")
    if processes > 1 and framework != "torch":
        raise TrainerError(f"a trainer of framework {framework!r} is heard alone: leave out --processes")
    needed = (framework, *(("numpy", "transformers") if framework != "torch" else ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainerError(f"a trainer of framework {framework!r} needs {', '.join(missing)}, not installed here")
    if device and framework == "torch":
        from sftspec.conformance.witness.place import PlaceError, require_device

        try:
            require_device(device)
        except PlaceError as error:
            raise TrainerError(str(error)) from None


def recorder_of(trainer: Any) -> tuple[Any, Any]:
    """What reads a trainer's jobs and writes what was heard, and what listens to it."""
    exchange, listening = FRAMEWORKS[getattr(trainer, "framework", "torch")]
    place = "sftspec.conformance.witness"
    return importlib.import_module(f"{place}.{exchange}"), importlib.import_module(f"{place}.{listening}")


def do(trainer: Any, folder: Path, rank: int, ports: list[int]) -> None:
    """Do the one or two jobs in a folder, and write what was heard into it.

    ports: at which ranks meet, one for each job; none where the trainer is alone.
    """
    exchange, _ = recorder_of(trainer)
    (folder / of_rank(STARTED, rank)).touch()
    began, watch, error = time.perf_counter(), Watch(folder / of_rank(FORKED, rank)), ""
    for number, part in enumerate((folder / FIRST, folder / TWIN)):
        if part.is_dir():
            with meeting_at(ports[number] if ports else None):
                heard = perform(trainer, part, rank)
            if watch.is_copy():
                os._exit(0)
            watch.reopen()
            exchange.write_heard(part, heard, rank)
            error = error or heard.error
            del heard
    gc.collect()
    flush(sys.stdout)
    flush(sys.stderr)
    seconds = time.perf_counter() - began
    write_whole(folder / of_rank(DONE, rank), {"seconds": seconds, "left": watch.left(), "error": error})


def perform(trainer: Any, folder: Path, rank: int) -> Any:
    """Let the trainer do the job in a folder, or its part of it as one of several ranks. Returns what was heard."""
    exchange, listening = recorder_of(trainer)
    asked = exchange.read_job(folder, rank)
    everything = keep(asked.job.conversations, range(len(asked.job.conversations)))
    accepts = getattr(trainer, "accepts", None)
    try:
        numbers = [n for n, item in enumerate(everything) if accepts is None or accepts(item)]
    except Exception as error:
        return listening.Heard(error=f"accepts() raised {said_by(error)}")
    refused = len(everything) - len(numbers)
    numbers = even(numbers, len(everything) - asked.spare, asked.job.batch_size * asked.job.world_size)
    job, provenance = asked.accepted(numbers)
    try:
        weights = weights_told(trainer, job)
    except Exception as error:
        return listening.Heard(error=f"conventions.weights: {said_by(error)}")
    # Processes that nobody seeds draw other random numbers each.
    replays = 0 if SEQUENCE in claims_of(trainer) else asked.max_replays  # one rank's alone would wait for the others
    heard = listening.listen(trainer, job, provenance, replays, asked.seed + rank)
    heard.accepted, heard.refused, heard.reported = numbers, refused, heard.reported | weights
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
