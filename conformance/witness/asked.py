"""A job as it was read from a folder, and the names of the files by which it comes and what was heard of it goes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.shadowing import with_hint
from sftspec.conversation import Conversation
from sftspec.job import Job

JOB, MODEL, TOKENIZER = "job.json", "model.safetensors", "tokenizer.json"
HEARD, TENSORS = "heard.json", "heard.safetensors"
CORPUS, WORK = "corpus.jsonl", "work"
# What was heard beside calls, steps, replays and parameters: see `listening.Heard`.
REST = ("unheard", "saved", "unread", "head_name", "reported", "error", "traceback", "accepted", "refused", "ended")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A job as it was read from a folder.

    job          with every conversation, also those that the trainer does not accept
    streams      token ids of each conversation, as the specification encodes it
    alphabet     ids of the tokens that may be changed in a call that is made again
    pad          id with which rows are filled up
    max_replays  how many calls are made again
    seed         of torch, as the trainer begins
    spare        how many of the conversations, the last, only make the batches of several ranks come out even
    """

    job: Job
    streams: list[list[int]]
    alphabet: list[int]
    pad: int | None
    max_replays: int
    seed: int
    spare: int = 0

    def accepted(self, numbers: Sequence[int]) -> tuple[Job, Provenance]:
        """The job with some of its conversations, which also stand in its file, and where their tokens come from."""
        talks = keep(self.job.conversations, numbers)
        job = dataclasses.replace(self.job, conversations=talks)
        if job.path is not None:
            write_corpus(talks, job.path)
        streams = [self.streams[number] for number in numbers]
        return job, Provenance(streams, self.alphabet, self.pad, job.prefix)


def even(numbers: Sequence[int], first: int, whole: int) -> list[int]:
    """Numbers of conversations without those spare ones (from `first` on) that are not needed to make up whole batches
    of all ranks, `whole` conversations each.
    """
    kept = list(numbers)
    while kept and kept[-1] >= first and len(kept) % whole:
        kept.pop()
    return kept


def keep(conversations: Sequence[Conversation], numbers: Sequence[int]) -> list[Conversation]:
    """Some of the conversations, each named by its line in the file that holds these alone."""
    kept = [conversations[number] for number in numbers]
    for line, conversation in enumerate(kept, 1):
        conversation.source = f"{CORPUS}:{line}"
    return kept


def write_corpus(conversations: Sequence[Conversation], path: Path) -> None:
    lines = [json.dumps({"messages": item}, ensure_ascii=False) + "\n" for item in conversations]
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")  # ranks write the same at once
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, path)


def said_by(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"SystemExit: the trainer called sys.exit({error.code!r})"
    try:
        return with_hint(f"{type(error).__name__}: {error}", error)
    except Exception:  # its text is the trainer's code
        return type(error).__name__
