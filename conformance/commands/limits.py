"""A recording from a stranger is judged within limits of time and memory: beyond them it is refused in a sentence.

The limit of memory is on the data of this process (RLIMIT_DATA, Linux): torch maps far more than it uses.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from sftspec.conformance.ledger.store import RecordingError

GIGABYTE = 2**30


class OutOfTime(BaseException):
    """Raised where the time was over. No Exception, so that nothing that judges takes it for a fault of a trainer."""


@contextlib.contextmanager
def limited(folder: Path, seconds: float, gigabytes: float) -> Iterator[None]:
    """Raises RecordingError when what is done inside takes more seconds or more memory than this.

    >>> with limited(Path("run"), seconds=60, gigabytes=4):
    ...     sum(range(10))
    45
    """
    try:
        with _alarm(seconds), _data(gigabytes):
            yield
    except OutOfTime:
        raise RecordingError(
            f"{folder}: not judged within {seconds:g} s; --timeout gives it more, --select judges a part"
        ) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise RecordingError(
            f"{folder}: judging it takes more than {gigabytes:g} GB of memory; --memory gives it more"
        ) from None


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # a signal is delivered to the main thread alone
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _data(gigabytes: float) -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    asked = int(gigabytes * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_DATA, (asked if hard == resource.RLIM_INFINITY else min(asked, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
