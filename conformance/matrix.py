"""The kill matrix: which properties fail on which planted bug, and where; the proof that the suite is sensitive.

A row is a mutant's signature: every property that fails on it at the default budget, with the scenarios and the kinds
of token on which it fails. The committed matrix (`mutants/matrix.json`) says where each mutant is caught, so that a
gate can look there first, and is what `diagnosis` compares a failing trainer with.

Only what cannot differ from the reference is left out: a function that is the reference's own is not drawn for, a run
that equals the reference's run bit for bit is not read, and what a changed stage cannot reach is not asked (REACHES).
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION, properties
from sftspec.conformance.judge import Trial, Verdict, claims_of, part_of, reach_verdicts, record
from sftspec.conformance.mutants import AREAS, Mutant, load_mutants
from sftspec.conformance.plain import short
from sftspec.conformance.scenarios import scenarios_for
from sftspec.properties import Property
from sftspec.run import Run
from sftspec.trainer import Pipeline

PATH = Path(__file__).with_name("mutants") / "matrix.json"
NOTE = 120  # characters

# Stages (and methods of a Pipeline) that can change what the model is given, and those that can change its gradients.
REACHES = {
    "model": {"collate", "train"},
    "gradient": {"collate", "train", "loss", "clip", "optimizer", "step", "resume"},
}
# Properties that a long computation stands behind, and that read nothing else.
ASKS = {
    "model": {"packing/hidden-states-equal-those-alone"},
    "gradient": {"step/every-parameter-gets-its-gradient", "step/clipping-is-by-the-norm-of-the-whole-gradient",
                 "step/a-gradient-below-the-limit-is-not-scaled"},
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """How a property fails: the share of its evidence that fails in each scenario, and how that is spread over tokens.

    scenarios  name -> share of the evidence there that does not hold, in (0, 1]; "drawn" for a function
    kinds      "assistant content" and the like -> share of the failures; "" for what is no token
    note       what the smallest counterexample says
    """

    scenarios: dict[str, float]
    kinds: dict[str, float]
    note: str = ""


Signature = dict[str, Mark]


def fails(verdict: Verdict) -> bool:
    """Does the evidence itself speak against the trainer, whether or not a prerequisite failed as well?"""
    return bool(verdict.failed_in)


def mark_of(verdict: Verdict) -> Mark:
    total = sum(verdict.failed_at.values())
    return Mark(
        {
            name: round(failed / (failed + verdict.evidence.get(name, 0)), 4) or 1e-4
            for name, failed in verdict.failed_in.items()
            if name != "drawn"
        }
        or {"drawn": 1.0},
        {kind: round(count / total, 4) or 1e-4 for kind, count in verdict.failed_at.items()},
        note_of(verdict),
    )


def note_of(verdict: Verdict) -> str:
    found = verdict.counterexample or {}
    drawn = short(found.get("subject")) if found.get("scenario") == "drawn" else ""
    return " ".join(f"{found.get('note', '')} {drawn}".split())[:NOTE]


def signature(trial: Trial) -> Signature:
    """How each property that fails does so."""
    return {verdict.property.id: mark_of(verdict) for verdict in trial.verdicts if fails(verdict)}


def measured(trial: Trial) -> set[str]:
    """The properties of which something was seen, failing or not."""
    return {item.property.id for item in trial.verdicts if fails(item) or item.status in ("pass", "blocked")}


def changed_stages(trainer: Pipeline) -> set[str]:
    """The stages, and the methods of a subclass, that are not the reference's own."""
    own = {name for kind in type(trainer).__mro__[: -len(Pipeline.__mro__)] for name in vars(kind)}
    stages = {field.name for field in dataclasses.fields(Pipeline)}
    return {name for name in stages if getattr(trainer, name) != getattr(Pipeline(), name)} | own


def reaches(trainer: Any, what: str) -> bool:
    """May this trainer change what the model is given, or the gradients that it gets?"""
    return not isinstance(trainer, Pipeline) or bool(changed_stages(trainer) & REACHES[what])


def can_differ(item: Property, trainer: Any) -> bool:
    """May the property find on this trainer what it does not find on the reference?"""
    if item.claim and item.claim not in claims_of(trainer):
        return False
    if item.seam == "run":
        return all(reaches(trainer, what) for what in ("model", "gradient") if item.id in ASKS[what])
    part = part_of(trainer, item)
    return part is not None and (hasattr(part, "__self__") or part is not part_of(Pipeline(), item))


@functools.lru_cache(maxsize=1)
def reference_runs(seed: int) -> dict[str, str]:
    """Scenario -> fingerprint of the reference's run of it."""
    trainer, found = Pipeline(), {}
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        for number, scenario in enumerate(scenarios_for(claims_of(trainer))):
            found[scenario.name] = fingerprint(record(trainer, scenario, seed, Path(folder) / str(number), 0)[0])
    return found


def fingerprint(run: Run) -> str:
    """A hash of all that a trainer did: rows, weights, parameters after it, report; and of its second run."""
    said = run.job.reported | {"bytes_in_workdir": bool(run.job.reported.get("bytes_in_workdir"))}
    digest = hashlib.sha256(repr((run.error, run.rows, said)).encode())
    for name, parameter in sorted(run.final.items()):
        digest.update(name.encode() + parameter.float().numpy().tobytes())
    return digest.hexdigest() + (fingerprint(run.twin) if run.twin is not None else "")


def kill_row(mutant: Mutant, seed: int = 0) -> Signature:
    """A mutant's signature over every scenario."""
    trainer = mutant.make()
    trial = Trial(trainer)
    chosen = [item for item in properties.load(*AREAS) if can_differ(item, trainer)]
    if hasattr(trainer, "train"):
        with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
            for number, scenario in enumerate(scenarios_for(claims_of(trainer))):
                replays = 4 if reaches(trainer, "model") else 0
                run, _ = record(trainer, scenario, seed, Path(folder) / str(number), replays)
                if fingerprint(run) != reference_runs(seed).get(scenario.name):
                    trial.runs.append(run)
    return signature(reach_verdicts(trial, chosen))


def _named_row(name: str, seed: int) -> tuple[str, Signature]:
    row = kill_row({item.name: item for item in load_mutants()}[name], seed)
    gc.collect()  # runs, jobs and models refer to one another
    return name, row


def kill_matrix(names: Iterable[str], seed: int = 0, workers: int = 2) -> Iterator[tuple[str, Signature]]:
    """(mutant, its signature) of the mutants named, computed in parallel, in the order in which they are done."""
    with multiprocessing.get_context("spawn").Pool(workers, initializer=one_thread) as pool:
        work = [pool.apply_async(_named_row, (name, seed)) for name in names]
        yield from (item.get() for item in work)


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def survivors(matrix: dict[str, Signature]) -> dict[str, list[str]]:
    """Mutants that a property named by their entry does not kill: name -> those properties."""
    entries = {item.name: item for item in load_mutants()}
    missed = {name: [item for item in entries[name].killed_by if item not in row] for name, row in matrix.items()}
    return {name: ids for name, ids in missed.items() if ids}


def idle(matrix: dict[str, Signature]) -> list[str]:
    """Properties that kill no mutant."""
    killers = {identifier for row in matrix.values() for identifier in row}
    return [item.id for item in properties.load(*AREAS) if item.id not in killers]


def to_json(matrix: dict[str, Signature], seed: int) -> dict[str, Any]:
    """The matrix with the names of scenarios and kinds written once: a row holds their numbers."""
    scenarios = sorted({name for row in matrix.values() for mark in row.values() for name in mark.scenarios})
    kinds = sorted({name for row in matrix.values() for mark in row.values() for name in mark.kinds})
    rows = {
        name: {
            identifier: [
                {scenarios.index(item): share for item, share in mark.scenarios.items()},
                {kinds.index(item): share for item, share in mark.kinds.items()},
                mark.note,
            ]
            for identifier, mark in sorted(row.items())
        }
        for name, row in sorted(matrix.items())
    }
    return {"spec_revision": SPEC_REVISION, "seed": seed, "scenarios": scenarios, "kinds": kinds, "rows": rows}


def from_json(document: dict[str, Any]) -> dict[str, Signature]:
    scenarios, kinds = document["scenarios"], document["kinds"]
    return {
        name: {
            identifier: Mark(
                {scenarios[int(number)]: share for number, share in first.items()},
                {kinds[int(number)]: share for number, share in second.items()},
                *note,
            )
            for identifier, (first, second, *note) in row.items()
        }
        for name, row in document["rows"].items()
    }


def save(matrix: dict[str, Signature], seed: int, path: Path = PATH) -> None:
    document = to_json(matrix, seed)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in document.pop("rows").items())
    head = json.dumps(document, indent=1)[:-2]
    path.write_text(f'{head},\n "rows": {{\n{rows}\n }}\n}}\n', encoding="utf-8")


@functools.lru_cache(maxsize=1)
def load(path: Path = PATH) -> dict[str, Signature]:
    """The committed matrix: mutant -> signature."""
    return from_json(json.loads(path.read_text(encoding="utf-8")))
