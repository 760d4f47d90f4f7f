"""Ways to break the reference: each gives a Pipeline with one stage replaced, and leaves the rest alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sftspec.collation import Batch, collate
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE, StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline


def relabelled(change: Callable[[Encoded, list[dict]], list[int]]) -> Pipeline:
    """The reference with other labels: change(example, messages) -> labels."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        return replace(example, labels=change(example, messages))

    return Pipeline(encode=broken)


def turn_of(example: Encoded, messages: list[dict], position: int) -> tuple[int, str, str]:
    """(message, role, kind of span) of a token."""
    span = example.rendered.spans[example.owners[position]]
    return span.message, messages[span.message]["role"] if span.message >= 0 else "", span.kind


def masked_where(condition: Callable[[Encoded, list[dict], int], bool]) -> Pipeline:
    """The reference without the labels for which condition(example, messages, position) holds."""
    return relabelled(
        lambda example, messages: [
            IGNORE if condition(example, messages, position) else label for position, label in enumerate(example.labels)
        ]
    )


def trained_where(condition: Callable[[Encoded, list[dict], int], bool]) -> Pipeline:
    """The reference with labels also where condition(example, messages, position) holds."""
    return relabelled(
        lambda example, messages: [
            token if condition(example, messages, position) else label
            for position, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True))
        ]
    )


@dataclass(frozen=True)
class KeepsAll(Pipeline):
    """Examples without targets are not dropped, so that they reach the step."""

    def prepare(self, job):
        examples = [
            self.encode(
                conversation,
                template=job.template,
                tokenizer=job.tokenizer,
                max_length=job.max_length,
                policy=job.policy,
                conventions=self.conventions,
            )
            for conversation in job.conversations
        ]
        job.report(examples_dropped=0, tokens_truncated=sum(example.truncated for example in examples))
        return examples


def prepared(change: Callable[[list[Encoded], Any], list[Encoded]]) -> Pipeline:
    """The reference with other examples: change(examples, job), after all was encoded, cut and counted."""

    @dataclass(frozen=True)
    class Prepared(Pipeline):
        def prepare(self, job):
            return change(super().prepare(job), job)

    return Prepared()


def with_steps(change: Callable[[list[list[Batch]], Any], list[list[Batch]]]) -> Pipeline:
    """The reference with other micro-batches in its optimizer steps, or other steps: change(steps, job)."""

    @dataclass(frozen=True)
    class Changes(Pipeline):
        def batches(self, job, examples):
            yield from change(list(super().batches(job, examples)), job)

    return Changes()


def resumed_with(rest: Callable[[list[list[Batch]], Any], list[list[Batch]]]) -> Pipeline:
    """The reference that goes on with other steps after a resume: rest(all steps, job)."""
    return with_steps(
        lambda steps, job: steps if job.resume_at is None else [*steps[: job.resume_at], *rest(steps, job)]
    )


def with_job(change: Callable[[Any], Any]) -> Pipeline:
    """The reference on another job: change(job)."""

    @dataclass(frozen=True)
    class Other(Pipeline):
        def train(self, job):
            super().train(change(job))

    return Other()


def before_training(act: Callable[[Any], Any]) -> Pipeline:
    """The reference that does something to its job before it trains: act(job)."""

    @dataclass(frozen=True)
    class Acts(Pipeline):
        def train(self, job):
            act(job)
            super().train(job)

    return Acts()


def with_conversations(choose: Callable[[list], list]) -> Pipeline:
    """The reference on other conversations of the corpus: choose(conversations)."""

    @dataclass(frozen=True)
    class Chooses(Pipeline):
        def prepare(self, job):
            return super().prepare(replace(job, conversations=choose(job.conversations)))

    return Chooses()


def with_messages(change: Callable[[list], list]) -> Pipeline:
    """The reference with other messages: change(messages)."""

    def broken(messages, **options) -> Encoded:
        return encode(change(messages), **options)

    return Pipeline(encode=broken)


def with_contents(change: Callable[[str], str], role: str = "") -> Pipeline:
    """The reference with other contents, of one role or of all: change(content)."""
    return with_messages(
        lambda messages: [
            {**item, "content": change(item["content"])} if role in ("", item["role"]) else item for item in messages
        ]
    )


def before_each_step(act: Callable[[torch.nn.Module], Any]) -> Pipeline:
    """The reference that does something to its model before each step: act(model)."""

    def step(model, *given, **named) -> StepReport:
        act(model)
        return sft_step(model, *given, **named)

    return Pipeline(step=step)


def collated(change: Callable[[Batch], Batch], packed_only: bool = True) -> Pipeline:
    """The reference with other batches: change(batch)."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return batch if packed_only and bins is None else change(batch)

    return Pipeline(collate=broken)


@dataclass(frozen=True, eq=False)
class OtherInputs(Batch):
    """A batch that hands the model other arguments."""

    make_inputs: Callable[[Batch], dict] | None = None

    def model_inputs(self) -> dict[str, Tensor]:
        assert self.make_inputs is not None
        return self.make_inputs(self)


def with_inputs(make_inputs: Callable[[Batch], dict], packed_only: bool = True) -> Pipeline:
    """The reference with other arguments to the model: make_inputs(batch)."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if packed_only and bins is None:
            return batch
        return OtherInputs(**{item.name: getattr(batch, item.name) for item in fields(Batch)}, make_inputs=make_inputs)

    return AnyAttention(collate=broken)


class AnyAttention(Pipeline):
    """Packed rows run on the model's own attention, as trainers without a packed one do."""

    def train(self, job) -> None:
        chosen = job.model.config._attn_implementation
        job.model.set_attn_implementation = lambda name: None
        job.model.config._attn_implementation = chosen
        super().train(job)


def additive(allowed: Tensor) -> Tensor:
    """A (B, 1, T, T) bool mask as the float mask that every attention of transformers takes."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def causal(batch: Batch) -> Tensor:
    rows, columns = batch.input_ids.shape
    return torch.ones(rows, 1, columns, columns, dtype=torch.bool).tril()


def with_denominators(denominators: Callable[[list], list[float]]) -> Pipeline:
    """The reference with its own denominator for each micro-batch's summed loss: denominators(batches)."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        used = [batch for batch in batches if batch.num_targets]
        optimizer.zero_grad()
        total = 0.0
        for batch, denominator in zip(used, denominators(used), strict=True):
            part = loss(forward_logits(model, batch), batch.labels, num_targets=denominator)
            part.backward()
            total += float(part.detach())
        norm = clip(model.parameters(), max_grad_norm or float("inf"))
        optimizer.step()
        return StepReport(total, sum(batch.num_targets for batch in used), norm)

    return Pipeline(step=step)


def around(
    before: Callable = lambda model, optimizer: None, after: Callable = lambda model, optimizer: None
) -> Pipeline:
    """The reference step with something done to the gradients (before the optimizer) or parameters (after it)."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        def clip_then(parameters, limit):
            norm = clip(parameters, limit)
            before(model, optimizer)
            return norm

        report = sft_step(model, batches, optimizer, max_grad_norm, loss, clip_then)
        with torch.no_grad():
            after(model, optimizer)
        return report

    return Pipeline(step=step)
