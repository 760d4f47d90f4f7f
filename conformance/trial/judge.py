"""The judge: run a trainer on the scenarios, read the runs with the properties, say what was found.

A verdict is made of evidence. A property passes when every piece of evidence that it found holds and there was enough
of it; it fails on the first that does not, and the smallest is shown. What a trainer does not claim is `not-claimed`,
what the runs did not show is `not-measured`, and neither is a pass.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sftspec import properties
from sftspec.conformance.trial.functions import draw, part_of
from sftspec.conformance.trial.performer import perform, require_known_claims
from sftspec.conformance.trial.scenarios import GOLDENS, SCENARIOS, Scenario, scenarios_for
from sftspec.conformance.witness.identity import claims_of
from sftspec.counted import counted
from sftspec.properties import NotMeasuredError, Property
from sftspec.properties.ledger.run import Run

TRAINED = "step/gradients-reach-the-hidden-states"
MADE_FOR = {scenario.name: scenario.areas for scenario in SCENARIOS}


@dataclass
class Verdict:
    """What was found of one property.

    evidence        pieces of evidence that hold, by scenario (or "drawn" for a seam)
    counterexample  what does not hold: scenario, subject, note
    failures        pieces of evidence that do not hold
    ambiguous       those of which nothing can be said
    failed_in       failures and ambiguous ones, by scenario (or "drawn")
    failed_at       the same, by the kind of token on which they were found ("" for what is no token)
    measures        what they measured, by scenario
    units           what weighs the same, for all of them, in place of a target: "micro-batch" and the like
    """

    property: Property
    status: str
    reason: str = ""
    evidence: dict[str, int] = field(default_factory=dict)
    counterexample: dict[str, Any] | None = None
    failures: int = 0
    ambiguous: int = 0
    failed_in: Counter[str] = field(default_factory=Counter)
    failed_at: Counter[str] = field(default_factory=Counter)
    measures: dict[str, list[float]] = field(default_factory=dict)
    units: set[str] | None = None


@dataclass
class Trial:
    """Everything that came of putting one trainer on trial.

    runs        of the scenarios that were asked for, in order
    refused     conversations that its setting does not accept, by scenario
    seconds_of  what each scenario took, by name
    printed     what the trainer printed, by scenario
    interrupted where it was when it was interrupted, and interrupted_in the scenario; "" if it was not
    """

    trainer: Any
    runs: list[Run] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    interrupted: str = ""
    interrupted_in: str = ""


def put_on_trial(
    trainer: Any,
    chosen: Iterable[Property] | None = None,
    seed: int = 0,
    scenarios: Iterable[Scenario] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
    areas: Iterable[str] = (),
    max_replays: int = 4,
) -> Trial:
    """Run every scenario that the trainer claims and judge every chosen property.

    areas: run only the scenarios that the properties of these areas need (none named: all).
    max_replays: how many model calls of a scenario are made again with other tokens.
    """
    chosen = list(properties.load() if chosen is None else chosen)
    trial = Trial(trainer)
    if any(item.seam == "run" for item in chosen):
        scenarios = scenarios_for(claims_of(trainer), areas) if scenarios is None else scenarios
        run_scenarios(trial, scenarios, seed, progress, max_replays)
    return reach_verdicts(trial, chosen, progress, max_examples)


def run_scenarios(
    trial: Trial,
    scenarios: Iterable[Scenario],
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
    max_replays: int = 4,
) -> Trial:
    """Add the runs of the scenarios to a trial. Raises TrainerError for a claim that is none."""
    require_known_claims(trial.trainer)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        for number, scenario in enumerate(scenarios):
            progress(scenario.name)
            performance = perform(trial.trainer, scenario, seed, Path(folder) / str(number), max_replays)
            trial.runs.append(performance.read())
            trial.refused[scenario.name] = performance.refused
    trial.seconds += time.perf_counter() - started
    return trial


def reach_verdicts(
    trial: Trial,
    chosen: Iterable[Property],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
) -> Trial:
    """Add the verdicts of the chosen properties to a trial whose runs were made, or read from a folder."""
    started = time.perf_counter()
    verdicts = open_verdicts(chosen, trial.trainer)
    for run in trial.runs:
        progress(f"verdicts on {run.scenario}")
        read_run(verdicts, run)
    for verdict in verdicts:
        progress(verdict.property.id)
        trial.verdicts.append(settle(verdict, trial.trainer, trial.runs, max_examples))
    judge_untrained(trial)
    block(trial)
    trial.seconds += time.perf_counter() - started
    return trial


def open_verdicts(chosen: Iterable[Property], trainer: Any) -> list[Verdict]:
    """Verdicts on which nothing was read yet."""
    return [_open(item, trainer) for item in chosen]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Tensors are tiny: a second thread only waits, and while others work it waits at four times the price."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def read_run(verdicts: Iterable[Verdict], run: Run) -> None:
    """Add the evidence of one run to the verdicts."""
    for verdict in verdicts:
        _read(verdict, run)
    run.__dict__.pop("oracle", None)  # its float64 copies would add up to a gigabyte over all runs


def judge_untrained(trial: Trial) -> None:
    """A run that trained nothing is a verdict on the trainer, and no broken run, whichever properties were chosen."""
    asked = {verdict.property.id for verdict in trial.verdicts if verdict.property.seam == "run"}
    if asked and TRAINED not in asked and any(run.error.startswith("untrained: ") for run in trial.runs):
        properties.load("step")
        trial.verdicts.append(judge(properties.REGISTRY[TRAINED], trial.trainer, trial.runs))


def block(trial: Trial) -> None:
    """What needs a property that fails, or is ambiguous, cannot be read, nor can what needs that."""
    unread = {verdict.property.id for verdict in trial.verdicts if verdict.status in ("fail", "ambiguous")}
    # What needs a blocked property is blocked as well, so go on until nothing more is.
    while found := [item for item in trial.verdicts if item.status != "blocked" and unread & set(item.property.needs)]:
        for verdict in found:
            blockers = sorted(unread.intersection(verdict.property.needs))
            verdict.status, verdict.reason = "blocked", f"needs {', '.join(blockers)}"
            unread.add(verdict.property.id)


def judge(item: Property, trainer: Any, runs: list[Run], max_examples: int = 100) -> Verdict:
    """The verdict of one property on what is known of a trainer."""
    verdict = _open(item, trainer)
    for run in runs:
        _read(verdict, run)
    return settle(verdict, trainer, runs, max_examples)


def _open(item: Property, trainer: Any) -> Verdict:
    """A verdict on which nothing was read yet: it passes, until something speaks against it."""
    if item.claim and item.claim not in claims_of(trainer):
        return Verdict(item, "not-claimed", f"the trainer does not claim {item.claim!r}")
    return Verdict(item, "pass")


def _read(verdict: Verdict, run: Run) -> None:
    """Add the evidence of one run; the smallest counterexample is kept."""
    if verdict.property.seam != "run" or verdict.status in ("not-claimed", "error"):
        return
    if run.error and not (verdict.property.final and run.error.startswith(("witness: ", "untrained: "))):
        return
    if verdict.property.alone and run.conventions.auxiliary:
        return
    is_picky = verdict.property.costly or run.scenario in GOLDENS
    if is_picky and verdict.property.area not in MADE_FOR.get(run.scenario, properties.AREAS):
        return
    try:
        for subject, holds, *said in verdict.property.check(run):
            if holds:
                verdict.evidence[run.scenario] = verdict.evidence.get(run.scenario, 0) + 1
                continue
            note, measure = said[0] if said else "", said[1] if len(said) > 1 else math.nan
            verdict.failed_in[run.scenario] += 1
            verdict.failed_at[_kind(run, subject)] += 1
            units = set(said[2]) if len(said) > 2 else set()
            verdict.units = units if verdict.units is None else verdict.units & units
            if math.isfinite(measure):
                verdict.measures.setdefault(run.scenario, []).append(float(measure))
            if holds is None:
                verdict.ambiguous += 1
            else:
                verdict.failures += 1
                size = _size(run, subject)
                if verdict.counterexample is None or size < verdict.counterexample["size"]:
                    verdict.counterexample = {
                        "scenario": run.scenario, "run": run, "subject": subject, "note": note,
                        "size": size,
                    }  # fmt: skip
    except Exception as error:
        verdict.status, verdict.reason = "error", _broke(error)


def _broke(error: Exception) -> str:
    return f"the property itself broke: {type(error).__name__}: {error}"


@one_thread()
def settle(verdict: Verdict, trainer: Any, runs: list[Run], max_examples: int) -> Verdict:
    """The status that the evidence gives."""
    if verdict.status in ("not-claimed", "error"):
        return verdict
    if verdict.property.seam != "run":
        try:
            return _judge_seam(verdict.property, trainer, max_examples)
        except NotMeasuredError as error:
            return Verdict(verdict.property, "not-measured", str(error))
        except Exception as error:
            return Verdict(verdict.property, "error", _broke(error))
    if verdict.failures:
        verdict.status = "fail"
    elif verdict.ambiguous:
        verdict.status = "ambiguous"
        verdict.reason = f"no loss that is known fits {counted(verdict.ambiguous, 'gradient')}"
    else:
        _require_floor(verdict, runs)
    if verdict.status == "pass" and verdict.property.bounded:
        verdict.reason = _within([run for run in runs if verdict.evidence.get(run.scenario)])
    return verdict


def _within(runs: list[Run]) -> str:
    """The arithmetic, where all evidence was computed in 16 bits: what its rounding hides was not told apart."""
    coarse = {run.arithmetic for run in runs}
    return f"within {' and '.join(sorted(coarse))}" if runs and coarse <= {"bfloat16", "float16"} else ""


def _require_floor(verdict: Verdict, runs: list[Run]) -> None:
    found = sum(verdict.evidence.values())
    if found < verdict.property.floor:
        verdict.status = "not-measured"
        verdict.reason = f"{counted(found, 'piece of evidence')}, {verdict.property.floor} needed"
        auxiliary = next((run.conventions.auxiliary for run in runs if run.conventions.auxiliary), "")
        if verdict.property.alone and auxiliary:
            verdict.reason = f"beside the cross-entropy {auxiliary!r} is declared, whose gradient is not known"
        broken = [f"{run.scenario}: {run.error or run.unread}" for run in runs if run.error or run.unread]
        if broken:
            verdict.reason += f" ({'; '.join(broken)})"


def _kind(run: Run, subject: Any) -> str:
    """What kind of token a piece of evidence is about, such as "assistant content"; "" if it is about none."""
    example, offset = getattr(subject, "example", -1), getattr(subject, "offset", getattr(subject, "start", -1))
    if example < 0 or offset < 0:
        return ""
    stream = run.streams[example]
    span = stream.rendered.spans[stream.owners[offset]]
    role = run.job.conversations[example][span.message]["role"] if span.message >= 0 else "template"
    return f"{role} {span.kind}"


def _size(run: Run, subject: Any) -> int:
    """How large the conversation behind a counterexample is: the smallest one is shown."""
    example = getattr(subject, "example", -1)
    return len(run.streams[example]) if example >= 0 else 10**6


def _judge_seam(item: Property, trainer: Any, max_examples: int) -> Verdict:
    """The verdict of a property that reads a function."""
    function = part_of(trainer, item)
    if function is None:
        return Verdict(item, "not-claimed", f"reads the function {item.seam!r}, which the trainer does not expose")
    found = draw(item, function, max_examples)
    evidence = {"drawn": found.held}
    if found.counterexample is not None:
        once = Counter({"drawn": 1}), Counter({"": 1})
        return Verdict(item, "fail", found.raised, evidence, found.counterexample, 1, 0, *once)
    verdict = Verdict(item, "pass", evidence=evidence)
    _require_floor(verdict, [])
    return verdict
