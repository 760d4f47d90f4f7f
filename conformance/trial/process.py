"""The trainer's process as the judge sees it: started, given jobs, watched, and started again when it dies.

Whatever a trainer does ends as a sentence about the job that it had. What it prints, at whatever level, goes into a
pipe that is always emptied, and never into the report.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.trial.launch import Ranks, StartError, free_port
from sftspec.conformance.witness.mailbox import DONE, HELLO, NEXT, STARTED, job_folder, of_rank, write_whole
from sftspec.conformance.witness.shipping import ship

POLL = 0.01
STARTING = 300.0  # seconds in which a trainer's modules have to be imported
GIVE_UP = 3  # jobs in a row that end in a death, or in all that run into a limit, before nothing more is tried
ALONE = 10.0  # seconds for which the other ranks may still be at work when one has raised an error


@dataclass(frozen=True)
class Limits:
    """Of one scenario: seconds, and gigabytes of memory (of the process and all that it started; Linux only)."""

    seconds: float = 120.0
    gigabytes: float = 16.0


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    died      why nothing was written, in a sentence; "" if it was
    left      what the trainer left behind, in a sentence; "" if nothing
    skipped   the job was not begun
    output    the end of what was printed meanwhile
    seconds   that it took
    """

    number: int
    died: str = ""
    left: str = ""
    skipped: bool = False
    output: str = ""
    seconds: float = 0.0


class Performer:
    """A trainer's processes (one, or several ranks), and a thread that watches over them.

    name       tells it from others in the same folder
    python     the interpreter; "" for the judge's own
    processes  how many ranks the trainer runs in
    jobs       numbers of the jobs whose folders are there, for whoever is free
    results    how each of them ended
    """

    def __init__(
        self,
        folder: Path,
        name: int,
        python: str,
        processes: int,
        limits: Limits,
        jobs: queue.Queue,
        results: queue.Queue,
    ):
        self.folder, self.limits = folder, limits
        self.jobs: queue.Queue[int] = jobs
        self.results: queue.Queue[Ended] = results
        self._starts = name * 10_000
        self._deaths = self._overruns = 0
        self._given_up = ""
        self._ending = threading.Event()
        # Where it is the judge's own interpreter, what the judge can import can be imported.
        path = [str(ship(folder / "path"))] if python else [item or os.getcwd() for item in sys.path]
        self.ranks = Ranks(processes, python, path, folder)
        self._start()

    # The judge's side

    def greeting(self) -> dict[str, Any]:
        """What the trainer says of itself. Raises StartError."""
        said = self._greeted()
        threading.Thread(target=self._watch, daemon=True).start()
        return said

    def printed(self) -> str:
        """The end of what the trainer printed last."""
        return self.ranks.text()

    def close(self) -> None:
        """End the processes, and everything that they started."""
        self._ending.set()
        self.ranks.close()

    # The thread's side

    def _watch(self) -> None:
        while not self._ending.is_set():
            try:
                number = self.jobs.get(timeout=POLL)
            except queue.Empty:
                continue
            self.results.put(Ended(number, self._given_up, skipped=True) if self._given_up else self._do(number))

    def _do(self, number: int) -> Ended:
        here = job_folder(self.folder, number)
        self.ranks.forget()
        if not self.ranks.are_up:
            try:
                self._start()
                self._greeted()
            except StartError as error:
                return self._counted(Ended(number, f"the trainer could not be started again: {error}"))
        began = time.monotonic()
        order = {"number": number, "ports": [free_port(), free_port()] if self.ranks.count > 1 else []}
        for rank in range(self.ranks.count):
            write_whole(self.folder / of_rank(f"{self._starts}-{NEXT}", rank), order)
        died = self._until_done(here, began)
        seconds = time.monotonic() - began
        if died:
            self.ranks.kill()
            return self._counted(Ended(number, died, output=self.ranks.text(), seconds=seconds))
        done = [self._done(here, rank) for rank in range(self.ranks.count)]
        left = next((self.ranks.named(rank) + item["left"] for rank, item in enumerate(done) if item["left"]), "")
        if left:
            self.ranks.kill()
        seconds = max(item["seconds"] for item in done)
        return self._counted(Ended(number, "", left, False, self.ranks.text(), seconds))

    def _done(self, here: Path, rank: int) -> dict[str, Any]:
        return json.loads((here / of_rank(DONE, rank)).read_text(encoding="utf-8"))

    def _until_done(self, here: Path, began: float) -> str:
        """Wait until the job is done, on every rank. Returns why it never will be."""
        started, raised, looked = 0.0, 0.0, began
        while not self._ending.is_set():
            ended = self.ranks.ended(range(self.ranks.count))
            at_work = [rank for rank in range(self.ranks.count) if not (here / of_rank(DONE, rank)).exists()]
            if not at_work:
                return ""
            if ended is not None and ended[0] in at_work:
                return ended[1]
            now = time.monotonic()
            if not started:
                started = now if all((here / of_rank(STARTED, rank)).exists() for rank in at_work) else 0.0
            if started and now - started > self.limits.seconds:
                self._overruns += 1
                return f"train() did not come back within {self.limits.seconds:g} s (--timeout){self._where(at_work)}"
            if now - looked > 0.2:
                looked = now
                if self.ranks.memory() > self.limits.gigabytes * 2**30:
                    return f"the trainer took more than {self.limits.gigabytes:g} GB of memory (--memory)"
                errors = self._errors(here, at_work)
                raised = raised or (now if errors else 0.0)
                if errors and now - raised > ALONE:
                    return f"{errors[0]}; it left the others waiting{self._where(at_work)}"
            time.sleep(POLL)
        return "ended by the judge"

    def _where(self, at_work: list[int]) -> str:
        """Where the ranks are that are still at work, each at which line."""
        places = self.ranks.where(at_work)
        if self.ranks.count == 1:
            return ""
        return f": {places}" if places else f": rank {', '.join(map(str, at_work))} still ran"

    def _errors(self, here: Path, at_work: list[int]) -> list[str]:
        """What the ranks that are done have raised."""
        done = [rank for rank in range(self.ranks.count) if rank not in at_work]
        said = [(rank, self._done(here, rank)["error"]) for rank in done]
        return [f"{self.ranks.named(rank)}{error}" for rank, error in said if error]

    def _counted(self, ended: Ended) -> Ended:
        self._deaths = self._deaths + 1 if ended.died or ended.left else 0
        if self._overruns >= GIVE_UP:
            self._given_up = f"not performed: {self._overruns} scenarios ran into the limit of time (--timeout)"
        elif self._deaths >= GIVE_UP:
            self._given_up = f"not performed: the trainer's process was lost in {self._deaths} scenarios in a row"
        return ended

    # The processes

    def _start(self) -> None:
        self._starts += 1
        self.ranks.kill()
        self.ranks.start(self._starts)

    def _greeted(self) -> dict[str, Any]:
        """What rank 0 says, when all have come up. Raises StartError."""
        paths = [self.folder / of_rank(f"{self._starts}-{HELLO}", rank) for rank in range(self.ranks.count)]
        limit = max(STARTING, self.limits.seconds)
        deadline = time.monotonic() + limit
        while not all(path.exists() for path in paths):
            ended = self.ranks.ended(rank for rank, path in enumerate(paths) if not path.exists())
            if ended is not None and not paths[ended[0]].exists():
                raise StartError(f"{ended[1]}{printed(self.ranks.text())}")
            if time.monotonic() > deadline:
                raise StartError(f"not imported within {limit:g} s{printed(self.ranks.text())}")
            if self._ending.is_set():
                raise StartError("ended by the judge")
            time.sleep(POLL)
        said = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return next((item for item in said if "refused" in item), said[0])


def printed(text: str) -> str:
    return f"; it had printed:\n{text.rstrip()}" if text.strip() else ""
