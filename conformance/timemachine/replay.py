"""A release on trial again: its pinned environment, and `sftspec check` as anybody would run it.

A trainer runs in its release's interpreter, with torch beside it and nothing else of this one; the judge stays here. A
function is judged where it is, so there the suite stands on the path too, after all that the release brings.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.timemachine.case import Case, Release
from sftspec.conformance.timemachine.environments import environment

ADAPTERS = Path(__file__).with_name("adapters")
LIMIT = 900.0  # seconds of one release


@dataclass(frozen=True)
class Seen:
    """What was seen of one release.

    version   that the adapter read off the package that it imported
    status    of the property, and expected
    evidence  pieces that hold
    found     the smallest that does not ("" if all do), or why there is no verdict
    command   without the interpreter's path
    """

    case: str
    release: str
    version: str
    property: str
    expected: str
    status: str
    evidence: int
    found: str
    command: str
    torch: str
    transformers: str
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Is the status the expected one, of the version that was meant?"""
        return self.status == self.expected and self.version == self.release.partition(" ")[2]

    def record(self) -> dict[str, Any]:
        return asdict(self)


def replay(case: Case, release: Release, expected: str, root: Path) -> Seen:
    """Put one release on trial. Raises PinsError if it cannot be installed."""
    python = environment([release.pins, *case.shared], root, inside=case.inside)
    place, started = f"{ADAPTERS / case.adapter}", time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        path = Path(folder, "verdict.json")
        if case.inside:
            command = [str(python), "-m", "sftspec.conformance.timemachine.inside", place, case.property, str(path)]
        else:
            command = [sys.executable, "-m", "sftspec.conformance.commands.cli", "check", place]
            command += [*options(case, release), "--python", str(python), "--timeout", "300", "--json", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=surroundings())
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if document:
        found = document if case.inside else read(document, case.property)
    else:
        tail = (said.stderr.strip() or said.stdout.strip()).splitlines()[-1:]
        found = {**dict.fromkeys(("version", "torch", "transformers"), ""), "status": "broken", "evidence": 0}
        found["found"] = "".join(tail)
    return Seen(
        case=case.name, release=release.name, property=case.property, expected=expected,
        command=command_of(case, release), seconds=round(time.perf_counter() - started, 1), **found,
    )  # fmt: skip


def read(document: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """What a document says of one property."""
    (verdict,) = [item for item in document["verdicts"] if item["id"] == identity]
    errors = [item["error"] for item in document["scenarios"] if item["error"]]
    note = (verdict["counterexample"] or {}).get("note") or verdict["reason"] or "".join(errors[:1])
    return {
        "version": document["trainer"]["version"],
        "status": verdict["status"],
        "evidence": sum(verdict["evidence"].values()),
        "found": note,
        "torch": document["environment"]["torch"],
        "transformers": document["environment"]["transformers"],
    }


def command_of(case: Case, release: Release) -> str:
    """What is run in the release's environment."""
    return shlex.join(["sftspec", "check", f"adapters/{case.adapter}", *options(case, release)])


def options(case: Case, release: Release) -> list[str]:
    settings = {**case.settings, **release.settings}
    pairs = [("--set", f"{key}={value}") for key, value in settings.items()]
    pairs += [("--select", case.property), *(("--scenario", name) for name in case.scenarios)]
    return [word for pair in pairs for word in pair]


def surroundings() -> dict[str, str]:
    """The environment of the process: no network for a model's hub, and no path of this one."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
