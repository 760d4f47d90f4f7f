"""The processes of a trainer: one, or several ranks, each started with the variables that torchrun sets.

Ranks meet at a port of this machine that is free, another one for each job: what one job left open is not in the way
of the next. Each has a session of its own, so that all that it started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, Popen

from sftspec.conformance.trial.output import Output
from sftspec.conformance.trial.quiet_output import ENVIRONMENT, ON_TRIAL

# The folder that we are in stands last on the path: a types.py in it is no library.
BOOT = (
    "import sys; sys.path[:] = [*{path!r}, *filter(None, sys.path), '']\n"
    "from pathlib import Path\n"
    "from sftspec.conformance.witness.performer import main\n"
    "main(Path({folder!r}), {start}, {rank})"
)
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # gloo asks for the machine's name else, which a sandbox may not know


class StartError(ValueError):
    """The trainer's process did not come up; says what it printed."""


@dataclass
class Ranks:
    """The processes that a trainer runs in, by rank; one of them, of rank 0, is no rank but the trainer alone.

    python  the interpreter; "" for the judge's own
    path    what its path begins with
    """

    count: int
    python: str
    path: Sequence[str]
    folder: Path
    outputs: list[Output] = field(default_factory=list)
    processes: list[Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outputs = [Output() for _ in range(self.count)]

    def start(self, start: int) -> None:
        """Start them all. Raises StartError."""
        port = free_port()
        for rank in range(self.count):
            code = BOOT.format(path=list(self.path), folder=str(self.folder), start=start, rank=rank)
            environment = {**os.environ, **ENVIRONMENT, ON_TRIAL: "1", "PYTHONUNBUFFERED": "1"}
            if self.python:  # what the judge's path holds is not for another interpreter
                environment["PYTHONPATH"] = self.path[0]
                environment.pop("PYTHONHOME", None)
                environment.pop("VIRTUAL_ENV", None)
            if self.count > 1:
                environment |= torchrun(rank, self.count, port, environment)
            try:
                process = Popen(
                    [self.python or sys.executable, "-c", code],
                    stdin=DEVNULL, stdout=self.outputs[rank].write, stderr=self.outputs[rank].write,
                    start_new_session=True, env=environment,
                )  # fmt: skip
            except OSError as error:
                raise StartError(f"{self.python}: {error.strerror or error}") from None
            self.processes.append(process)

    @property
    def are_up(self) -> bool:
        return bool(self.processes) and all(process.poll() is None for process in self.processes)

    def ended(self, asked: Iterable[int]) -> tuple[int, str] | None:
        """The first of these ranks whose process has ended, and how."""
        for rank in asked:
            code = self.processes[rank].poll()
            if code is not None:
                return rank, f"{self.named(rank)}{death(code)}"
        return None

    def named(self, rank: int) -> str:
        """What a sentence about one of several ranks begins with."""
        return f"rank {rank} of {self.count}: " if self.count > 1 else ""

    def where(self, asked: Iterable[int]) -> str:
        """Where these ranks are, each by the line that it runs; they print the whole way there."""
        asked = list(asked)
        if not hasattr(signal, "SIGUSR1"):
            return ""
        for rank in asked:
            with contextlib.suppress(OSError):
                os.kill(self.processes[rank].pid, signal.SIGUSR1)
        time.sleep(0.1 * self.count)
        found = [(rank, running(self.outputs[rank].text())) for rank in asked]
        return "; ".join(f"rank {rank} was in {place}" for rank, place in found if place)

    def memory(self) -> int:
        """Bytes in memory of all that was started."""
        return memory_of({process.pid for process in self.processes})

    def forget(self) -> None:
        """Forget what was printed so far."""
        for output in self.outputs:
            output.forget()

    def text(self) -> str:
        """The end of what was printed, rank by rank."""
        if self.count == 1:
            return self.outputs[0].text()
        said = [(rank, output.text().rstrip()) for rank, output in enumerate(self.outputs)]
        return "".join(f"rank {rank}:\n{text}\n" for rank, text in said if text)

    def kill(self) -> None:
        """End them, and everything that they started."""
        for process in self.processes:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        self.processes.clear()

    def close(self) -> None:
        self.kill()
        for output in self.outputs:
            output.close()


def torchrun(rank: int, count: int, port: int, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank on one machine (torch.distributed.run, "Environment Variables")."""
    said = {
        "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "ROLE_RANK": rank,
        "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "ROLE_WORLD_SIZE": count, "GROUP_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "OMP_NUM_THREADS": given.get("OMP_NUM_THREADS", "1"),
        "GLOO_SOCKET_IFNAME": given.get("GLOO_SOCKET_IFNAME") or LOOPBACK.get(sys.platform, ""),
    }  # fmt: skip
    return {name: str(value) for name, value in said.items() if value != ""}


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


FRAME = re.compile(r'^ +File "(.+)", line (\d+) in (.+)$', re.M)
LIBRARIES = ("site-packages", "dist-packages", os.path.dirname(os.__file__))


def running(printed: str) -> str:
    """The line of the trainer's own that runs, of what faulthandler printed last; "" if it printed nothing."""
    stack = printed.rpartition("Current thread ")[2].partition("\nThread ")[0]
    frames = FRAME.findall(stack)
    own = [frame for frame in frames if not any(place in frame[0] for place in LIBRARIES)]
    return "{}:{}, {}".format(Path((own or frames)[0][0]).name, *(own or frames)[0][1:]) if frames else ""


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


def memory_of(sessions: set[int]) -> int:
    """Bytes in memory of all processes of some sessions; 0 where there is no /proc."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total
