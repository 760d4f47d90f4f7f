"""Hundreds of templates on trial: each in one of a few processes, and each result kept as soon as it is known.

Rule of this file: nothing is judged twice, and nothing that was judged is lost. A result is kept in a file of its own
under what it depends on: the template's text, the specification, and what was asked of it. An interrupt ends the
processes and leaves what is known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION
from sftspec.conformance.trial.workers import pool_of

AT_ONCE = 4  # places that wait for each process: enough that none is idle, few enough to leave at once


@dataclass(frozen=True)
class Place:
    """One template that is to be judged.

    place  where it is, such as "templates/qwen.jinja" or "trl:qwen3"
    name   what it is called in the matrix
    """

    place: str
    name: str


class Kept:
    """Results in a folder, one file each; without a folder, nothing."""

    def __init__(self, folder: Path | None, asked: Mapping[str, Any]):
        self.folder, self.asked = folder, {**asked, "spec_revision": SPEC_REVISION}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def key(self, item: Place) -> str:
        """What its result depends on; "" for a template that is not one file."""
        path = Path(item.place)
        if not path.is_file():
            return ""
        asked = json.dumps(self.asked, sort_keys=True).encode()
        return hashlib.sha256(path.read_bytes() + b"\0" + asked).hexdigest()[:16]

    def read(self, item: Place) -> list[dict] | None:
        """The documents that were kept of it (None: there are none)."""
        path = self.folder / f"{item.name}.json" if self.folder and self.key(item) else None
        if path is None or not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # half a file
            return None
        return found["documents"] if found.get("key") == self.key(item) else None

    def write(self, item: Place, documents: list[dict]) -> None:
        if self.folder is None or not (key := self.key(item)):
            return
        path = self.folder / f"{item.name}.json"
        half = path.with_suffix(f".{os.getpid()}")
        text = json.dumps({"key": key, "documents": documents}, ensure_ascii=False, allow_nan=False)
        half.write_bytes(text.encode("utf-8", "backslashreplace"))
        half.replace(path)


def judged(
    items: Sequence[Place], judge: Callable[[Place], list[dict]], kept: Kept, workers: int
) -> Iterator[tuple[Place, list[dict]]]:
    """(place, its documents) as they become known: first those that were kept, then the others.

    judge: a function that can be pickled; with one worker it is called here.
    """
    left = []
    for item in items:
        known = kept.read(item)
        if known is None:
            left.append(item)
        else:
            yield item, known
    for item, documents in _apart(left, judge, workers) if workers > 1 else ((item, judge(item)) for item in left):
        kept.write(item, documents)
        yield item, documents


def _apart(
    items: Iterable[Place], judge: Callable[[Place], list[dict]], workers: int
) -> Iterator[tuple[Place, list[dict]]]:
    """The same in processes. A template that ends its process ends the matrix, and says which it was."""
    coming = iter(items)
    waiting: dict[Any, Place] = {}
    with pool_of(workers) as pool:
        while True:
            while len(waiting) < AT_ONCE * workers and (item := next(coming, None)) is not None:
                waiting[pool.submit(judge, item)] = item
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
