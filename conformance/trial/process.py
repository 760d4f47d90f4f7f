"""The trainer's process as the judge sees it: started, given jobs, watched, and started again when it dies.

Whatever a trainer does ends as a sentence about the job that it had. What it prints, at whatever level, goes into a
pipe that is always emptied, and never into the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.trial.quiet_output import ENVIRONMENT
from sftspec.conformance.witness.mailbox import DONE, HELLO, NEXT, STARTED, job_folder, write_whole
from sftspec.conformance.witness.shipping import ship

POLL = 0.01
KEPT = 64 * 1024  # bytes of what was printed that are kept for a job
STARTING = 300.0  # seconds in which a trainer's modules have to be imported
GIVE_UP = 3  # jobs in a row that end in a death, or in all that run into a limit, before nothing more is tried

BOOT = (
    "import sys; sys.path[:0] = {path!r}\n"
    "from pathlib import Path\n"
    "from sftspec.conformance.witness.performer import main\n"
    "main(Path({folder!r}), {start})"
)


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


class StartError(ValueError):
    """The trainer's process did not come up; says what it printed."""


class Output:
    """Empties a pipe as long as anything writes into it; keeps the end of what came since `forget`."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self._open = True
        threading.Thread(target=self._empty, daemon=True).start()

    def text(self) -> str:
        with self._lock:
            if self._open:
                self._take()
            return b"".join(self._kept)[-KEPT:].decode(errors="replace")

    def forget(self) -> None:
        with self._lock:
            if self._open:
                self._take()
            self._kept.clear()
            self._size = 0

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._read)
                os.close(self.write)

    def _empty(self) -> None:
        while self._open:
            with self._lock:
                came = self._open and self._take()
            if not came:
                time.sleep(POLL)

    def _take(self) -> bool:
        came = False
        for _ in range(64):  # a flood must not hold the lock for ever
            try:
                data = os.read(self._read, KEPT)
            except OSError:
                return came
            if not data:
                return came
            came = True
            self._kept.append(data)
            self._size += len(data)
            while self._size - len(self._kept[0]) >= KEPT:
                self._size -= len(self._kept.popleft())
        return came


class Performer:
    """A trainer's process, and a thread that watches over it.

    name      tells it from others in the same folder
    python    the interpreter; "" for the judge's own
    jobs      numbers of the jobs whose folders are there, for whoever is free
    results   how each of them ended
    """

    def __init__(self, folder: Path, name: int, python: str, limits: Limits, jobs: queue.Queue, results: queue.Queue):
        self.folder, self.python, self.limits = folder, python, limits
        self.jobs: queue.Queue[int] = jobs
        self.results: queue.Queue[Ended] = results
        self.output = Output()
        self.process: subprocess.Popen | None = None
        self._starts = name * 10_000
        self._deaths = self._overruns = 0
        self._doing, self._since = "", time.monotonic()
        self._given_up = ""
        self._ending = threading.Event()
        # Where it is the judge's own interpreter, what the judge can import can be imported.
        self.path = [str(ship(folder / "path"))] if python else [item or os.getcwd() for item in sys.path]
        self._start()

    # The judge's side

    def greeting(self) -> dict[str, Any]:
        """What the trainer says of itself. Raises StartError."""
        said = self._greeted()
        threading.Thread(target=self._watch, daemon=True).start()
        return said

    def close(self) -> None:
        """End the process, and everything that it started."""
        self._ending.set()
        self._kill()
        self.output.close()

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
        self.output.forget()
        if self.process is None or self.process.poll() is not None:
            try:
                self._start()
                self._greeted()
            except StartError as error:
                return self._counted(Ended(number, f"the trainer could not be started again: {error}"))
        began = time.monotonic()
        write_whole(self.folder / f"{self._starts}-{NEXT}", number)
        died = self._until_done(here, began)
        seconds = time.monotonic() - began
        if died:
            self._kill()
            return self._counted(Ended(number, died, output=self.output.text(), seconds=seconds))
        done = json.loads((here / DONE).read_text(encoding="utf-8"))
        if done["left"]:
            self._kill()
        return self._counted(Ended(number, "", done["left"], False, self.output.text(), done["seconds"]))

    def _until_done(self, here: Path, began: float) -> str:
        """Wait until the job is done. Returns why it never will be."""
        assert self.process is not None
        started, looked = 0.0, began
        while not self._ending.is_set():
            if (here / DONE).exists():
                return ""
            code = self.process.poll()
            if code is not None:
                return "" if (here / DONE).exists() else death(code)
            now = time.monotonic()
            if not started:
                started = now if (here / STARTED).exists() else 0.0
            if started and now - started > self.limits.seconds:
                self._show_where()
                self._overruns += 1
                return f"train() did not come back within {self.limits.seconds:g} s (--timeout)"
            if now - looked > 0.2:
                looked = now
                if memory_of(self.process.pid) > self.limits.gigabytes * 2**30:
                    return f"the trainer took more than {self.limits.gigabytes:g} GB of memory (--memory)"
            time.sleep(POLL)
        return "ended by the judge"

    def _counted(self, ended: Ended) -> Ended:
        self._deaths = self._deaths + 1 if ended.died or ended.left else 0
        if self._overruns >= GIVE_UP:
            self._given_up = f"not performed: {self._overruns} scenarios ran into the limit of time (--timeout)"
        elif self._deaths >= GIVE_UP:
            self._given_up = f"not performed: the trainer's process was lost in {self._deaths} scenarios in a row"
        return ended

    # The process

    def _start(self) -> None:
        self._starts += 1
        code = BOOT.format(path=self.path, folder=str(self.folder), start=self._starts)
        environment = {**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
        if self.python:  # what the judge's path holds is not for another interpreter
            environment["PYTHONPATH"] = self.path[0]
            environment.pop("PYTHONHOME", None)
            environment.pop("VIRTUAL_ENV", None)
        try:
            self.process = subprocess.Popen(
                [self.python or sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=self.output.write,
                stderr=self.output.write,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            raise StartError(f"{self.python}: {error.strerror or error}") from None

    def _greeted(self) -> dict[str, Any]:
        assert self.process is not None
        path, deadline = self.folder / f"{self._starts}-{HELLO}", time.monotonic() + max(STARTING, self.limits.seconds)
        while not path.exists():
            code = self.process.poll()
            if code is not None and not path.exists():
                raise StartError(f"{death(code)}{printed(self.output.text())}")
            if time.monotonic() > deadline:
                raise StartError(f"not imported within {deadline:g} s{printed(self.output.text())}")
            if self._ending.is_set():
                raise StartError("ended by the judge")
            time.sleep(POLL)
        return json.loads(path.read_text(encoding="utf-8"))

    def _show_where(self) -> None:
        """Ask the process to print where it is."""
        if self.process is not None and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(0.1)

    def _kill(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None


def death(code: int) -> str:
    """An exit code of a process that should not have ended, in a sentence."""
    if code >= 0:
        return f"the trainer ended its process (exit {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    means = {"SIGSEGV": ", a segmentation fault", "SIGABRT": ", an abort", "SIGKILL": ", as when memory runs out"}
    return f"the trainer's process was ended by {name}{means.get(name, '')}"


def printed(text: str) -> str:
    return f"; it had printed:\n{text.rstrip()}" if text.strip() else ""


def memory_of(session: int) -> int:
    """Bytes in memory of all processes of a session; 0 where there is no /proc."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total
