"""A release on trial again, in its pinned environment: what `sftspec check ADAPTER --python ITS_INTERPRETER` would say.

A trainer runs in its release's interpreter, with torch beside it and nothing else of this one; the judge stays here. A
function is judged where it is, so there the suite stands on the path too, after all that the release brings.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.timemachine.case import Case, Release
from sftspec.conformance.timemachine.environments import environment, key_of

ADAPTERS = Path(__file__).with_name("adapters")
SECONDS = 900.0  # of one scenario, or of a function: Triton's interpreter is slow
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}


@dataclass(frozen=True)
class Seen:
    """What was seen of one release.

    version   that the adapter read off the package that it imported
    status    of the property, and expected
    evidence  pieces that hold
    found     the smallest that does not ("" if all do), or why there is no verdict
    command   without the interpreter's path
    pins      a digest of all that was installed
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
    pins: str
    torch: str
    transformers: str
    seconds: float

    def record(self) -> dict[str, Any]:
        return asdict(self)


def replay(case: Case, release: Release, expected: str, root: Path) -> Seen:
    """Put one release on trial. Raises PinsError if it cannot be installed."""
    python = environment([release.pins, *case.shared], root, inside=case.inside)
    os.environ.update(ENVIRONMENT)
    started = time.perf_counter()
    try:
        found = function_on_trial(case, python) if case.inside else trainer_on_trial(case, release, python)
    except (RuntimeError, ValueError) as error:  # it cannot be imported, or refuses
        nothing = dict.fromkeys(("version", "torch", "transformers"), "")
        found = {**nothing, "status": "broken", "evidence": 0, "found": str(error)[-500:]}
    return Seen(
        case=case.name, release=release.name, property=case.property, expected=expected,
        command=command_of(case, release), pins=pins_of(case, release),
        seconds=round(time.perf_counter() - started, 1), **found,
    )  # fmt: skip


def trainer_on_trial(case: Case, release: Release, python: Path) -> dict[str, Any]:
    from sftspec.conformance.trial.scenarios import SCENARIOS
    from sftspec.conformance.trial.selection import select
    from sftspec.conformance.trial.two_processes import Limits, put_on_trial_apart, stage_of

    scenarios = [item for item in SCENARIOS if item.name in case.scenarios]
    settings = {**case.settings, **release.settings}
    with stage_of(str(ADAPTERS / case.adapter), settings, str(python), Limits(seconds=SECONDS)) as stage:
        trial = put_on_trial_apart(stage, stage.trainer(), select([case.property]), scenarios)
        where = stage.said["environment"]
    (verdict,) = [item for item in trial.verdicts if item.property.id == case.property]
    errors = [f"{run.scenario}: {run.error}" for run in trial.runs if run.error]
    return {
        "version": trial.trainer.version,
        "status": verdict.status,
        "evidence": sum(verdict.evidence.values()),
        "found": (verdict.counterexample or {}).get("note") or verdict.reason or "".join(errors[:1]),
        "torch": where["torch"],
        "transformers": where["transformers"],
    }


def function_on_trial(case: Case, python: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        path = Path(folder, "verdict.json")
        words: list[str | Path] = [
            "-m",
            "sftspec.conformance.timemachine.inside",
            ADAPTERS / case.adapter,
            case.property,
            path,
        ]
        said = subprocess.run([python, *words], capture_output=True, text=True, timeout=SECONDS)
        if not path.exists():
            raise RuntimeError(said.stderr.strip()[-500:] or f"exit {said.returncode}")
        return json.loads(path.read_text(encoding="utf-8"))


def command_of(case: Case, release: Release) -> str:
    """What is run in the release's environment."""
    return shlex.join(["sftspec", "check", f"adapters/{case.adapter}", *options(case, release)])


def pins_of(case: Case, release: Release) -> str:
    return key_of(pin for layer in (release.pins, *case.shared) for pin in layer)


def options(case: Case, release: Release) -> list[str]:
    settings = {**case.settings, **release.settings}
    pairs = [("--set", f"{key}={value}") for key, value in settings.items()]
    pairs += [("--select", case.property), *(("--scenario", name) for name in case.scenarios)]
    return [word for pair in pairs for word in pair]
