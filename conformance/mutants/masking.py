"""Masks and labels that went wrong on the way to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sftspec.collation import Batch, collate
from sftspec.conformance.mutants import mutant
from sftspec.masking import Conventions, Encoded, encode
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


@mutant("nothing-else-is-trained targets-spell-the-assistants-turns", "karpathy/nanochat#582",
        "learns to write the user's turn", "keep the mask that render returns")  # fmt: skip
def mask_dropped():
    """Every token is trained."""
    return trained_where(lambda example, messages, position: True)


@mutant("nothing-else-is-trained", "PrimeIntellect-ai/prime-rl#978", "invents tool results", "mask role tool as well")
def tool_results_trained():
    """What a tool returned is trained as if the assistant had written it."""
    return trained_where(lambda example, messages, position: turn_of(example, messages, position)[1] == "tool")


@mutant("nothing-else-is-trained", "maxtext#3284", "wastes targets on headers", "measure the prompt with its header")
def header_trained():
    """The assistant's header is trained."""
    return trained_where(lambda e, m, position: turn_of(e, m, position)[1:] == ("assistant", "header"))


@mutant("nothing-else-is-trained", "soft masks", "prompts are trained at a small weight", "use exact zeros")
def mask_is_soft():
    """Masked positions are scored at a weight of 1e-6 instead of 0."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        return value + 1e-6 * torch.logsumexp(logits[:, :-1].float(), -1).mean()

    return Pipeline(loss=loss)


@mutant("everything-chosen-is-trained", "modelscope/ms-swift#7838", "half the supervision is lost", "train every turn")
def only_the_last_turn():
    """Only the last assistant turn is trained although all are to be."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "policy": "last" if options["policy"] == "all" else options["policy"]})

    return Pipeline(encode=broken)


@mutant("everything-chosen-is-trained", "lm-sys/FastChat#2494", "later answers lose tokens", "do not recompute lengths")
def third_turn_lost():
    """The third assistant turn of a conversation is masked."""

    def third(example, messages, position) -> bool:
        message, role, _ = turn_of(example, messages, position)
        return role == "assistant" and sum(item["role"] == "assistant" for item in messages[:message]) == 2

    return masked_where(third)


@mutant("first-token-of-an-answer-is-trained", "volcengine/verl#3287", "answers start badly", "shift the mask as well")
def first_answer_token_lost():
    """The first token of each answer is masked: the mask was not shifted with the labels."""
    return masked_where(lambda e, m, p: p > 0 and e.labels[p] != IGNORE and e.labels[p - 1] == IGNORE)


@mutant("end-of-turn-is-trained targets-spell-the-assistants-turns", "axolotl-ai-cloud/axolotl#3754",
        "never stops", "find the end by the template, not by eos_token_id")  # fmt: skip
def end_of_turn_masked():
    """The end-of-turn token is no target."""
    return masked_where(lambda e, m, position: turn_of(e, m, position)[2] == "end_of_turn")


@mutant("end-of-turn-is-trained", "huggingface/trl#976", "never stops", "mask padding by position, not by id")
def pads_masked_by_id():
    """Labels are ignored wherever the id is the pad's, which is the end-of-turn's in many set-ups."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=batch.labels.masked_fill(batch.input_ids == pad_token_id, IGNORE))

    return Pipeline(collate=broken)


@mutant("end-of-turn-is-trained", "variant of axolotl#3754", "does not stop after long answers", "no special cases")
def end_of_last_turn_masked():
    """Only the last end-of-turn token of a conversation of several turns is no target."""

    def last(example, messages, position) -> bool:
        message, _, kind = turn_of(example, messages, position)
        return kind == "end_of_turn" and message == len(messages) - 1 and len(messages) > 3

    return masked_where(last)


@mutant("each-target-is-the-next-token", "huggingface/transformers#46898", "learns the token after the next",
        "shift in one place")  # fmt: skip
def shifted_twice():
    """Labels are shifted in the collator and again in the loss."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        labels = torch.full_like(batch.labels, IGNORE)
        labels[:, :-1] = batch.labels[:, 1:]
        return replace(batch, labels=labels)

    return Pipeline(collate=broken)


@mutant("each-target-is-the-next-token logits-are-scored-against-the-next-label rows-without-a-target-have-no-gradient",
        "huggingface/transformers#17987", "learns to copy", "shift before the loss")  # fmt: skip
def not_shifted():
    """Logits are scored against the token that they have just read."""

    def loss(logits, labels, num_targets=None, weights=None):
        shifted = torch.nn.functional.pad(labels, (1, 0), value=IGNORE)
        return sft_loss(torch.nn.functional.pad(logits, (0, 0, 0, 1)), shifted, num_targets, weights)

    return Pipeline(loss=loss)


@mutant("parameters-stay-finite ignored-positions-cannot-touch-the-loss a-batch-without-targets-is-refused",
        "karpathy/nanochat#590", "every weight is NaN", "skip and count a step without targets")  # fmt: skip
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


@mutant("a-step-without-targets-changes-nothing", "auxiliary losses on padding", "drifts on empty batches",
        "no term of the loss without a target")  # fmt: skip
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


@dataclass(frozen=True)
class KeepsAll(Pipeline):
    """Examples without targets are not dropped, so that they reach the step."""

    def prepare(self, job):
        examples = [
            self.encode(conversation, template=job.template, tokenizer=job.tokenizer, max_length=job.max_length,
                        policy=job.policy, conventions=self.conventions)
            for conversation in job.conversations
        ]  # fmt: skip
        job.report(examples_dropped=0, tokens_truncated=sum(example.truncated for example in examples))
        return examples


@mutant("a-cut-example-is-a-prefix", "common data scripts", "stops in mid-sentence", "cut, and append nothing")
def end_of_turn_after_the_cut():
    """A truncated example ends with an end-of-turn token that nobody wrote, and is trained on it."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        if not example.truncated:
            return example
        end = options["tokenizer"].eos_token_id
        return replace(example, input_ids=[*example.input_ids[:-1], end], labels=[*example.labels[:-1], end])

    return Pipeline(encode=broken)


@mutant("truncation-cuts-ids-and-labels-together", "hand-written collators", "targets move by the cut", "cut both")
def left_labels_cut():
    """Too long examples lose their last ids and their first labels."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        whole = encode(messages, **{**options, "max_length": None})
        return replace(example, labels=whole.labels[len(whole) - len(example) :])

    return Pipeline(encode=broken)


@mutant("every-conversation-with-a-target-is-trained", "drop_last", "part of the data is never seen", "keep the rest")
def last_micro_batch_dropped():
    """The last micro-batch of an epoch is dropped."""
    return DropsLast()


@dataclass(frozen=True)
class DropsLast(Pipeline):
    def batches(self, job, examples):
        steps = list(super().batches(job, examples))
        yield from (
            step if step is not steps[-1] else step[:-1] for step in steps if step is not steps[-1] or step[:-1]
        )


@mutant("lost-data-is-counted", "huggingface/trl#4554", "nobody knows what was lost", "count, and say so")
def losses_not_counted():
    """Dropped and truncated examples are not reported."""
    return Silent()


@dataclass(frozen=True)
class Silent(Pipeline):
    def prepare(self, job):
        examples = super().prepare(job)
        job.reported.clear()
        return examples


@mutant("reported-targets-are-the-scored-ones", "huggingface/trl#5620", "curves mislead", "count after the shift")
def positions_reported_as_targets():
    """All positions are reported as targets."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(
            report, num_targets=sum(batch.input_ids.numel() for batch in batches) if report.num_targets else 0
        )

    return Pipeline(step=step)


@mutant("every-position-has-an-origin", "hiyouga/LLaMA-Factory#10772", "overfits a persona", "add nothing unasked")
def default_system_prompt():
    """A conversation without a system message gets one."""

    def broken(messages, **options) -> Encoded:
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": "You are a helpful assistant."}, *messages]
        return encode(messages, **options)

    return Pipeline(encode=broken)


@mutant("conversations-stand-as-rendered", "ShishirPatil/gorilla#430", "trained on another template", "render exactly")
def newline_of_the_template_lost():
    """The newline between turns is missing."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        last = len(example) - 1
        keep = [p for p in range(len(example)) if p == last or turn_of(example, messages, p)[2] != "separator"]
        return replace(
            example, input_ids=[example.input_ids[p] for p in keep], labels=[example.labels[p] for p in keep],
            owners=[example.owners[p] for p in keep],
        )  # fmt: skip

    return Pipeline(encode=broken)


@mutant("padding-is-never-trained nothing-else-is-trained", "NVIDIA/Megatron-Bridge#3359", "learns to write padding",
        "labels of padding are -100")  # fmt: skip
def padding_trained():
    """Padding is labelled with the pad's id."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        return replace(batch, labels=torch.where(batch.segment_ids < 0, pad_token_id, batch.labels))

    return Pipeline(collate=broken)


@mutant("weights-replace-the-count", "token weights", "weights become a learning rate", "divide by the sum of weights")
def weights_divided_by_count():
    """Weighted losses are divided by the number of targets."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, num_targets or int((labels[:, 1:] != IGNORE).sum()), weights)

    return Pipeline(loss=loss)


UNDECLARED = Conventions(separator=True)


@mutant(
    "nothing-else-is-trained", "jingyaogong/minimind#636", "trains a token it never writes", "declare it, or mask it"
)
def separator_trained_undeclared():
    """The newline after the end-of-turn token is trained, and not declared."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "conventions": UNDECLARED})

    return Pipeline(encode=broken)


@mutant("every-conversation-with-a-target-is-trained", "huggingface/trl#2400", "long answers are never learned",
        "no default that nobody asked for")  # fmt: skip
def silent_default_length():
    """Examples are cut at 1,024 tokens although no max_length was given."""

    def broken(messages, **options) -> Encoded:
        return encode(messages, **{**options, "max_length": options.get("max_length") or 1024})

    return Pipeline(encode=broken)


@mutant("end-of-turn-is-trained", "variant of huggingface/trl#976", "never stops when packed", "mask by position")
def packed_pads_masked_by_id():
    """Labels are ignored wherever the id is the pad's, in packed rows only."""

    def broken(examples, bins=None, *, pad_token_id) -> Batch:
        batch = collate(examples, bins, pad_token_id=pad_token_id)
        if bins is None:
            return batch
        return replace(batch, labels=batch.labels.masked_fill(batch.input_ids == pad_token_id, IGNORE))

    return Pipeline(collate=broken)
