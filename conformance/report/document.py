"""What a trial found, as a document: JSON that a program reads, and the only thing that the report is printed from.

The document names no folder, user or host of the machine that made it. Its form is verdicts.schema.json (form.py).
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Mapping
from typing import Any

from sftspec import SPEC_REVISION
from sftspec.conformance.report.counterexample import counterexample_record
from sftspec.conformance.report.form import FORMAT
from sftspec.conformance.report.isolation import isolation_record
from sftspec.conformance.report.json_values import plain, without_paths
from sftspec.conformance.report.outcome import totals
from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.diagnosis import Diagnosis, diagnose_trial
from sftspec.conformance.trial.judge import TRAINED, Trial, Verdict
from sftspec.conformance.witness import identity
from sftspec.conformance.witness.identity import environment
from sftspec.properties.ledger.run import Run


def make_document(
    trial: Trial,
    identity: Mapping[str, Any],
    command: str,
    seed: int,
    recorded_on: Mapping[str, str] | None = None,
    isolation: Mapping[str, Any] | None = None,
    partial: str = "",
) -> dict[str, Any]:
    """The document of a trial.

    identity     of the trainer: name, version, setting, claims, conventions (see `identify`)
    command      that judges the same trainer again, with the seed
    recorded_on  the environment in which the trainer ran, if not this one
    isolation    who sees whom in a packed row, where the runs are no more; else it is read off them
    partial      the options by which less was run than the claims ask for, such as "--quick"
    """
    verdicts = [verdict_record(verdict, command) for verdict in trial.verdicts]
    is_judged = any(verdict.property.id == TRAINED for verdict in trial.verdicts)
    return {
        "format": FORMAT,
        "spec_revision": SPEC_REVISION,
        "trainer": dict(identity),
        "environment": dict(recorded_on or environment()),
        "command": command,
        "seed": seed,
        "seconds": round(trial.seconds, 3),
        "scenarios": [scenario_record(run, trial.refused, trial.seconds_of, is_judged) for run in trial.runs],
        "verdicts": verdicts,
        "totals": totals(verdicts),
        "diagnosis": [diagnosis_record(item) for item in diagnose_trial(trial, signatures.load())[:3]],
        "baseline": None,
        "isolation": isolation or isolation_record(trial.runs),
        **({"partial": partial} if partial else {}),
    }


def identify(trainer: Any, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Who was judged. A verdict belongs to a trainer's version and setting, never to its name alone."""
    return identity.identify(trainer, {key: plain(value) for key, value in setting.items()})


def scenario_record(
    run: Run, refused: Mapping[str, int], seconds: Mapping[str, float], is_judged: bool = False
) -> dict[str, Any]:
    """error: what broke in the run, or in the second run that it is compared with ("" if nothing did).

    is_judged: a property was asked that fails where a run trained nothing, so that it is a verdict and no broken run.
    """
    second = f"second run: {run.twin.error}" if run.twin is not None and run.twin.error else ""
    record = {
        "name": run.scenario,
        "error": "" if is_judged and run.error.startswith("untrained: ") else without_paths(run.error or second),
        "conversations": len(run.job.conversations),
        "refused": refused.get(run.scenario, 0),
    }
    if run.untaken:
        record["untaken"] = [dataclasses.asdict(item) for item in run.untaken]
    if run.scenario in seconds:
        record["seconds"] = round(seconds[run.scenario], 3)
    return record


def verdict_record(verdict: Verdict, command: str) -> dict[str, Any]:
    found = verdict.counterexample
    return {
        "id": verdict.property.id,
        "level": verdict.property.level,
        "status": verdict.status,
        "reason": without_paths(verdict.reason),
        "evidence": {place: count for place, count in verdict.evidence.items() if count},
        "counterexample": None if found is None else counterexample_record(verdict, found),
        "repro": again(verdict, command),
    }


def again(verdict: Verdict, command: str) -> str:
    """The command that shows the verdict again; a failure of a trainer in the one scenario in which it is shown."""
    words = [*_words(command), "--select", verdict.property.id]
    scenario = (verdict.counterexample or {}).get("scenario", "drawn")
    if words[:2] == ["sftspec", "check"] and scenario != "drawn" and "--scenario" not in words:
        words += ["--scenario", scenario]
    return shlex.join(words)


@functools.lru_cache(maxsize=16)
def _words(command: str) -> tuple[str, ...]:
    return tuple(shlex.split(command))


def diagnosis_record(item: Diagnosis) -> dict[str, Any]:
    return {
        "mutant": item.mutant.name,
        "agree": item.agree,
        "of": item.of,
        "likeness": round(item.likeness, 3),
        "breaks": item.mutant.breaks,
        "seen_in": item.mutant.seen_in,
        "effect": item.mutant.effect,
        "fix": item.mutant.fix,
        **({"beside": item.beside} if item.beside else {}),
    }
