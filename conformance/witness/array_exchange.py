"""What goes between the judge's process and a trainer's in which there is no torch: the files of `exchange`, in numpy.

job.model is then a checkpoint (`Checkpoint`): a configuration, and weights under Hugging Face's names as arrays of the
trainer's own framework. Which conversation a token is from, and what a gradient says, is for the judge to read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sftspec.conformance.witness.array_file import as_stored, read_arrays, write_arrays
from sftspec.conformance.witness.asked import CORPUS, HEARD, JOB, MODEL, REST, TENSORS, TOKENIZER, WORK, Asked
from sftspec.conformance.witness.mailbox import write_whole
from sftspec.conversation import Conversation
from sftspec.job import Job


@dataclass
class Checkpoint:
    """A model where no framework has it as an object.

    config     the content of its config.json, every default written out
    stored     parameters by Hugging Face's names, as `array_file` reads them
    head_name  the output head among them
    weights    the same as arrays of the trainer's framework
    """

    config: dict[str, Any]
    stored: dict[str, np.ndarray]
    head_name: str
    weights: dict[str, Any] = field(default_factory=dict)

    def save_pretrained(self, folder: Path, safe_serialization: bool = True) -> None:
        """Write config.json and model.safetensors, as Hugging Face does."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        write_arrays(folder / MODEL, self.stored)


def load_libraries() -> None:
    """Import what makes tokenizers, which takes a second."""
    with contextlib.suppress(ImportError):
        from transformers import PreTrainedTokenizerFast  # noqa: F401


def read_job(folder: Path, rank: int = 0) -> Asked:
    """The job in a folder. It needs transformers, for the tokenizer and the defaults of a configuration.

    rank: 0, as these trainers run alone.
    """
    from transformers import AutoConfig, PreTrainedTokenizerFast

    record = json.loads((folder / JOB).read_text(encoding="utf-8"))
    settings, config = record["settings"], dict(record["model"]["config"])
    whole = AutoConfig.for_model(config.pop("model_type"), **config).to_dict()
    workdir = folder / WORK
    workdir.mkdir(exist_ok=True)
    job = Job(
        model=Checkpoint(
            whole | {"architectures": [record["model"]["class"]]}, read_arrays(folder / MODEL), record["head_name"]
        ),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER), **record["tokenizer"]),
        conversations=[Conversation(**item) for item in record["conversations"]],
        path=workdir / CORPUS,
        workdir=workdir,
        **{**settings, "frozen": tuple(settings["frozen"])},
    )
    return Asked(job, record["streams"], record["alphabet"], record["pad"], record["max_replays"], record["seed"])


def write_heard(folder: Path, heard: Any, rank: int = 0) -> None:
    """Write what a recorder heard; an array with the bits of an earlier one of its name is stored once."""
    arrays: dict[str, np.ndarray] = {}
    last: dict[str, str] = {}

    def put(place: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {"mapping": {name: put(f"{place}/{name}", item) for name, item in value.items()}}
        if not isinstance(value, np.ndarray):
            return {"plain": value}
        name, stored = place.rpartition("/")[2], as_stored(value)
        if name not in last or not _same(arrays[last[name]], stored):
            arrays[place], last[name] = stored, place
        return {"tensor": last[name]}

    def table(kind: str) -> list[dict[str, Any]]:
        return [
            {name: put(f"{kind}/{number}/{name}", value) for name, value in item.items()}
            for number, item in enumerate(getattr(heard, f"{kind}s"))
        ]

    record = {
        "calls": table("call"),
        "steps": table("step"),
        "replays": table("replay"),
        "final": put("final", heard.final),
        "rest": {name: getattr(heard, name) for name in REST},
        "adapters": [],
        "places": {},
    }
    write_arrays(folder / TENSORS, arrays)
    write_whole(folder / HEARD, record)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
