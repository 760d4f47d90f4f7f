"""What a process prints, at whatever level: it goes into a pipe that is always emptied, and its end is kept."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

POLL = 0.01
KEPT = 64 * 1024  # bytes of what was printed that are kept for a job


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
