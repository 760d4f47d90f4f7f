"""What is seen while an audit runs: how far it is, how fast, and each finding as soon as it is first found."""

from __future__ import annotations

import sys
import time
from typing import Any

from sftspec.conformance.audit.batch import Batch
from sftspec.conformance.audit.document import Places
from sftspec.conformance.report.terminal import make_console
from sftspec.counted import counted

QUIET = 1.0  # seconds: what is done by then needs no progress
EVERY = 5.0  # seconds between lines where there is no terminal


class Progress:
    """Writes to standard error, so that standard output stays the report."""

    def __init__(self, total: int | None, places: Places):
        self.total, self.places = total, places
        self.started = self.said = time.perf_counter()
        self.done, self.records = 0, 0
        self.seen: set[str] = set()
        self.console: Any = make_console(sys.stderr)
        self.bar: Any = None

    def add(self, batch: Batch) -> None:
        self.done += batch.size
        self.records += batch.summary.records
        now = time.perf_counter()
        if now - self.started < QUIET:
            return
        for name, found in batch.summary.found.items():
            if name not in self.seen:
                self.seen.add(name)
                place, note = found.examples[0]
                self.say(printable(f"{name}: {self.places.name(place)}{f' ({note})' if note else ''}"))
        if sys.stderr.isatty():
            self.show()
        elif now - self.said > EVERY:
            self.said = now
            self.say(self.state())

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def state(self) -> str:
        rate = self.records / max(time.perf_counter() - self.started, 1e-9)
        share = f"{min(1, self.done / self.total):.0%}, " if self.total else ""
        return f"{share}{counted(self.records, 'record')}, {rate:,.0f} a second"

    def show(self) -> None:
        if self.bar is None:
            self.bar = self.console.status("")
            self.bar.start()
        self.bar.update(self.state())

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def printable(text: str) -> str:
    """Text of somebody else, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text)
