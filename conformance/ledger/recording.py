"""A Run as a folder: recorded where the trainer runs, judged anywhere.

    run.json             what was asked, the ledger by columns, steps, model calls, replays (run.schema.json)
    tensors.safetensors  parameters and gradients of every step, last hidden states, by place: step/0/gradients/NAME
    tokenizer/           as Hugging Face saves it
    twin/                the second run, if there is one

Nothing is rounded: a recorded run gets the verdicts of the live one. Nothing is guessed either: another format, a
field or a tensor too many or too few is an error that names the file. A tensor equal to an earlier one is stored once,
and `equal` in run.json says where (a step begins where the last one ended).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftspec.adapters import Adapter
from sftspec.conformance.ledger.asked import job_asked, require_scenarios
from sftspec.conformance.ledger.consistent import is_whole, require_consistent
from sftspec.conformance.ledger.origins import require_origins
from sftspec.conformance.ledger.store import FORMAT, RecordingError, Tensors, present, read_json, write_json
from sftspec.conformance.report.document import environment
from sftspec.conformance.report.form import DocumentError, validate
from sftspec.conformance.report.json_values import without_paths
from sftspec.conformance.trial.judge import Trial
from sftspec.conformance.trial.machine import HERE, OF_WEIGHTS, Machine, require_asked
from sftspec.conformance.trial.performer import require_known_claims
from sftspec.conformance.trial.scenarios import MOST_RANKS
from sftspec.conformance.witness.identity import SEQUENCE
from sftspec.counted import counted
from sftspec.job import Job, weights_in
from sftspec.masking import Conventions
from sftspec.properties.ledger.run import Forward, Replay, Row, Run, Step

RUN, TENSORS, TOKENIZER, TWIN, TRIAL = "run.json", "tensors.safetensors", "tokenizer", "twin", "trial.json"

ON_MACHINE = ("device", "autocast", "attention")  # of all runs of a trial, and said there
COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
NOT_SETTINGS = ("model", "tokenizer", "conversations", "path", "workdir", "reported", "handover", *ON_MACHINE)
SETTINGS = tuple(field.name for field in dataclasses.fields(Job) if field.name not in NOT_SETTINGS)
CALL = ("index", "step", "rank", "input_ids", "arguments", "trained", "random", "drew", "autocast", "lost")
DTYPES = ("torch.float32", "torch.float64", "torch.bfloat16", "torch.float16")
PARAMETERS = ("gradients", "before", "after", "again")


def save_run(run: Run, folder: Path) -> None:
    """Write a run into a new folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RecordingError(f"{folder} is not empty: give a new folder")
    tensors = Tensors()
    record = {
        "format": FORMAT,
        "scenario": run.scenario,
        "error": without_paths(run.error),
        "traceback": without_paths(run.traceback),
        "conventions": run.conventions.said(),
        "job": _job_record(run.job),
        "rows": {name: [getattr(row, name) for row in run.rows] for name in COLUMNS},
        "steps": [
            {
                **{name: getattr(step, name) for name in ("index", "learning_rate", "scale", "residual")},
                **{kind: tensors.put(f"step/{step.index}/{kind}", getattr(step, kind)) for kind in PARAMETERS},
                "frozen": list(step.frozen),
                "apart": [list(item) for item in step.apart],
            }
            for step in run.steps
        ],
        "forwards": [
            {
                **{name: getattr(call, name) for name in CALL},
                "hidden": tensors.put(f"forward/{call.index}", {} if call.hidden is None else {"hidden": call.hidden}),
            }
            for call in run.forwards
        ],
        "replays": [
            {"forward": item.forward, "changed": sorted(item.changed), "moved": sorted(item.moved)}
            for item in run.replays
        ],
        "initial": tensors.put("initial", run.initial),
        "final": tensors.put("final", run.final),
        "adapters": [dataclasses.asdict(adapter) for adapter in run.adapters],
        "saved": list(run.saved),
        "unread": run.unread,
        "cut": dict(run.cut),
        "recut": {str(index): ids for index, ids in run.recut.items()},
        "processes": run.processes,
        "equal": tensors.equal,
        "twin": run.twin is not None,
    }
    write_json(folder / RUN, record)
    save_file(tensors.stored, folder / TENSORS)
    run.job.tokenizer.save_pretrained(folder / TOKENIZER)
    if run.twin is not None:
        save_run(run.twin, folder / TWIN)


def load_run(
    folder: Path,
    claims: frozenset[str] = frozenset({"padding"}),
    seed: int = 0,
    is_twin: bool = False,
    machine: Machine = HERE,
) -> Run:
    """Read a run from a folder: of a trainer with these claims, on trial with this seed on this machine.

    Raises RecordingError.
    """
    place = str(folder / RUN)
    record = read_json(folder / RUN)
    try:
        validate(record, "run", place)
    except DocumentError as error:
        raise RecordingError(str(error)) from None
    try:
        return _run(record, folder, place, claims, seed, is_twin, machine)
    except RecordingError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise RecordingError(f"{place}: it cannot be read ({said})") from None


def _run(
    record: Mapping[str, Any],
    folder: Path,
    place: str,
    claims: frozenset[str],
    seed: int,
    is_twin: bool,
    machine: Machine,
) -> Run:
    if record["twin"] and is_twin:
        raise RecordingError(f"{place}: a second run has no second run")
    tensors = Tensors(_stored(folder / TENSORS), record["equal"], str(folder / TENSORS))
    present(folder / TOKENIZER / "tokenizer.json")  # written for whoever looks; the one of the scenario is used
    job, refused = job_asked(record, place, claims, seed, is_twin, machine)
    job.reported = record["job"]["reported"]
    run = Run(
        job=job,
        conventions=Conventions(**record["conventions"]),
        rows=_rows(record["rows"], folder),
        steps=[
            Step(
                **item
                | {kind: tensors.take(f"step/{item['index']}/{kind}", item[kind]) for kind in PARAMETERS}
                | {"frozen": tuple(item["frozen"]), "apart": tuple(map(tuple, item.get("apart", ())))}
            )
            for item in record["steps"]
        ],
        forwards=[
            Forward(
                **item
                | {name: tuple(item[name]) for name in ("arguments", "lost")}
                | {"hidden": tensors.take(f"forward/{item['index']}", item["hidden"]).get("hidden")}
            )
            for item in record["forwards"]
        ],
        replays=[
            Replay(item["forward"], *(frozenset(map(tuple, item[name])) for name in ("changed", "moved")))
            for item in record["replays"]
        ],
        scenario=record["scenario"],
        error=record["error"],
        initial=tensors.take("initial", record["initial"]),
        final=tensors.take("final", record["final"]),
        twin=load_run(folder / TWIN, claims, seed, True, machine) if record["twin"] else None,
        traceback=record["traceback"],
        adapters=tuple(Adapter(**item) for item in record["adapters"]),
        saved=tuple(record["saved"]),
        unread=record["unread"],
        cut=record["cut"],
        recut={int(index): ids for index, ids in record["recut"].items()},
        processes=_processes(record, job, claims),
        refused=refused,
    )
    if record.get("processes", 1) != run.processes:
        raise RecordingError(f"{place}: it has {counted(record['processes'], 'process')}; its claims say otherwise")
    tensors.check_all_taken()
    require_consistent(run, place)
    require_origins(run, place)
    require_asked(run)
    if run.final or not run.error:  # a trainer that was ended while it trained left no parameters
        _load_parameters(run.job.model, run.final, run.adapters, place)
    return run


def _processes(record: Mapping[str, Any], job: Job, claims: frozenset[str]) -> int:
    """How many ranks did the job: as many as it asks for, or, where they share rows, as the recording says."""
    if "processes" not in claims:
        return 1
    said = record.get("processes", 1)
    return said if SEQUENCE in claims and is_whole(said, 2) and said <= MOST_RANKS else job.world_size


def _stored(path: Path) -> dict[str, Any]:
    """The tensors of a file: floating-point numbers, and not more than fit. Raises RecordingError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(present(path))
    except RecordingError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RecordingError(f"{path}: not safetensors ({error})") from None
    for name, tensor in found.items():
        if str(tensor.dtype) not in DTYPES:
            raise RecordingError(f"{path}: {name:.80} is of {tensor.dtype}; known: {', '.join(DTYPES)}")
    return found


def _job_record(job: Job) -> dict[str, Any]:
    kind = next(item for item in type(job.model).__mro__ if item.__module__.startswith("transformers."))
    config = json.loads(job.model.config.to_json_string(use_diff=False))
    config["pad_token_id"] = None  # trainers write one into it, and with it the embedding would get no gradient there
    return {
        "settings": {name: getattr(job, name) for name in SETTINGS},
        "reported": job.reported,
        "conversations": [
            {"messages": list(talk), "source": talk.source, "tools": talk.tools}
            | ({"template_arguments": talk.template_arguments} if talk.template_arguments else {})
            for talk in job.conversations
        ],
        "model": {"class": kind.__name__, "config": config},
    }


def _load_parameters(model: Any, final: Mapping[str, Any], adapters: Sequence[Adapter], place: str) -> None:
    """Give the model the parameters that it ended with, those of adapters aside."""
    import torch

    parameters = dict(model.named_parameters())
    beside = {name for adapter in adapters for name in adapter.parameters}
    final = {name: value for name, value in final.items() if name not in beside}
    if parameters.keys() != final.keys():
        name = sorted(parameters.keys() ^ final.keys())[0]
        raise RecordingError(f"{place}: the parameter {name:.80} is in one of model and tensors only")
    weights_in(model, next(iter(final.values())).dtype)
    with torch.no_grad():
        for name, value in final.items():
            model.get_parameter(name).copy_(value)


def _rows(columns: Mapping[str, list], folder: Path) -> list[Row]:
    if len({len(column) for column in columns.values()}) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise RecordingError(f"{folder / RUN}: the columns of rows have different lengths: {sizes}")
    return [Row(*values) for values in zip(*(columns[name] for name in COLUMNS), strict=True)]


def save_trial(trial: Trial, identity: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Write all runs of a trial into a new folder, with who was on trial, and where."""
    recorder = Recorder(folder)
    for run in trial.runs:
        recorder.save(run)
    recorder.finish(identity, environment(), seed, trial.refused)


class Recorder:
    """Writes the runs of a trial into a new folder, one after another, and at last who was on trial, and where."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, list[str]()

    def save(self, run: Run) -> None:
        name = f"{len(self.runs):02d}-{re.sub('[^a-z0-9]+', '-', run.scenario.lower())}"
        save_run(run, self.folder / name)
        self.runs.append(name)

    def finish(
        self,
        identity: Mapping[str, Any],
        environment: Mapping[str, str],
        seed: int,
        refused: Mapping[str, int],
        machine: Machine = HERE,
    ) -> None:
        record = {
            "format": FORMAT,
            "trainer": identity,
            "environment": environment,
            "seed": seed,
            "refused": refused,
            "runs": self.runs,
            "machine": machine.asked,
        }
        write_json(self.folder / TRIAL, record)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A trainer that ran elsewhere: what it said of itself is what is left of it."""

    name: str
    version: str
    setting: Mapping[str, Any]
    claims: frozenset[str]
    conventions: Conventions


NAME = re.compile(r"[0-9]{2,3}-[a-z0-9-]+")


def load_trial(folder: Path, complete: bool = False) -> tuple[Trial, dict[str, Any]]:
    """Read what `save_trial` wrote: a trial without verdicts, and its record (trainer, environment, seed).

    complete: refuse it unless each scenario that the claims ask for is there, once: without it, what speaks against
    a trainer could be left out.
    """
    place = folder / TRIAL
    record = read_json(place)
    known = {"format", "trainer", "environment", "seed", "refused", "runs"}
    machine = _machine(record.pop("machine", {}), place)
    if record.keys() != known:
        raise RecordingError(f"{place}: has {', '.join(sorted(record))}; expected {', '.join(sorted(known))}")
    try:
        for part in ("trainer", "environment"):
            validate(record[part], f"verdicts#{part}", f"{place}: {part}")
    except DocumentError as error:
        raise RecordingError(str(error)) from None
    _require_plain(record, place)
    identity = record["trainer"]
    try:
        conventions = Conventions(**identity["conventions"])
        trainer = Recorded(**identity | {"claims": frozenset(identity["claims"]), "conventions": conventions})
        require_known_claims(trainer)
    except ValueError as error:  # a TrainerError, or that of a convention
        raise RecordingError(f"{place}: {error}") from None
    runs = [load_run(folder / name, trainer.claims, record["seed"], False, machine) for name in record["runs"]]
    if complete:
        require_scenarios([run.scenario for run in runs], trainer.claims, str(place), machine)
    for name, run in zip(record["runs"], runs, strict=True):
        if run.conventions != trainer.conventions:
            raise RecordingError(f"{folder / name / RUN}: its conventions are not those of {TRIAL}")
        if run.processes != runs[0].processes:
            raise RecordingError(f"{folder / name / RUN}: ranks here: {run.processes}, in others: {runs[0].processes}")
    return Trial(trainer, runs, record["refused"]), record


def _machine(record: Any, place: Path) -> Machine:
    """The machine that a trial was asked for. Raises RecordingError."""
    known = [item.name for item in dataclasses.fields(Machine)]
    if not isinstance(record, dict) or not all(isinstance(value, str) for value in record.values()):
        raise RecordingError(f"{place}: machine is a table of texts")
    if odd := sorted(record.keys() - set(known)):
        raise RecordingError(f"{place}: machine has {odd[0]!r:.80}; known: {', '.join(known)}")
    for name in ("dtype", "autocast"):
        if record.get(name, OF_WEIGHTS[0]) not in OF_WEIGHTS:
            raise RecordingError(f"{place}: machine.{name} is {record[name]!r:.80}; known: {', '.join(OF_WEIGHTS)}")
    return Machine(**record)


def _require_plain(record: Mapping[str, Any], place: Path) -> None:
    """Names of runs are names in this folder, each once; the seed and the counts are whole numbers."""
    names = record["runs"]
    if not isinstance(names, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise RecordingError(f"{place}: runs are named like 00-plain, and stand in this folder")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError(f"{place}: the run {twice[0]} is named twice")
    if not is_whole(record["seed"]):
        raise RecordingError(f"{place}: seed is no whole number")
    refused = record["refused"]
    if not isinstance(refused, dict) or not all(is_whole(count) for count in refused.values()):
        raise RecordingError(f"{place}: refused is a table of scenarios and how many conversations were refused")
