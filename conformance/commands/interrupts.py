"""A SIGTERM, as a time limit of CI sends it, ends a command as Ctrl-C does: it says where it was.

Python drops an exception that is raised where nobody could catch it, in a destructor or in a callback of the garbage
collector or of an import (sys.unraisablehook). An interrupt that was dropped there is sent again. A library that makes
another error of it, as transformers does while it imports a model, has been interrupted all the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

AGAIN = 0.1  # seconds after which a dropped interrupt is sent again


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt. In a thread that is not the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    handler, hook = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook

    def send_again(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            hook(unraisable)

    sys.unraisablehook = send_again
    try:
        yield
    except Exception as error:
        if arrived:
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
