"""What goes between the judge's process and the trainer's: a folder for each job, and in it what was heard.

    job.json, model.safetensors, tokenizer.json   written by the judge, read where the trainer is
    heard.json, heard.safetensors                 written there, read by the judge; heard.json comes last, in one piece

Several ranks read one job and share its folder for work; each writes what was heard of it (1-heard.json).
Nothing is rounded and nothing is pickled. The two sides may have other versions of Python, torch and transformers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sftspec.adapters import Adapter
from sftspec.conformance.witness.asked import CORPUS, HEARD, JOB, MODEL, REST, TENSORS, TOKENIZER, WORK, Asked
from sftspec.conformance.witness.listening import Heard
from sftspec.conformance.witness.mailbox import of_rank, write_whole
from sftspec.conformance.witness.replay import Replay
from sftspec.conformance.witness.shards import Place
from sftspec.conformance.witness.tap import Call, StepRecord
from sftspec.conformance.witness.tensor_file import is_same, read_tensors, write_tensors
from sftspec.conversation import Conversation
from sftspec.handover import Handover
from sftspec.job import Job, weights_in

NOT_SETTINGS = ("model", "tokenizer", "conversations", "path", "workdir", "reported", "handover")
TOKENIZER_SETTINGS = (
    "bos_token", "eos_token", "unk_token", "pad_token", "chat_template", "model_max_length",
    "clean_up_tokenization_spaces",
)  # fmt: skip


def write_job(
    folder: Path,
    job: Job,
    streams: Sequence[Sequence[int]],
    alphabet: Sequence[int],
    pad: int | None,
    max_replays: int,
    seed: int,
    spare: int = 0,
) -> None:
    """Write a job into a folder, with a Hugging Face model and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = job.tokenizer.backend_tokenizer.to_str()
    said = {name: job.tokenizer.init_kwargs.get(name) for name in TOKENIZER_SETTINGS}
    config = job.model.config.to_diff_dict()
    config.pop("transformers_version", None)
    record = {
        "head_name": job.head_name,
        "settings": {
            field.name: getattr(job, field.name) for field in dataclasses.fields(job) if field.name not in NOT_SETTINGS
        },
        "conversations": [
            {"messages": list(talk), "tools": talk.tools, "template_arguments": talk.template_arguments}
            for talk in job.conversations
        ],
        "model": {"class": type(job.model).__name__, "config": config},
        "tokenizer": {name: value for name, value in said.items() if value is not None},
        "streams": [list(stream) for stream in streams],
        "alphabet": list(alphabet),
        "pad": pad,
        "max_replays": max_replays,
        "seed": seed,
        "spare": spare,
    }
    write_tensors(folder / MODEL, dict(job.model.named_parameters()))
    (folder / TOKENIZER).write_text(inner, encoding="utf-8")
    (folder / JOB).write_text(json.dumps(record), encoding="utf-8")


def read_job(folder: Path, rank: int = 0) -> Asked:
    """The job in a folder, for one of the ranks that do it, with a model and a tokenizer of the transformers that is
    installed here.
    """
    record = json.loads((folder / JOB).read_text(encoding="utf-8"))
    settings = record["settings"]
    workdir = folder / WORK
    workdir.mkdir(exist_ok=True)
    job = Job(
        model=_model(record["model"], read_tensors(folder / MODEL), settings["frozen"]),
        tokenizer=_tokenizer(record["tokenizer"], folder / TOKENIZER),
        conversations=[Conversation(**item) for item in record["conversations"]],
        path=workdir / CORPUS,
        workdir=workdir,
        handover=Handover(home=of_rank("model", rank)),
        **{**settings, "frozen": tuple(settings["frozen"])},
    )
    rest = {name: record[name] for name in ("streams", "alphabet", "pad", "max_replays", "seed", "spare")}
    return Asked(job, **rest)


def _model(record: Mapping[str, Any], state: dict[str, Tensor], frozen: Sequence[str]) -> Any:
    """The witness as from_pretrained would give it."""
    import transformers

    kind = getattr(transformers, record["class"])
    config = dict(record["config"])
    rope = config.get("rope_parameters")
    if rope is not None and int(transformers.__version__.partition(".")[0]) < 5:  # there it has this name
        config["rope_theta"] = rope["rope_theta"]
        del config["rope_parameters"]
    before = torch.get_rng_state()
    model = kind(kind.config_class.from_dict(config))
    torch.set_rng_state(before)
    model = weights_in(model, next(iter(state.values())).dtype)
    parameters = dict(model.named_parameters())
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())[0]
        raise ValueError(f"transformers {transformers.__version__} builds another {record['class']}: {odd}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
            parameter.requires_grad_(name not in frozen)
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model.eval()


def load_libraries() -> None:
    """Import what makes models and tokenizers, if it is installed."""
    with contextlib.suppress(ImportError):
        import transformers

        for name in ("GPT2LMHeadModel", "LlamaForCausalLM", "PreTrainedTokenizerFast"):
            getattr(transformers, name)


def _tokenizer(settings: Mapping[str, Any], path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path), **settings)


def write_heard(folder: Path, heard: Heard, rank: int = 0) -> None:
    """Write what was heard of a rank; a tensor that stands at several places is stored once."""
    tensors = _Tensors()
    record = {
        "calls": [tensors.record(f"call/{number}", item) for number, item in enumerate(heard.calls)],
        "steps": [tensors.record(f"step/{number}", item) for number, item in enumerate(heard.steps)],
        "replays": [tensors.record(f"replay/{number}", item) for number, item in enumerate(heard.replays)],
        "final": tensors.put("final", heard.final),
        "rest": {name: getattr(heard, name) for name in REST},
        "adapters": [dataclasses.asdict(item) for item in heard.adapters],
        "places": {name: dataclasses.asdict(item) for name, item in heard.places.items()},
    }
    write_tensors(folder / of_rank(TENSORS, rank), tensors.stored)
    write_whole(folder / of_rank(HEARD, rank), record)


def read_heard(folder: Path, rank: int = 0) -> Heard:
    """What was heard of a rank in a folder. Raises ValueError, KeyError or OSError where a file was spoilt."""
    record = json.loads((folder / of_rank(HEARD, rank)).read_text(encoding="utf-8"))
    stored = read_tensors(folder / of_rank(TENSORS, rank))
    rest: dict[str, Any] = {name: tuple(value) if name == "saved" else value for name, value in record["rest"].items()}
    return Heard(
        calls=[_read(Call, item, stored) for item in record["calls"]],
        steps=[_read(StepRecord, item, stored) for item in record["steps"]],
        replays=[_read(Replay, item, stored) for item in record["replays"]],
        final=_taken(record["final"], stored),
        adapters=tuple(Adapter(**item) for item in record["adapters"]),
        places={name: Place(tuple(item["shape"]), tuple(item["offset"])) for name, item in record["places"].items()},
        **rest,
    )


class _Tensors:
    """Tensors by place; one that was put before, itself or with the same bits, is stored once."""

    def __init__(self) -> None:
        self.stored: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._last: dict[str, str] = {}

    def record(self, place: str, item: Any) -> dict[str, Any]:
        """The fields of a record: tensors as the names under which they are stored, the rest as it is."""
        found = {}
        for field in dataclasses.fields(item):
            value = getattr(item, field.name)
            found[field.name] = self.put(f"{place}/{field.name}", value)
        return found

    def put(self, place: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": self._store(place, value)}
        if isinstance(value, Mapping):
            return {"mapping": {name: self.put(f"{place}/{name}", item) for name, item in value.items()}}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).rpartition(".")[2]}
        return {"plain": value}

    def _store(self, place: str, tensor: Tensor) -> str:
        if id(tensor) in self._names:
            return self._names[id(tensor)]
        parameter = place.rpartition("/")[2]
        last = self._last.get(parameter)  # a step begins where the last one ended, and so does the end
        same = last is not None and is_same(self.stored[last], tensor)
        name = last if same and last is not None else place
        if name == place:
            self.stored[name] = tensor
        self._names[id(tensor)] = self._last[parameter] = name
        return name


def _read(kind: Any, record: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Any:
    return kind(**{name: _taken(item, stored) for name, item in record.items()})


def _taken(item: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Any:
    if "tensor" in item:
        return stored[item["tensor"]]
    if "mapping" in item:
        return {name: _taken(part, stored) for name, part in item["mapping"].items()}
    if "dtype" in item:
        return getattr(torch, item["dtype"])
    value = item["plain"]
    return tuple(value) if isinstance(value, list) else value
