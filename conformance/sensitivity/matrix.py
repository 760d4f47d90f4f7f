"""The kill matrix: which properties fail on which planted bug, and where; the proof that the suite is sensitive.

A row is a mutant's signature: every property that fails on it at the default budget, and how (`signatures`). The jobs
that join settings are in it where the others do not show all that the mutant names.

A run is read as soon as it exists, and dropped: a worker holds one at a time.

Only what cannot differ from the reference is left out: a function that is the reference's own is not drawn for, a job
of which the same batches are made is not done, a run that equals the reference's bit for bit is not read, and what a
changed stage cannot reach is not asked (REACHES).
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sftspec import properties
from sftspec.conformance.sensitivity.mutants import AREAS, Mutant, load_mutants
from sftspec.conformance.sensitivity.signatures import Signature, signature
from sftspec.conformance.trial.functions import part_of
from sftspec.conformance.trial.judge import Trial, Verdict, reach_verdicts
from sftspec.conformance.trial.performer import Performance, perform
from sftspec.conformance.trial.scenarios import Scenario, make_job, scenarios_for
from sftspec.conformance.trial.workers import pool_of
from sftspec.conformance.witness.identity import claims_of
from sftspec.properties import Property
from sftspec.properties.ledger.run import Run
from sftspec.trainer import Pipeline

# Stages (and methods of a Pipeline) that can change what the model is given, and those that can change its gradients;
# `batches` chooses and orders, and leaves what a batch holds to `collate`.
REACHES = {
    "model": {"collate", "train"},
    "gradient": {"collate", "train", "loss", "clip", "optimizer", "step", "resume"},
}
# Methods of a Pipeline that a property calls, and the stages that they use.
METHODS = {"evaluate": {"evaluate", "loss"}}
# Stages and methods that make the batches: where nothing else is changed, equal batches make equal runs.
DATA = {"encode", "order", "pack", "collate", "prepare", "batches"}
# Stages that are called only for a job with this setting; none: not in training.
CALLED_WITH = {"pack": "packing", "resume": "resume_at", "evaluate": ""}
# Properties that a long computation stands behind, and that read nothing else.
ASKS = {
    "model": {"packing/hidden-states-equal-those-alone"},
    "gradient": {"step/every-parameter-gets-its-gradient", "step/clipping-is-by-the-norm-of-the-whole-gradient",
                 "step/a-gradient-below-the-limit-is-not-scaled"},
}  # fmt: skip


def changed_stages(trainer: Pipeline) -> set[str]:
    """The stages, and the methods of a subclass, that are not the reference's own."""
    own = {name for kind in type(trainer).__mro__[: -len(Pipeline.__mro__)] for name in vars(kind)}
    stages = {field.name for field in dataclasses.fields(Pipeline)}
    return {name for name in stages if getattr(trainer, name) != getattr(Pipeline(), name)} | own


def reaches(trainer: Any, what: str) -> bool:
    """May this trainer change what the model is given, or the gradients that it gets?"""
    return not isinstance(trainer, Pipeline) or bool(changed_stages(trainer) & REACHES[what])


def replays_of(trainer: Any) -> int:
    """How many calls of a scenario are made again: none, where they cannot show anything new."""
    return 4 if reaches(trainer, "model") else 0


def is_touched(trainer: Any, scenario: Scenario) -> bool:
    """May what is changed be called at all in this scenario?"""
    return not isinstance(trainer, Pipeline) or any(
        stage not in CALLED_WITH or CALLED_WITH[stage] in scenario.settings for stage in changed_stages(trainer)
    )


def can_differ(item: Property, trainer: Any) -> bool:
    """May the property find on this trainer what it does not find on the reference?"""
    if item.claim and item.claim not in claims_of(trainer):
        return False
    if item.seam == "run":
        return all(reaches(trainer, what) for what in ("model", "gradient") if item.id in ASKS[what])
    part = part_of(trainer, item)
    if isinstance(trainer, Pipeline) and item.seam in METHODS:
        return bool(changed_stages(trainer) & METHODS[item.seam])
    return part is not None and part is not part_of(Pipeline(), item)


@functools.cache
def reference_run(name: str, seed: int) -> tuple[str, ...]:
    """Fingerprints of the reference's run of a scenario, and of its twin; none where the reference is not given it."""
    scenario = _reference_scenarios().get(name)
    if scenario is None:
        return ("",)
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        return fingerprint(perform(Pipeline(), scenario, seed, Path(folder), 0))


@functools.cache
def reference_data(name: str, seed: int) -> str:
    """Digest of the batches that the reference makes in a scenario."""
    return batches_of(Pipeline(), _reference_scenarios()[name], seed)


@functools.cache
def _reference_scenarios() -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios_for(Pipeline.claims)}


def has_other_data(trainer: Any, scenario: Scenario, seed: int) -> bool:
    """May the run differ from the reference's? Not where only batches could, and do not."""
    if not isinstance(trainer, Pipeline) or not changed_stages(trainer) <= DATA:
        return True
    try:
        return batches_of(trainer, scenario, seed) != reference_data(scenario.name, seed)
    except Exception:
        return True


def batches_of(trainer: Pipeline, scenario: Scenario, seed: int) -> str:
    """A digest of what a trainer makes of a scenario's conversations, and reports of them; twice, if so."""
    digest = hashlib.sha256()
    for changes in ({},) if scenario.twin is None else ({}, scenario.twin):
        with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
            job, _ = make_job(scenario, trainer, seed, Path(folder), **changes)
            for step in trainer.batches(job, trainer.prepare(job)):
                for batch in step:
                    tensors = {name: item for name, item in vars(batch).items() if isinstance(item, Tensor)}
                    rest = {name: item for name, item in vars(batch).items() if name not in tensors}
                    digest.update(repr((type(batch), rest)).encode())
                    _add(digest, tensors)
            digest.update(repr(job.reported).encode())
    return digest.hexdigest()


def fingerprint(done: Performance) -> tuple[str, ...]:
    """A hash of all that a trainer did: what it gave the model and the optimizer, parameters, report; and of the twin,
    if there is one.
    """
    said = done.run.job.reported | {"bytes_in_workdir": bool(done.run.job.reported.get("bytes_in_workdir"))}
    calls = [(call.step, call.rank, call.arguments) for call in done.tap.calls]
    digest = hashlib.sha256(
        repr((done.run.error, said, calls, [step.learning_rate for step in done.tap.steps])).encode()
    )
    for call in done.tap.calls:
        _add(digest, {"ids": call.input_ids, "places": call.position_ids, "gradient": call.gradient})
    for step in done.tap.steps:
        _add(digest, step.gradients)
    _add(digest, done.run.final)
    return digest.hexdigest(), *(fingerprint(done.twin) if done.twin is not None else ())


def _add(digest: Any, tensors: Mapping[str, Tensor | None]) -> None:
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        if value is not None:
            digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())


def other_run(trainer: Any, scenario: Scenario, seed: int, workdir: Path) -> Run | None:
    """The run of a scenario; None where it is the reference's, bit for bit.

    A twin that differs in nothing, or in not being stopped, is made only where the first run differs: what it could
    show alone shows in the other jobs.
    """
    known = reference_run(scenario.name, seed)

    def wants_twin(first: Performance) -> bool:
        return "seed" in (scenario.twin or {}) or fingerprint(first) != known[:1]

    done = perform(trainer, scenario, seed, workdir, replays_of(trainer), wants_twin)
    return None if fingerprint(done) == known[: 1 + (done.twin is not None)] else done.read()


def scenarios_shown(trainer: Any) -> list[Scenario]:
    """The scenarios of a trainer's claims; of those the ones in which it says that it is to be looked at."""
    found = scenarios_for(claims_of(trainer))
    return [item for item in found if item.name in getattr(trainer, "shown_in", {item.name})]


def other_runs(mutant: Mutant, trainer: Any, seed: int, joins: bool) -> Iterator[Run]:
    """The runs that differ from the reference's: those of the jobs that join settings, or those of the others."""
    if not hasattr(trainer, "train"):
        return
    for scenario in scenarios_shown(trainer):
        asked = scenario.joins == joins and mutant.runs(scenario) and is_touched(trainer, scenario)
        if asked and has_other_data(trainer, scenario, seed):
            with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
                run = other_run(trainer, scenario, seed, Path(folder))
            if run is not None:
                yield run
                del run
                gc.collect()  # runs, jobs and models refer to one another


def kill_row(mutant: Mutant, seed: int = 0) -> Signature:
    """A mutant's signature."""
    trainer = mutant.make()
    chosen = [item for item in properties.load(*AREAS) if mutant.asks(item) and can_differ(item, trainer)]
    found = {item.id: Verdict(item, "pass") for item in chosen}

    def read(runs: list[Run], asked: list[Property]) -> None:
        for verdict in reach_verdicts(Trial(trainer, runs), asked).verdicts:
            _add_to(found[verdict.property.id], verdict)

    read([], [item for item in chosen if item.seam != "run"])
    for joins in (False, True):
        for run in other_runs(mutant, trainer, seed, joins):
            read([run], [item for item in chosen if item.seam == "run"])
            del run  # before the next is made
        row = signature(Trial(trainer, verdicts=list(found.values())))
        if row.keys() >= set(mutant.killed_by):
            break
    return row


def _add_to(verdict: Verdict, found: Verdict) -> None:
    """What was found in one more run; of two counterexamples the smaller is kept, and not its run."""
    for name, count in found.evidence.items():
        verdict.evidence[name] = verdict.evidence.get(name, 0) + count
    verdict.failed_in += found.failed_in
    verdict.failed_at += found.failed_at
    verdict.measures.update(found.measures)
    shown, other = verdict.counterexample, found.counterexample
    if other is not None and (shown is None or other.get("size", 0) < shown.get("size", 0)):
        verdict.counterexample = {key: value for key, value in other.items() if key != "run"}


def _named_row(name: str, seed: int) -> Signature:
    return kill_row({item.name: item for item in load_mutants()}[name], seed)


def kill_matrix(names: Iterable[str], seed: int = 0, workers: int = 2) -> Iterator[tuple[str, Signature]]:
    """(mutant, its signature) of the mutants named, computed in parallel, in the order in which they are done."""
    return in_parallel(_named_row, names, seed, workers)


class WorkerEnded(RuntimeError):
    """A process was ended from outside, as the system does when memory runs out."""


Found = TypeVar("Found")


def in_parallel(
    work: Callable[[str, int], Found], names: Iterable[str], seed: int, workers: int
) -> Iterator[tuple[str, Found]]:
    """(name, work(name, seed)) in the order in which they are done. Raises WorkerEnded."""
    names = list(names)
    if not names:
        return
    try:
        with pool_of(min(workers, len(names))) as pool:
            waiting = {pool.submit(_prepared, work, name, seed): name for name in names}
            for done in as_completed(waiting):
                yield waiting.pop(done), done.result()
    except BrokenProcessPool as error:
        raise WorkerEnded("a worker was ended from outside: out of memory? give fewer --workers") from error


def _prepared(work: Callable[[str, int], Found], name: str, seed: int) -> Found:
    prepare()
    return work(name, seed)


@functools.cache
def prepare() -> None:
    """What every mutant needs, once in a process; and no collection of garbage goes through it again."""
    warnings.simplefilter("ignore")  # what is planted makes PyTorch and NumPy warn
    torch.set_num_threads(1)
    properties.load()
    load_mutants()
    gc.collect()
    gc.freeze()


def survivors(matrix: dict[str, Signature]) -> dict[str, list[str]]:
    """Mutants that a property named by their entry does not kill: name -> those properties."""
    entries = {item.name: item for item in load_mutants()}
    missed = {name: [item for item in entries[name].killed_by if item not in row] for name, row in matrix.items()}
    return {name: ids for name, ids in missed.items() if ids}


def idle(matrix: dict[str, Signature]) -> list[str]:
    """Properties that kill no mutant."""
    killers = {identifier for row in matrix.values() for identifier in row}
    return [item.id for item in properties.load(*AREAS) if item.id not in killers]
