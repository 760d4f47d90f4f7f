"""The judge: run a trainer on the scenarios, read the runs with the properties, say what was found.

A verdict is made of evidence. A property passes when every piece of evidence that it found holds and there was enough
of it; it fails on the first that does not, and the smallest is shown. What a trainer does not claim is `not-claimed`,
what the runs did not show is `not-measured`, and neither is a pass.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec import properties
from sftspec.conformance.provenance import Provenance
from sftspec.conformance.recovery import WitnessError, build_run
from sftspec.conformance.scenarios import ALPHABET, GOLDENS, Scenario, make_job, scenarios_for
from sftspec.conformance.witness import Tap
from sftspec.masking import Conventions
from sftspec.properties import Property
from sftspec.run import Run, reference_stream

STATUSES = ("pass", "fail", "blocked", "ambiguous", "not-claimed", "not-measured", "error")


@dataclass
class Verdict:
    """What was found of one property.

    evidence        pieces of evidence that hold, by scenario (or "drawn" for a seam)
    counterexample  what does not hold: scenario, subject, note
    failures        pieces of evidence that do not hold
    ambiguous       those of which nothing can be said
    failed_in       failures and ambiguous ones, by scenario (or "drawn")
    failed_at       the same, by the kind of token on which they were found ("" for what is no token)
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


@dataclass
class Trial:
    """Everything that came of putting one trainer on trial."""

    trainer: Any
    runs: list[Run] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0


def claims_of(trainer: Any) -> frozenset[str]:
    return frozenset(getattr(trainer, "claims", ())) or frozenset({"padding"})


def record(trainer: Any, scenario: Scenario, seed: int, workdir: Path, max_replays: int = 4) -> tuple[Run, int]:
    """Run the trainer once on a scenario (twice, if it has a twin). Returns the run and the conversations refused."""
    max_replays = 0 if scenario.name in GOLDENS else max_replays  # nothing of what they show is read there
    run, refused = _record_once(trainer, scenario, seed, workdir / "first", max_replays)
    if scenario.twin is not None:
        run.twin, _ = _record_once(trainer, scenario, seed, workdir / "twin", 0, **scenario.twin)
    return run, refused


def _record_once(trainer, scenario, seed, workdir, max_replays, **changes) -> tuple[Run, int]:
    import torch

    torch.set_num_threads(1)  # tensors are tiny: a second thread only waits, and may reorder sums
    job, refused = make_job(scenario, trainer, seed, workdir, **changes)
    conventions = getattr(trainer, "conventions", None) or Conventions()
    run = Run(job, conventions, scenario=scenario.name)
    provenance = Provenance(
        [reference_stream(job, conventions, conversation).input_ids for conversation in job.conversations],
        job.tokenizer.convert_tokens_to_ids(list(ALPHABET)),
        job.tokenizer.pad_token_id,
        job.max_length,
    )
    torch.manual_seed(seed)
    with Tap(job, provenance, max_replays) as tap:
        try:
            trainer.train(job)
        except Exception as error:
            run.error = f"{type(error).__name__}: {error}"
            run.traceback = traceback.format_exc()
    job.report(
        bytes_in_workdir=sum(item.stat().st_size for item in workdir.rglob("*") if item != job.path and item.is_file())
    )
    run.final = {name: item.detach().clone() for name, item in job.model.named_parameters()}
    try:
        build_run(job, tap, run, provenance)
    except WitnessError as error:
        run.error = run.error or f"witness: {error}"
    return run, refused


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
    """Add the runs of the scenarios to a trial."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        for number, scenario in enumerate(scenarios):
            progress(scenario.name)
            run, refused = record(trial.trainer, scenario, seed, Path(folder) / str(number), max_replays)
            trial.runs.append(run)
            trial.refused[scenario.name] = refused
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
    verdicts = [_open(item, trial.trainer) for item in chosen]
    for run in trial.runs:
        progress(f"verdicts on {run.scenario}")
        for verdict in verdicts:
            _read(verdict, run)
        run.__dict__.pop("oracle", None)  # its float64 copies would add up to a gigabyte over all runs
    for verdict in verdicts:
        progress(verdict.property.id)
        trial.verdicts.append(_settle(verdict, trial.trainer, trial.runs, max_examples))
    unread = {verdict.property.id for verdict in trial.verdicts if verdict.status == "fail"}
    # What needs a blocked property is blocked as well, so go on until nothing more is.
    while found := [item for item in trial.verdicts if item.status != "blocked" and unread & set(item.property.needs)]:
        for verdict in found:
            blockers = sorted(unread.intersection(verdict.property.needs))
            verdict.status, verdict.reason = "blocked", f"needs {', '.join(blockers)}"
            unread.add(verdict.property.id)
    trial.seconds += time.perf_counter() - started
    return trial


class Failed(AssertionError):
    """A piece of evidence that does not hold."""


def judge(item: Property, trainer: Any, runs: list[Run], max_examples: int = 100) -> Verdict:
    """The verdict of one property on what is known of a trainer."""
    verdict = _open(item, trainer)
    for run in runs:
        _read(verdict, run)
    return _settle(verdict, trainer, runs, max_examples)


def _open(item: Property, trainer: Any) -> Verdict:
    """A verdict on which nothing was read yet: it passes, until something speaks against it."""
    if item.claim and item.claim not in claims_of(trainer):
        return Verdict(item, "not-claimed", f"the trainer does not claim {item.claim!r}")
    return Verdict(item, "pass")


def _read(verdict: Verdict, run: Run) -> None:
    """Add the evidence of one run; the smallest counterexample is kept."""
    if verdict.property.seam != "run" or verdict.status in ("not-claimed", "error") or run.error:
        return
    if run.scenario in GOLDENS and verdict.property.area != "template":
        return
    try:
        for subject, holds, *note in verdict.property.check(run):
            if holds:
                verdict.evidence[run.scenario] = verdict.evidence.get(run.scenario, 0) + 1
                continue
            verdict.failed_in[run.scenario] += 1
            verdict.failed_at[_kind(run, subject)] += 1
            if holds is None:
                verdict.ambiguous += 1
            else:
                verdict.failures += 1
                size = _size(run, subject)
                if verdict.counterexample is None or size < verdict.counterexample["size"]:
                    verdict.counterexample = {
                        "scenario": run.scenario, "run": run, "subject": subject, "note": note[0] if note else "",
                        "size": size,
                    }  # fmt: skip
    except Exception as error:
        verdict.status, verdict.reason = "error", _broke(error)


def _broke(error: Exception) -> str:
    return f"the property itself broke: {type(error).__name__}: {error}"


def _settle(verdict: Verdict, trainer: Any, runs: list[Run], max_examples: int) -> Verdict:
    """The status that the evidence gives."""
    if verdict.status in ("not-claimed", "error"):
        return verdict
    if verdict.property.seam != "run":
        try:
            return _judge_seam(verdict.property, trainer, max_examples)
        except Exception as error:
            return Verdict(verdict.property, "error", _broke(error))
    if verdict.failures:
        verdict.status = "fail"
    elif verdict.ambiguous:
        verdict.status = "ambiguous"
        verdict.reason = f"{verdict.ambiguous} gradients fit no loss that is known"
    else:
        _require_floor(verdict, runs)
    return verdict


def _require_floor(verdict: Verdict, runs: list[Run]) -> None:
    found = sum(verdict.evidence.values())
    if found < verdict.property.floor:
        verdict.status = "not-measured"
        verdict.reason = f"{found} pieces of evidence, {verdict.property.floor} are needed"
        broken = [f"{run.scenario}: {run.error}" for run in runs if run.error]
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


def part_of(trainer: Any, item: Property):
    """The function that a seam property reads, or None if the trainer has no such part.

    A Pipeline has them all; another trainer names those that it wants judged: `parts = {"pack": my_pack}`. An attribute
    that happens to be called `encode` is not taken for one.
    """
    from sftspec.trainer import Pipeline

    if not isinstance(trainer, Pipeline):
        return getattr(trainer, "parts", {}).get(item.seam)
    if hasattr(trainer, item.seam):
        return getattr(trainer, item.seam)
    names = ("sftspec", f"sftspec.{item.check.__module__.rsplit('.', 1)[-1]}", f"sftspec.{item.area}")
    homes = [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]
    return next((getattr(home, item.seam) for home in homes if hasattr(home, item.seam)), None)


def _judge_seam(item: Property, trainer: Any, max_examples: int) -> Verdict:
    """Draw arguments with hypothesis (explicit examples first) until one does not hold, and shrink that one."""
    from hypothesis import example, given, settings

    function = part_of(trainer, item)
    if function is None:
        return Verdict(item, "not-claimed", f"reads the function {item.seam!r}, which the trainer does not expose")
    held = 0
    smallest: dict[str, Any] = {}

    def drawn(**arguments: Any) -> None:
        nonlocal held
        for subject, holds, *note in item.check(function, **arguments):
            if not holds:
                smallest.update(
                    scenario="drawn", run=None, subject=subject, note=note[0] if note else "", arguments=arguments
                )
                raise Failed(item.sentence)
            held += 1

    test = given(**item.given)(drawn) if item.given else drawn
    for arguments in item.examples if item.given else ():
        test = example(**arguments)(test)
    try:
        if item.given:
            settings(max_examples=max_examples, derandomize=True, deadline=None, database=None)(test)()
        else:
            test()
    except Exception as error:
        note = ""
        if not smallest:
            note = f"{item.seam} raised {type(error).__name__}: {error}"
            smallest = {"scenario": "drawn", "subject": None, "note": note}
        return Verdict(item, "fail", note, {"drawn": held}, smallest, 1, 0, Counter(drawn=1), Counter({"": 1}))
    verdict = Verdict(item, "pass", evidence={"drawn": held})
    _require_floor(verdict, [])
    return verdict
