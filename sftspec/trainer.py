"""The whole pipeline: encode, drop and count, pack, collate, step. It is the reference and itself a Trainer.

Every stage is a field, so that a part of somebody's trainer is a trainer whose other parts are ours:

    Pipeline(pack=their_packer)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch

from sftspec.attention import NAME as PACKED_ATTENTION
from sftspec.collation import Batch, collate
from sftspec.counted import counted
from sftspec.job import Job
from sftspec.masking import Conventions, Encoded, encode
from sftspec.masters import MasterAdamW
from sftspec.packing import pack
from sftspec.step import StepReport, clip_gradients, forward_logits, in_eval_mode, sft_loss, sft_step


class Trainer(Protocol):
    """Whatever trains: `train` and nothing else is needed.

    What a trainer may say of itself beside it, as attributes: `name`, `version`, `setting` (a dict), `claims` (the
    capabilities it has, see sftspec.conformance.trial.scenarios) and `conventions`.
    """

    def train(self, job: Job) -> None:
        """Train job.model in place on job.conversations, as the job says."""


class NoExampleError(ValueError):
    """Every conversation was dropped: there is nothing to train on."""


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation that depends on the seed and the epoch alone: the same after a resume, another in each epoch.

    >>> sorted(epoch_order(5, seed=0, epoch=1))
    [0, 1, 2, 3, 4]
    >>> epoch_order(5, seed=0, epoch=1) == epoch_order(5, seed=0, epoch=1)
    True
    """
    # ST-EPOCH, ST-DET: of seed and epoch alone, so that a resumed run needs no state for it.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def make_optimizer(job: Job) -> torch.optim.Optimizer:
    """SGD without momentum, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), which runs on float32
    copies of weights of 16 bits.

    >>> from types import SimpleNamespace
    >>> job = SimpleNamespace(model=torch.nn.Linear(1, 1), optimizer="sgd", learning_rate=0.1)
    >>> type(make_optimizer(job)).__name__
    'SGD'
    """
    parameters = [parameter for parameter in job.model.parameters() if parameter.requires_grad]
    if job.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=job.learning_rate)
    if job.optimizer == "adamw" and any(parameter.element_size() == 2 for parameter in parameters):
        return MasterAdamW(parameters, lr=job.learning_rate, weight_decay=job.weight_decay)
    if job.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=job.learning_rate, weight_decay=job.weight_decay)
    raise ValueError(f"unknown optimizer {job.optimizer!r}; known: sgd, adamw")


def interrupt(
    job: Job, optimizer: torch.optim.Optimizer, rebuild: Callable[[Job], torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """Save parameters, optimizer and random state; lose them all; load them into a new optimizer.

    The order of the data needs no state: it is a function of seed and epoch.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from types import SimpleNamespace
    >>> job = SimpleNamespace(model=torch.nn.Linear(1, 1), optimizer="sgd", learning_rate=0.1)
    >>> before = job.model.weight.detach().clone()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     job.workdir = Path(folder)
    ...     optimizer = interrupt(job, make_optimizer(job), make_optimizer)
    >>> torch.equal(job.model.weight, before)
    True
    """
    path = job.workdir / f"checkpoint-{os.environ.get('RANK', 0)}.pt"  # each rank has a random state of its own
    state = {"model": job.model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    torch.save(state, path)
    with torch.no_grad():
        for parameter in job.model.parameters():
            parameter.zero_()
    torch.manual_seed(0)
    saved = torch.load(path, weights_only=True)
    job.model.load_state_dict(saved["model"])
    optimizer = rebuild(job)
    optimizer.load_state_dict(saved["optimizer"])
    # ST-RESUME: the random state too, or dropout draws other masks than without the stop.
    torch.set_rng_state(saved["rng"])
    return optimizer


def process_group(job: Job) -> Any:
    """The group of the job's ranks, where each is a process that torchrun's variables tell of; None where they are
    simulated in this one.

    >>> from types import SimpleNamespace
    >>> process_group(SimpleNamespace(world_size=1)) is None
    True
    """
    if job.world_size == 1 or os.environ.get("WORLD_SIZE") != str(job.world_size):
        return None
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo" if job.model.device.type == "cpu" else "nccl")
    return torch.distributed.group.WORLD


@dataclass(frozen=True)
class Pipeline:
    """The reference trainer.

    encode, order, pack, collate, loss, clip, optimizer, step, resume  the stages
    conventions   which tokens of a trained turn are targets
    on_no_target  an example without a target: "drop" it and count it, or "raise"
    """

    encode: Callable[..., Encoded] = encode
    order: Callable[[int, int, int], list[int]] = epoch_order
    pack: Callable[..., Any] = pack
    collate: Callable[..., Batch] = collate
    loss: Callable[..., torch.Tensor] = sft_loss
    clip: Callable[..., float] = clip_gradients
    optimizer: Callable[[Job], torch.optim.Optimizer] = make_optimizer
    step: Callable[..., StepReport] = sft_step
    resume: Callable[..., torch.optim.Optimizer] = interrupt
    conventions: Conventions = field(default_factory=Conventions)
    on_no_target: str = "drop"
    name: str = "reference"
    version: str = ""
    claims: ClassVar[frozenset[str]] = frozenset(
        {
            "padding",
            "packing",
            "accumulation",
            "ranks",
            "truncation",
            "left-truncation",
            "clipping",
            "adamw",
            "frozen",
            "bf16",
            "resume",
            "policy",
            "train-flag",
            "chat-template",
            "autocast",
        }
        | {"report", "log"}
    )

    def train(self, job: Job) -> None:
        """Train job.model in place; report losses, gradient norms and every count of lost data through job.report."""
        examples = self.prepare(job)
        optimizer, group = self.optimizer(job), process_group(job)
        # ST-EVAL: dropout is on again, whatever came before.
        job.model.train()
        if job.packing and not job.attention:
            job.model.set_attn_implementation(PACKED_ATTENTION)
        reports: list[StepReport] = []
        for number, batches in enumerate(self.batches(job, examples)):
            if number == job.resume_at:
                optimizer = self.resume(job, optimizer, self.optimizer)
            asked: dict[str, Any] = {"autocast": job.autocast} if job.autocast else {}
            if group is not None:
                batches = [batch for batch in batches if batch.rank == torch.distributed.get_rank(group)]
                asked["group"] = group
            given = (job.model, batches, optimizer, job.max_grad_norm, self.loss, self.clip)
            reports.append(self.step(*given, **asked))
        job.report(
            losses=[report.loss for report in reports],
            grad_norms=[report.grad_norm for report in reports],
            num_targets=[report.num_targets for report in reports],
            steps_skipped=sum(report.skipped for report in reports),
        )

    def prepare(self, job: Job) -> list[Encoded]:
        """Encode and cut every conversation; drop, and count, those that keep no target."""
        left = {} if job.truncation_side == "right" else {"truncation_side": job.truncation_side}
        encoded = [
            self.encode(
                conversation,
                template=job.template,
                tokenizer=job.tokenizer,
                special_tokens=self.conventions.special_tokens,
                tokenization=self.conventions.tokenization,
                max_length=job.max_length,
                policy=job.policy,
                conventions=self.conventions,
                **left,
            )
            for conversation in job.conversations
        ]
        # MK-TRUNCDROP: what has no target left is dropped and counted, or refused.
        without = [index for index, example in enumerate(encoded) if example.num_targets == 0]
        if without and self.on_no_target == "raise":
            source = getattr(job.conversations[without[0]], "source", "") or f"conversation {without[0]}"
            raise NoExampleError(
                f"{source} has no target after cutting to max_length {job.max_length} (policy {job.policy!r}); "
                f"{len(without)} of {len(encoded)} have none: raise max_length, or drop them"
            )
        job.report(
            examples_dropped=len(without),
            examples_truncated=sum(example.truncated > 0 for example in encoded),
            tokens_truncated=sum(example.truncated for example in encoded),
        )
        kept = [example for index, example in enumerate(encoded) if index not in set(without)]
        if not kept:
            raise NoExampleError(f"none of {counted(len(encoded), 'conversation')} has a target: nothing to train on")
        return kept

    def batches(self, job: Job, examples: list[Encoded]) -> Iterator[list[Batch]]:
        """The micro-batches of each optimizer step, ranks one after another, over all epochs."""
        pad = job.tokenizer.pad_token_id
        for epoch in range(job.epochs):
            order = self.order(len(examples), job.seed, epoch)
            if job.packing:
                lengths = [len(examples[index]) for index in order]
                bins = [[order[item] for item in items] for items in self.pack(lengths, job.max_length)]
                rows = [bins[index] for index in self.order(len(bins), job.seed, epoch)]
            else:
                rows = [[index] for index in order]
            micro = list(_chunks(rows, job.batch_size))
            # The last step of an epoch may have fewer: nothing is dropped, nothing waits for the next epoch.
            for step in _chunks(micro, job.accumulation * job.world_size):
                yield [
                    replace(
                        self.collate(examples, bins, pad_token_id=pad)
                        if job.packing
                        else self.collate([examples[index] for (index,) in bins], pad_token_id=pad),
                        rank=number % job.world_size,
                    ).to(job.device)
                    for number, bins in enumerate(step)
                ]

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module, batches: Sequence[Batch]) -> float:
        """Nats per target over all batches together: the same number however they were cut. Changes nothing."""
        total = sum(batch.num_targets for batch in batches)
        with in_eval_mode(model):
            return sum(
                float(self.loss(forward_logits(model, batch), batch.labels, num_targets=total))
                for batch in batches
                if batch.num_targets
            )


def _chunks(items: Sequence, size: int) -> Iterator[list]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
