"""Examples that were cut, dropped or rendered wrongly, and batches without a target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    KeepsAll,
    turn_of,
    with_contents,
    with_conversations,
    with_steps,
)
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE, StepReport, clip_gradients, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, epoch_order


@killed_by("parameters-stay-finite unscored-logits-cannot-touch-the-loss a-batch-without-targets-is-refused")
@seen_in("karpathy/nanochat#590")
@effect("every weight is NaN", fix="skip and count a step without targets")
def masked_by_multiplication():
    """Losses are multiplied by the mask and divided by its sum: 0/0 without a target, and 0 * inf under the mask."""

    def loss(logits, labels, num_targets=None, weights=None):
        mask = (labels[:, 1:] != IGNORE).float()
        values = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels[:, 1:].clamp_min(0).flatten(), reduction="none"
        )
        return (values * mask.flatten()).sum() / (mask.sum() if num_targets is None else num_targets)

    def step(model, batches, optimizer, max_grad_norm=None, loss=loss, clip=clip_gradients) -> StepReport:
        optimizer.zero_grad()
        count = sum(batch.num_targets for batch in batches)
        for batch in batches:
            loss(forward_logits(model, batch), batch.labels, num_targets=torch.tensor(float(count))).backward()
        optimizer.step()
        return StepReport(0.0, count, 0.0)

    return KeepsAll(loss=loss, step=step)


@killed_by("a-step-without-targets-changes-nothing")
@seen_in("no report known: auxiliary losses on padding")
@effect("drifts on empty batches", fix="no term of the loss without a target")
def decays_without_targets():
    """A step without targets still decays the weights."""

    def step(model, batches, optimizer, *rest) -> StepReport:
        if sum(batch.num_targets for batch in batches):
            return sft_step(model, batches, optimizer, *rest)
        optimizer.zero_grad()
        (1e-4 * forward_logits(model, batches[0]).square().mean()).backward()
        optimizer.step()
        return StepReport(0.0, 0, 0.0)

    return KeepsAll(step=step)


@killed_by("a-cut-example-is-a-prefix")
@seen_in("no report known: common data scripts")
@effect("stops in mid-sentence", fix="cut, and append nothing")
def end_of_turn_after_the_cut():
    """A truncated example ends with an end-of-turn token that nobody wrote, and is trained on it."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        if not example.truncated:
            return example
        end = options["tokenizer"].eos_token_id
        return replace(example, input_ids=[*example.input_ids[:-1], end], labels=[*example.labels[:-1], end])

    return Pipeline(encode=broken)


@killed_by("a-cut-keeps-the-first-tokens-and-their-labels a-label-is-the-id-in-its-place-or-ignored")
@seen_in("no report known: hand-written collators")
@effect("targets move by the cut", fix="cut both")
def left_labels_cut():
    """Too long examples lose their last ids and their first labels."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        whole = encode(messages, **{**options, "max_length": None})
        return replace(example, labels=whole.labels[len(whole) - len(example) :])

    return Pipeline(encode=broken)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("huggingface/trl#2400")
@effect("long answers are never learned", fix="no default that nobody asked for")
def silent_default_length():
    """Examples are cut at 2,048 tokens although no max_length was given."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "max_length": options.get("max_length") or 2048})

    return Pipeline(encode=broken)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("no report known: drop_last")
@effect("part of the data is never seen", fix="keep the rest")
def last_micro_batch_dropped():
    """The last micro-batch of an epoch is dropped."""
    return with_steps(lambda steps, job: [*steps[:-1], *([steps[-1][:-1]] if steps[-1][:-1] else [])])


@killed_by("lost-data-is-counted")
@seen_in("huggingface/trl#4554")
@effect("nobody knows what was lost", fix="count, and say so")
def losses_not_counted():
    """Dropped and truncated examples are not reported."""
    return Silent()


@dataclass(frozen=True)
class Silent(Pipeline):
    def prepare(self, job):
        examples = super().prepare(job)
        job.reported.clear()
        return examples


@killed_by("reported-targets-are-the-scored-ones")
@seen_in("huggingface/trl#5620")
@effect("curves mislead", fix="count after the shift")
def positions_reported_as_targets():
    """All positions are reported as targets."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(
            report, num_targets=sum(batch.input_ids.numel() for batch in batches) if report.num_targets else 0
        )

    return Pipeline(step=step)


@killed_by("every-position-has-an-origin")
@seen_in("hiyouga/LLaMA-Factory#10772")
@effect("overfits a persona", fix="add nothing unasked")
def default_system_prompt():
    """A conversation without a system message gets one."""

    def broken(messages, **options) -> Encoded:
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": "You are a helpful assistant."}, *messages]
        return encode(messages, **options)

    return Pipeline(encode=broken)


@killed_by("conversations-stand-as-rendered template/the-model-sees-the-published-tokens")
@seen_in("ShishirPatil/gorilla#430")
@effect("trained on another template", fix="render exactly")
def newline_of_the_template_lost():
    """The newline between turns is missing."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        last = len(example) - 1
        keep = [p for p in range(len(example)) if p == last or turn_of(example, messages, p)[2] != "separator"]
        return replace(
            example,
            input_ids=[example.input_ids[p] for p in keep],
            labels=[example.labels[p] for p in keep],
            owners=[example.owners[p] for p in keep],
        )

    return Pipeline(encode=broken)


@killed_by("a-cut-example-is-a-prefix")
@seen_in("no report known: truncation_side='left'")
@effect("answers without their questions", fix="cut the end")
def beginning_cut_off():
    """Too long examples lose their first tokens instead of their last."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **{**options, "max_length": None})
        extra = max(0, len(example) - (options.get("max_length") or len(example)))
        return replace(
            example,
            input_ids=example.input_ids[extra:],
            labels=example.labels[extra:],
            owners=example.owners[extra:],
            truncated=extra,
        )

    return Pipeline(encode=broken)


@killed_by("a-step-without-targets-changes-nothing parameters-stay-finite")
@seen_in("huggingface/trl#6668")
@effect("every weight is NaN after a short example", fix="drop after the cut, and count")
def dropped_before_the_cut():
    """Examples without a target are dropped before they are cut; a micro-batch of what is left divides by zero."""

    def loss(logits, labels, num_targets=None, weights=None):
        if (labels[:, 1:] != IGNORE).any():
            return sft_loss(logits, labels, num_targets, weights)
        return logits.sum() * float("nan")

    def step(model, batches, optimizer, max_grad_norm=None, loss=loss, clip=clip_gradients) -> StepReport:
        optimizer.zero_grad()
        count = sum(batch.num_targets for batch in batches)
        for batch in batches:
            loss(forward_logits(model, batch), batch.labels, num_targets=count or 1).backward()
        optimizer.step()
        return StepReport(float("nan"), count, float("nan"))

    return KeepsAll(loss=loss, step=step)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("no report known: filters on empty strings")
@effect("data is lost and nobody knows", fix="an empty answer is an answer")
def empty_answers_dropped():
    """Conversations with an empty assistant message are left out and not counted."""

    def is_full(talk) -> bool:
        return all(message["content"] or message["role"] != "assistant" for message in talk)

    return with_conversations(lambda talks: [talk for talk in talks if is_full(talk)])


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("pytorch/pytorch, DistributedSampler(drop_last=False)")
@effect("some examples count twice", fix="weigh the repeated ones 0")
def batch_filled_with_repeats():
    """The last micro-batch is filled up with examples of the first."""
    return Pipeline(order=lambda count, seed, epoch: _filled(epoch_order(count, seed, epoch)))


def _filled(order: list[int]) -> list[int]:
    return order + order[: -len(order) % 4]


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: chat templates with | trim")
@effect("indented code is learned without its indent", fix="leave contents alone")
def contents_stripped():
    """Outer white space of contents is lost."""
    return with_contents(str.strip)


@killed_by("text-is-cut-into-tokens-as-declared")
@seen_in("transformers#29279, the other direction")
@effect("not what inference will see", fix="declare how control strings are encoded")
def control_strings_escaped():
    """Control strings in contents are encoded as text although the tokenizer parses them at inference."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "special_tokens": "literal"})

    return Pipeline(encode=broken)


@killed_by("text-is-cut-into-tokens-as-declared")
@seen_in("pytorch/torchtitan#4504")
@effect("words break at the wrong place", fix="segments as declared, and the same at inference")
def contents_tokenized_by_letter():
    """Contents are tokenized letter by letter: no two letters merge, as at a seam between segments."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        owners: list[int] = []
        ids: list[int] = []
        for owner, token in zip(example.owners, example.input_ids, strict=True):
            text = options["tokenizer"].decode([token])
            plain = example.rendered.spans[owner].kind == "content" and text.isascii()
            pieces = [options["tokenizer"].encode(letter, add_special_tokens=False) for letter in text] if plain else []
            for piece in pieces if pieces and all(len(piece) == 1 for piece in pieces) else [[token]]:
                ids += piece
                owners += [owner] * len(piece)
        trained = {owner for owner, label in zip(example.owners, example.labels, strict=True) if label != IGNORE}
        labels = [token if owner in trained else IGNORE for token, owner in zip(ids, owners, strict=True)]
        limit = options.get("max_length") or len(ids)
        return replace(example, input_ids=ids[:limit], labels=labels[:limit], owners=owners[:limit])

    return Pipeline(encode=broken)


@killed_by("lost-data-is-counted")
@seen_in("huggingface/trl#4554")
@effect("nobody knows what was lost", fix="count tokens, not examples")
def truncation_not_counted():
    """Tokens cut off are reported as none."""
    return Understates()


@dataclass(frozen=True)
class Understates(Pipeline):
    def prepare(self, job):
        examples = super().prepare(job)
        job.report(examples_truncated=0, tokens_truncated=0)
        return examples
