"""What a trainer leaves behind when train() returns: threads, forked processes, closed descriptors.

What goes on after the end is not heard, and what is closed is missed by whoever comes next. A library may keep threads
and workers of its own: only what would go on training is named.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import thread as pools
from pathlib import Path

GRACE = 2.0  # seconds for threads and copies that are about to end


class Watch:
    """Looks around before a job, and after it.

    word: the file in which a forked copy of this process says that it came out of train().
    """

    def __init__(self, word: Path):
        self.word, self.process = word, os.getpid()
        self.threads = set(threading.enumerate())
        self.children = _forked_children()
        self.sentinel = os.open(os.devnull, os.O_RDONLY)
        self.closed: list[int] = []

    def is_copy(self) -> bool:
        """Is this a forked copy of the process that began the job? It leaves word of itself."""
        if os.getpid() == self.process:
            return False
        self.word.touch()
        return True

    def reopen(self) -> None:
        """Open the standard streams again where they were closed: the next file must not take their place."""
        self.closed += [number for number in (0, 1, 2, self.sentinel) if not _is_open(number)]
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            continue
        os.close(number)

    def left(self) -> str:
        """What was left behind, in a sentence; "" if nothing was."""
        return self._closed() or self._forked() or self._running()

    def _closed(self) -> str:
        if self.sentinel not in self.closed and _is_open(self.sentinel):
            os.close(self.sentinel)
        if not self.closed:
            return ""
        names = {0: "0 (input)", 1: "1 (output)", 2: "2 (errors)"}
        said = ", ".join(names.get(item, str(item)) for item in sorted(set(self.closed)))
        return f"train() closed file descriptors that are not its own: {said}; close those that you opened"

    def _forked(self) -> str:
        said = "train() forked, and the copy went on: call os._exit in the child, and wait for it"
        deadline = time.monotonic() + GRACE
        while _forked_children() - self.children and time.monotonic() < deadline:
            if self.word.exists():
                return said
            time.sleep(0.02)
        return said if self.word.exists() or _forked_children() - self.children else ""

    def _running(self) -> str:
        deadline = time.monotonic() + GRACE
        while (left := self._threads()) and time.monotonic() < deadline:
            left[0].join(max(0.0, deadline - time.monotonic()))
        if not left:
            return ""
        return f"train() returned while a thread that it had started still ran ({left[0].name}): join it"

    def _threads(self) -> list[threading.Thread]:
        """Threads of the trainer's own that still run."""
        began = [item for item in threading.enumerate() if item not in self.threads]
        return [item for item in began if not (item in pools._threads_queues or (item.daemon and _is_library(item)))]


def _is_library(thread: threading.Thread) -> bool:
    """Does an installed package run here, or Python itself, and not the trainer's own file?"""
    target = getattr(thread, "_target", None) or type(thread).run
    target = getattr(target, "func", target)
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    place = code.co_filename if code is not None else ""
    return "site-packages" in place or "dist-packages" in place or place.startswith(os.path.dirname(os.__file__))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _forked_children() -> set[int]:
    """Living children that run this program and are no workers of multiprocessing (Linux only)."""
    mine = Path(f"/proc/{os.getpid()}")
    try:
        program = (mine / "cmdline").read_bytes()
        children = {int(item) for task in (mine / "task").iterdir() for item in (task / "children").read_text().split()}
    except OSError:
        return set()
    import multiprocessing

    workers = {item.pid for item in multiprocessing.active_children()}
    return {item for item in children - workers if _runs(item, program)}


def _runs(process: int, program: bytes) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() == program
    except OSError:
        return False
