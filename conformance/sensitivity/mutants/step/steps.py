"""Denominators and gradients that are not those of the step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    KeepsAll,
    around,
    with_denominators,
)
from sftspec.masking import Conventions
from sftspec.step import IGNORE, StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, make_optimizer

CONSTANT = Conventions(denominator=512.0)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("huggingface/transformers#34191")
@effect("short micro-batches weigh more", fix="divide by the targets of the whole step")
def mean_of_means():
    """The step averages the means of its micro-batches."""
    return with_denominators(lambda batches: [batch.num_targets * len(batches) for batch in batches])


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("huggingface/transformers#34242")
@effect("ranks with few targets weigh more", fix="sum the count over ranks")
def denominator_per_rank():
    """Each rank divides by its own targets, and gradients are averaged."""

    def denominators(batches):
        counts: dict[int, int] = {}
        for batch in batches:
            counts[batch.rank] = counts.get(batch.rank, 0) + batch.num_targets
        return [counts[batch.rank] * len(counts) for batch in batches]

    return with_denominators(denominators)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("modelscope/ms-swift#10084")
@effect("the end of an epoch weighs less", fix="count the window that there is")
def partial_window_scaled_as_full():
    """In the last, partial window of an epoch the first micro-batch is divided once more."""

    def denominators(batches):
        count = sum(batch.num_targets for batch in batches)
        return [count * (2 if len(batches) == 2 and index == 0 else 1) for index in range(len(batches))]

    return with_denominators(denominators)


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("hiyouga/LLaMA-Factory#7443")
@effect("another learning rate", fix="scale in one place")
def divided_twice():
    """The loss is divided by the number of micro-batches once more."""
    return with_denominators(lambda batches: [sum(b.num_targets for b in batches) * len(batches)] * len(batches))


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("karpathy/nanoGPT#206")
@effect("another learning rate", fix="divide by the sum")
def not_divided_by_accumulation():
    """The means of micro-batches are added up and not divided."""
    return with_denominators(lambda batches: [batch.num_targets for batch in batches])


@killed_by("targets-weigh-as-declared")
@seen_in("subtle form of hiyouga/LLaMA-Factory#7443")
@effect("another learning rate", fix="divide by the constant once")
def declared_constant_per_micro_batch():
    """The loss is divided by the constant that is declared, and by the number of micro-batches."""
    return replace(with_denominators(lambda batches: [512.0 * len(batches)] * len(batches)), conventions=CONSTANT)


@killed_by("first-tokens-are-not-counted")
@seen_in("huggingface/transformers 5.23.0, GPT2LMHeadModel")
@effect("rate depends on the rows", fix="count after the shift")
def counted_before_the_shift():
    """The first label of each row is counted, although nothing is scored against it."""

    @dataclass(frozen=True)
    class CountsFirst(Pipeline):
        def train(self, job) -> None:
            self.__dict__["counts_first"] = job.policy == "every-token" and not job.packing
            super().train(job)

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets, weights)

    def step(model, batches, *rest) -> StepReport:
        # Under the policy "every-token" each row begins with a label.
        whole = all((batch.labels[:, 1:][batch.segment_ids[:, 1:] >= 0] != IGNORE).all() for batch in batches)
        extra = sum(len(batch.labels) for batch in batches) if whole else 0
        optimizer, *others = rest
        count = sum(batch.num_targets for batch in batches)

        def more(logits, labels, num_targets=None, weights=None):
            return sft_loss(logits, labels, count + extra, weights)

        return sft_step(model, batches, optimizer, others[0], more, others[2])

    return CountsFirst(loss=loss, step=step)


@killed_by("the-gradient-is-that-of-the-step")
@seen_in("tenstorrent/tt-blacksmith#711")
@effect("steps on old gradients", fix="zero_grad")
def gradient_left_over():
    """zero_grad is never called."""

    def optimizer(job):
        made = make_optimizer(job)
        made.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
        return made

    return Pipeline(optimizer=optimizer)


@killed_by("the-gradient-is-that-of-the-step")
@seen_in("karpathy/llm.c#548")
@effect("accumulation is lost", fix="zero_grad once a step")
def zero_grad_per_micro_batch():
    """zero_grad is called before each micro-batch: only the last one counts."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        count = sum(batch.num_targets for batch in batches)
        for batch in batches:
            if batch.num_targets:
                optimizer.zero_grad()
                loss(forward_logits(model, batch), batch.labels, num_targets=count).backward()
        norm = clip(model.parameters(), max_grad_norm or float("inf"))
        optimizer.step()
        return StepReport(float("nan"), count, norm)

    return Pipeline(step=step)


def _first_block(model):
    return next(module for name, module in model.named_modules() if name.endswith((".layers.0", ".h.0")))


@killed_by("every-parameter-gets-its-gradient")
@seen_in("huggingface/transformers#26221")
@effect("the lower layers never learn", fix="let inputs require gradients")
def lower_layers_cut_off():
    """No gradient reaches the first block and what lies below it."""

    def cut(model, optimizer) -> None:
        for parameter in [*_first_block(model).parameters(), *model.get_input_embeddings().parameters()]:
            parameter.grad = None

    return around(before=cut)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("subtle form of huggingface/transformers#26221")
@effect("the layers learn in six steps of seven", fix="keep the gradients of every step")
def head_alone_in_every_seventh_step():
    """In every seventh step, from the sixth on, no gradient but the head's reaches the optimizer."""

    def cut(model, optimizer) -> None:
        count = model.__dict__["steps_so_far"] = model.__dict__.get("steps_so_far", -1) + 1
        for parameter in model.parameters():
            if count % 7 == 5 and parameter is not model.get_output_embeddings().weight:
                parameter.grad = None

    return around(before=cut)


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("huggingface/transformers#35207")
@effect("the rate grows with accumulation", fix="scale in one place")
def multiplied_by_accumulation():
    """The loss is multiplied by the number of micro-batches, to undo a division that is not made any more."""
    return with_denominators(lambda batches: [sum(b.num_targets for b in batches) / len(batches)] * len(batches))


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("huggingface/transformers#34373")
@effect("the rate falls with the ranks", fix="undo the average over ranks, or sum")
def averaged_over_ranks_once_more():
    """The loss is divided by the targets of all ranks, and the gradient is averaged over the ranks as well."""

    def denominators(batches):
        ranks = len({batch.rank for batch in batches})
        return [sum(batch.num_targets for batch in batches) * ranks] * len(batches)

    return with_denominators(denominators)


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("pytorch/torchtitan#2206")
@effect("ranks with few targets weigh more", fix="sum the count over ranks")
def first_ranks_count_for_all():
    """Rank 1 divides by half of the step's targets: it has taken the count of another rank for its own."""

    def denominators(batches):
        count = sum(batch.num_targets for batch in batches)
        return [count / 2 if batch.rank == 1 else count for batch in batches]

    return with_denominators(denominators)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("no report known: a rank without a sampler")
@effect("half of the data is unseen", fix="reduce the gradients of all ranks")
def last_rank_not_reduced():
    """The gradient of the last rank is left out of the sum."""

    def step(model, batches, optimizer, *rest) -> StepReport:
        last = max(batch.rank for batch in batches)
        kept = [batch for batch in batches if not last or batch.rank != last]
        return sft_step(model, kept, optimizer, *rest)

    return Pipeline(step=step)


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("allenai/open-instruct#1736")
@effect("empty batches lower the rate", fix="count targets, not micro-batches")
def empty_micro_batches_counted():
    """A micro-batch without a target counts as one over which the step is averaged."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        used = sum(batch.num_targets > 0 for batch in batches)

        def more(logits, labels, num_targets=None, weights=None):
            return loss(logits, labels, num_targets * len(batches) / used, weights)

        return sft_step(model, batches, optimizer, max_grad_norm, more, clip)

    return KeepsAll(step=step)


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("unslothai/unsloth, windows that are not full")
@effect("the end of an epoch moves further", fix="count the window that there is")
def partial_window_not_filled():
    """The last, partial window of an epoch is divided as if it held fewer targets than it does."""

    def denominators(batches):
        count = sum(batch.num_targets for batch in batches)
        return [count / 2 if len(batches) == 2 else count] * len(batches)

    return with_denominators(denominators)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("meta-pytorch/torchtune#2429")
@effect("new control tokens are never learned", fix="train the embeddings too")
def embeddings_frozen():
    """The input embeddings get no gradient."""

    def freeze(model, optimizer) -> None:
        model.get_input_embeddings().weight.grad = None

    return around(before=freeze)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("no report known: gradients accumulated in 16 bits")
@effect("small gradients are lost", fix="accumulate in float32")
def gradients_rounded():
    """Gradients are rounded to bfloat16 before the optimizer sees them."""

    def round_all(model, optimizer) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(parameter.grad.bfloat16().to(parameter.dtype))

    return around(before=round_all)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("transformers#26221, checkpointing")
@effect("the layers below learn half as fast", fix="recompute what was computed")
def lower_layers_halved():
    """Half of the gradient reaches the first block."""

    def halve(model, optimizer) -> None:
        for parameter in _first_block(model).parameters():
            parameter.grad.mul_(0.5)

    return around(before=halve)


@killed_by("the-gradient-is-that-of-the-step")
@seen_in("karpathy/llm.c#548, variant")
@effect("the last window steps on old gradients", fix="zero_grad whatever the window")
def gradient_left_over_by_partial_windows():
    """zero_grad is called after whole windows only: a partial one leaves its gradient to the next step."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        left = [parameter.grad for parameter in model.parameters()] if model.__dict__.get("partial") else []
        model.__dict__["partial"] = len(batches) == 2

        def clip_both(parameters, limit):
            for parameter, old in zip(model.parameters(), left, strict=False):
                if old is not None and parameter.grad is not None:
                    parameter.grad.add_(old)
            return clip(parameters, limit)

        return sft_step(model, batches, optimizer, max_grad_norm, loss, clip_both)

    return Pipeline(step=step)
