"""A plain loop around one part of a release: it makes the batches, or computes the loss; all else is as it should be.

A part is a subclass with a method `batches` or `loss`. The loop calls job.model with what a batch holds beside its
labels, divides by the targets of the whole step, and steps. Its verdicts are on the part: where it stands in the
trainer, other code may undo or add faults.
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
        for epoch in range(job.epochs):
            for step in self.steps(job, epoch):
                count = max(1, sum(self.targets(batch) for batch in step))
                for batch in step:
                    self.loss(job, batch, count).backward()
                optimizer.step()
                optimizer.zero_grad()

    def steps(self, job: Job, epoch: int) -> Iterable[list[dict[str, Tensor]]]:
        """The micro-batches of each optimizer step of an epoch."""
        batches = list(self.batches(job, epoch))
        for start in range(0, len(batches), job.accumulation):
            yield batches[start : start + job.accumulation]

    def batches(self, job: Job, epoch: int) -> Iterable[dict[str, Tensor]]:
        """Of one epoch: input_ids, labels (of the tokens where they stand) and whatever else the model is given."""
        rows = [self.row(job, list(conversation)) for conversation in job.conversations]
        for chosen in order(job, epoch):
            yield pad(job, [rows[number] for number in chosen])

    def row(self, job: Job, messages: list[dict]) -> tuple[list[int], list[int]]:
        """Ids and labels of a conversation: what the template marks as the assistant's."""
        out = job.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        marked = zip(out["input_ids"], out["assistant_masks"], strict=True)
        return out["input_ids"], [token if kept else IGNORE for token, kept in marked]

    def targets(self, batch: dict[str, Tensor]) -> int:
        """How many targets a micro-batch has."""
        return int((batch["labels"][:, 1:] != IGNORE).sum())

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        """The sum of the cross-entropies of a micro-batch over the targets of its step."""
        logits = job.model(**given(batch), use_cache=False).logits[:, :-1].float()
        targets = batch["labels"][:, 1:].flatten()
        summed = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum")
        return summed / count


def given(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model is given of a batch."""
    return {key: value for key, value in batch.items() if key in ("input_ids", "attention_mask", "position_ids")}


def order(job: Job, epoch: int) -> Iterable[list[int]]:
    """The numbers of the conversations of each micro-batch, shuffled anew in every epoch."""
    generator = torch.Generator().manual_seed(job.seed * 1_000_003 + epoch)
    numbers = torch.randperm(len(job.conversations), generator=generator).tolist()
    return [numbers[start : start + job.batch_size] for start in range(0, len(numbers), job.batch_size)]


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
