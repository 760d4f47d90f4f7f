"""A trainer of two ranks that is right: `DistributedDataParallel` around a plain loop.

Every part of it can be replaced. The matrix runs its ranks as copies of the judge's process; `sftspec check
sftspec.conformance.sensitivity.mutants.data_parallel:DataParallel --processes 2` starts them as torchrun would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as ranks
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sftspec.collation import Batch, collate
from sftspec.job import Job
from sftspec.masking import IGNORE, encode
from sftspec.step import clip_gradients, count_targets, forward_logits
from sftspec.trainer import make_optimizer


def order(job: Job, epoch: int) -> list[int]:
    """The numbers of the examples in the order of an epoch, the same on every rank."""
    generator = torch.Generator().manual_seed(job.seed * 1_000_003 + epoch)
    return torch.randperm(len(job.conversations), generator=generator).tolist()


def share(job: Job, epoch: int) -> list[int]:
    """Which examples are this rank's in an epoch: the last step is smaller, where they do not come out even."""
    return order(job, epoch)[ranks.get_rank() :: ranks.get_world_size()]


def denominator(targets: int) -> float:
    """By what a sum over targets is divided, so that the average over ranks is that over the targets of all of them."""
    total = torch.tensor(float(targets))
    ranks.all_reduce(total)
    return max(1.0, float(total)) / ranks.get_world_size()


def clip(model: Any, job: Job) -> None:
    if job.max_grad_norm is not None:
        clip_gradients(job.model.parameters(), job.max_grad_norm)


def sharded(model: Any) -> Any:
    """`fully_shard` (FSDP2), in place of DistributedDataParallel."""
    from torch.distributed.fsdp import fully_shard

    for blocks in [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]:
        for block in blocks:
            fully_shard(block)
    return fully_shard(model)


def nothing(model: Any, job: Job) -> None:
    """What a sound trainer does here."""


@dataclass(frozen=True)
class DataParallel:
    """The parts.

    wrap         put around job.model
    begin        before the first step
    share        (job, epoch) -> the numbers of this rank's examples
    denominator  of this rank's targets in a step -> what their sum is divided by
    reduces      (number of a micro-batch in its step, how many there are) -> is the gradient averaged in its backward
    before_step  what is done to the gradient
    after_step   what is done to the parameters
    shown_in     the scenarios in which what is planted is looked for: others show nothing more of ranks
    """

    wrap: Callable[[Any], Any] = DistributedDataParallel
    begin: Callable[[Any, Job], None] = nothing
    share: Callable[[Job, int], list[int]] = share
    denominator: Callable[[int], float] = denominator
    reduces: Callable[[int, int], bool] = lambda number, count: number == count - 1
    before_step: Callable[[Any, Job], None] = clip
    after_step: Callable[[Any, Job], None] = nothing
    processes: int = 2
    shown_in: ClassVar[frozenset[str]] = frozenset({"accumulation", "clipping", "dropout", "ranks, uneven"})
    name: ClassVar[str] = "data parallel"
    claims: ClassVar[frozenset[str]] = frozenset({"padding", "accumulation", "clipping", "processes"})

    def train(self, job: Job) -> None:
        ranks.init_process_group("gloo")
        model, optimizer = self.wrap(job.model), make_optimizer(job)
        self.begin(model, job)
        model.train()
        examples = [
            encode(talk, tokenizer=job.tokenizer, template=job.template, policy=job.policy)
            for talk in job.conversations
        ]
        for epoch in range(job.epochs):
            mine, size = self.share(job, epoch), job.batch_size
            rows = [[examples[index] for index in mine[start : start + size]] for start in range(0, len(mine), size)]
            batches = [collate(row, pad_token_id=job.tokenizer.pad_token_id) for row in rows]
            for start in range(0, len(batches), job.accumulation):
                self.step(model, batches[start : start + job.accumulation], optimizer, job)
        ranks.destroy_process_group()

    def step(self, model: Any, window: list[Batch], optimizer: Any, job: Job) -> None:
        divisor = self.denominator(sum(count_targets(batch.labels) for batch in window))
        for number, batch in enumerate(window):
            model.require_backward_grad_sync = self.reduces(number, len(window))  # what no_sync() sets
            (sum_of_losses(model, batch) / divisor).backward()
        self.before_step(model, job)
        optimizer.step()
        self.after_step(model, job)
        optimizer.zero_grad()


def sum_of_losses(model: Any, batch: Batch) -> Tensor:
    """Nats of all targets of a batch together."""
    logits, targets = forward_logits(model, batch)[:, :-1], batch.labels[:, 1:]
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE)
