"""A plain loop around one part of a release: it makes the batches, or computes the loss; all else is as it should be.

A part is a subclass with a method `batches` or `loss`. The loop calls job.model with what a batch holds beside its
labels, divides by the targets of the whole step, and steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sftspec.conventions import Conventions
from sftspec.job import Job

IGNORE = -100


@dataclass(frozen=True)
class Loop:
    """package  that the part is of, whose version is on trial"""

    package = ""
    claims = frozenset({"padding", "accumulation", "adamw"})
    conventions = Conventions()
    policy = "all"

    @property
    def name(self) -> str:
        return self.package

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version(self.package)

    def train(self, job: Job) -> None:
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
        optimizer = kind(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
        job.model.train()
        for _ in range(job.epochs):
            batches = list(self.batches(job))
            for start in range(0, len(batches), job.accumulation):
                step = batches[start : start + job.accumulation]
                count = max(1, sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in step))
                for batch in step:
                    self.loss(job, batch, count).backward()
                optimizer.step()
                optimizer.zero_grad()

    def batches(self, job: Job) -> Iterable[dict[str, Tensor]]:
        """Of one epoch: input_ids, labels (of the tokens where they stand) and whatever else the model is given."""
        rows = [encode(job, list(conversation)) for conversation in job.conversations]
        for start in range(0, len(rows), job.batch_size):
            yield pad(job, rows[start : start + job.batch_size])

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        """The sum of the cross-entropies of a micro-batch over the targets of its step."""
        given = {key: value for key, value in batch.items() if key != "labels"}
        logits = job.model(**given, use_cache=False).logits[:, :-1].float()
        targets = batch["labels"][:, 1:].flatten()
        return (
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum")
            / count
        )


def encode(job: Job, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Ids and labels: what the template marks as the assistant's."""
    out = job.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = zip(out["input_ids"], out["assistant_masks"], strict=True)
    return out["input_ids"], [token if kept else IGNORE for token, kept in marked]


def pad(job: Job, rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Rows filled up on the right."""
    width = max(len(ids) for ids, _ in rows)

    def fill(lists: Iterable[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (width - len(row)) for row in lists])

    return {
        "input_ids": fill((ids for ids, _ in rows), job.tokenizer.pad_token_id),
        "attention_mask": fill(([1] * len(ids) for ids, _ in rows), 0),
        "labels": fill((labels for _, labels in rows), IGNORE),
    }


def asks_and_answers(conversation: list[Any]) -> bool:
    """A system message or none, then users and assistants in turn, the assistant last."""
    roles = [message["role"] for message in conversation]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    plain = all(set(message) <= {"role", "content"} for message in conversation)
    return plain and bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)
