"""Denominators, gradients and updates that are not those of the step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy

from sftspec.conformance.mutants import mutant
from sftspec.step import IGNORE, StepReport, clip_gradients, count_targets, forward_logits, sft_loss, sft_step
from sftspec.trainer import Pipeline, interrupt, make_optimizer


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


@mutant("every-target-of-a-step-weighs-the-same", "huggingface/transformers#34191", "short micro-batches weigh more",
        "divide by the targets of the whole step")  # fmt: skip
def mean_of_means():
    """The step averages the means of its micro-batches."""
    return with_denominators(lambda batches: [batch.num_targets * len(batches) for batch in batches])


@mutant("every-target-of-a-step-weighs-the-same", "huggingface/transformers#34242", "ranks with few targets weigh more",
        "sum the count over ranks")  # fmt: skip
def denominator_per_rank():
    """Each rank divides by its own targets, and gradients are averaged."""

    def denominators(batches):
        counts: dict[int, int] = {}
        for batch in batches:
            counts[batch.rank] = counts.get(batch.rank, 0) + batch.num_targets
        return [counts[batch.rank] * len(counts) for batch in batches]

    return with_denominators(denominators)


@mutant("every-target-of-a-step-weighs-the-same", "modelscope/ms-swift#10084", "the end of an epoch weighs less",
        "count the window that there is")  # fmt: skip
def partial_window_scaled_as_full():
    """In the last, partial window of an epoch the first micro-batch is divided once more."""

    def denominators(batches):
        count = sum(batch.num_targets for batch in batches)
        return [count * (2 if len(batches) == 2 and index == 0 else 1) for index in range(len(batches))]

    return with_denominators(denominators)


@mutant("the-denominator-is-the-number-of-targets", "hiyouga/LLaMA-Factory#7443", "another learning rate",
        "scale in one place")  # fmt: skip
def divided_twice():
    """The loss is divided by the number of micro-batches once more."""
    return with_denominators(lambda batches: [sum(b.num_targets for b in batches) * len(batches)] * len(batches))


@mutant(
    "the-denominator-is-the-number-of-targets", "karpathy/nanoGPT#206", "another learning rate", "divide by the sum"
)
def not_divided_by_accumulation():
    """The means of micro-batches are added up and not divided."""
    return with_denominators(lambda batches: [batch.num_targets for batch in batches])


@mutant("the-denominator-is-the-number-of-targets padding-and-copies-change-nothing",
        "mean over all positions", "padding and prompts lower the rate", "divide by targets")  # fmt: skip
def divided_by_positions():
    """The summed loss is divided by the number of positions, padding and prompts among them."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, labels.numel(), weights)

    return Pipeline(loss=loss)


@mutant("the-denominator-is-the-number-of-targets the-loss-is-the-mean-over-targets",
        "batch means", "long rows count for more", "divide by targets, not by rows")  # fmt: skip
def divided_by_rows():
    """The summed loss is divided by the number of rows."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits, labels, len(labels), weights)

    return Pipeline(loss=loss)


@mutant("micro-batches-add-up", "mean reduction inside the model", "num_items_in_batch is ignored", "pass it through")
def count_of_the_step_ignored():
    """The loss divides by its own targets, whatever the step's number is."""
    return Pipeline(loss=lambda logits, labels, num_targets=None, weights=None: sft_loss(logits, labels, None, weights))


@mutant("first-tokens-are-not-counted", "huggingface/transformers 5.23.0, GPT2LMHeadModel", "rate depends on the rows",
        "count after the shift")  # fmt: skip
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


@mutant("the-gradient-is-that-of-the-step", "tenstorrent/tt-blacksmith#711", "steps on old gradients", "zero_grad")
def gradient_left_over():
    """zero_grad is never called."""

    def optimizer(job):
        made = make_optimizer(job)
        made.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
        return made

    return Pipeline(optimizer=optimizer)


@mutant("the-gradient-is-that-of-the-step", "karpathy/llm.c#548", "accumulation is lost", "zero_grad once a step")
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


@mutant("every-parameter-gets-its-gradient", "huggingface/transformers#26221", "the lower layers never learn",
        "let inputs require gradients")  # fmt: skip
def lower_layers_cut_off():
    """No gradient reaches the first block and what lies below it."""

    def cut(model, optimizer) -> None:
        for parameter in [*_first_block(model).parameters(), *model.get_input_embeddings().parameters()]:
            parameter.grad = None

    return around(before=cut)


@mutant("clipping-is-by-the-norm-of-the-whole-gradient one-factor-for-all-parameters", "pytorch/pytorch#72548",
        "directions change", "one norm over all parameters")  # fmt: skip
def clipped_per_parameter():
    """Each parameter is clipped by its own norm."""

    def clip(parameters, limit):
        return max(clip_gradients([parameter], limit) for parameter in parameters)

    return Pipeline(clip=clip)


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "huggingface/accelerate#999", "accumulation changes the clip",
        "clip the accumulated gradient, once")  # fmt: skip
def clipped_per_micro_batch():
    """The gradient is clipped after each micro-batch."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        optimizer.zero_grad()
        count = sum(batch.num_targets for batch in batches)
        total = 0.0
        for batch in batches:
            if batch.num_targets:
                part = loss(forward_logits(model, batch), batch.labels, num_targets=count)
                part.backward()
                total += float(part.detach())
                norm = clip(model.parameters(), max_grad_norm or float("inf"))
        optimizer.step()
        return StepReport(total, count, norm)

    return Pipeline(step=step)


@mutant("a-gradient-below-the-limit-is-not-scaled below-the-limit-not-a-bit-changes", "normalised gradients",
        "every step is equally long", "scale only above the limit")  # fmt: skip
def always_normalised():
    """The gradient is scaled to the limit also when it is below."""

    def clip(parameters, limit):
        parameters = list(parameters)
        norm = clip_gradients(parameters, float("inf"))
        for parameter in parameters:
            if parameter.grad is not None and limit < float("inf") and norm:
                parameter.grad.mul_(limit / norm)
        return norm

    return Pipeline(clip=clip)


@mutant("a-gradient-that-is-not-finite-is-refused", "milesial/Pytorch-UNet#470", "NaN in every parameter",
        "raise, and change nothing")  # fmt: skip
def infinite_gradient_applied():
    """A norm that is not finite is used like any other."""
    return Pipeline(clip=lambda parameters, limit: float(torch.nn.utils.clip_grad_norm_(list(parameters), limit)))


@mutant(
    "sgd-subtracts-rate-times-gradient", "decay left on", "weights shrink", "set weight_decay to what was asked for"
)
def sgd_decays():
    """SGD decays the weights although no decay was asked for."""

    def optimizer(job):
        made = make_optimizer(job)
        if job.optimizer == "sgd":
            made.param_groups[0]["weight_decay"] = 0.01
        return made

    return Pipeline(optimizer=optimizer)


@mutant("adamw-decays-and-corrects", "Loshchilov and Hutter 2019, section 1", "decay is scaled by the gradient",
        "decouple the decay")  # fmt: skip
def adam_with_l2():
    """AdamW's decay is put into the gradient: Adam with L2."""

    def optimizer(job):
        if job.optimizer != "adamw":
            return make_optimizer(job)
        return torch.optim.Adam(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)

    return Pipeline(optimizer=optimizer)


@mutant("the-learning-rate-is-the-jobs", "huggingface/accelerate#963", "the rate decays too early",
        "step the scheduler once an optimizer step")  # fmt: skip
def rate_decays():
    """The learning rate shrinks by a tenth at every step."""

    def decay(model, optimizer) -> None:
        optimizer.param_groups[0]["lr"] *= 0.9

    return around(after=decay)


@mutant("rate-zero-changes-nothing parameters-change-in-the-step-alone", "16-bit weights", "updates are rounded",
        "keep master weights")  # fmt: skip
def weights_rounded():
    """Parameters are rounded to bfloat16 after each step."""

    def round_all(model, optimizer) -> None:
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().to(parameter.dtype))

    return around(after=round_all)


@mutant("resuming-equals-not-stopping", "Lightning-AI/pytorch-lightning#4655", "moments restart", "save the optimizer")
def resume_forgets_the_optimizer():
    """A resumed run starts with a new optimizer."""
    return Pipeline(resume=lambda job, optimizer, rebuild: (interrupt(job, optimizer, rebuild), rebuild(job))[1])


@mutant("resuming-equals-not-stopping", "pytorch/torchrec#664", "dropout repeats itself", "save the random state")
def resume_forgets_the_random_state():
    """A resumed run draws the dropout masks of another seed."""

    def resume(job, optimizer, rebuild):
        optimizer = interrupt(job, optimizer, rebuild)
        torch.manual_seed(1)
        return optimizer

    return Pipeline(resume=resume)


@mutant("the-same-job-gives-the-same-model", "unseeded samplers", "no run can be repeated", "seed the order")
def order_unseeded():
    """The order of the examples is drawn without a seed."""
    return Pipeline(order=lambda count, seed, epoch: random.SystemRandom().sample(range(count), count))


@mutant("epochs-differ-in-order", "pytorch/torchtitan#2556", "batches are correlated over epochs", "reseed each epoch")
def epochs_repeat():
    """Every epoch has the same order."""

    def order(count, seed, epoch):
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    return Pipeline(order=order)


@mutant("the-reported-loss-is-the-mean-over-targets", "volcengine/verl#102", "curves mislead", "log what is optimised")
def loss_reported_per_micro_batch():
    """The reported loss is divided by the number of micro-batches."""

    def step(model, batches, *rest) -> StepReport:
        report = sft_step(model, batches, *rest)
        return replace(report, loss=report.loss / len(batches))

    return Pipeline(step=step)


@mutant("accumulation-makes-the-steps-asked-for", "huggingface/transformers#24088", "steps are larger than asked for",
        "one step a window")  # fmt: skip
def windows_merged():
    """The last, partial window is merged into the one before it."""

    @dataclass(frozen=True)
    class Merges(Pipeline):
        def batches(self, job, examples):
            steps = list(super().batches(job, examples))
            if len(steps) > 1 and len(steps[-1]) < len(steps[0]):
                steps[-2:] = [steps[-2] + steps[-1]]
            yield from steps

    return Merges()


@mutant("the-loss-is-cross-entropy the-gradient-is-softmax-minus-onehot", "Liger-Kernel#243", "probabilities are flat",
        "pass the option on, or refuse it")  # fmt: skip
def labels_smoothed():
    """A tenth of the target's probability is spread over the vocabulary."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1, reduction="sum"
        )
        return value / (num_targets or count_targets(labels))

    return Pipeline(loss=loss)


@mutant("the-loss-is-cross-entropy a-constant-per-row-changes-nothing", "Modalities#464", "gradients are coarse",
        "reduce in float32")  # fmt: skip
def reduced_in_bfloat16():
    """Logits are rounded to bfloat16 before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(logits.bfloat16(), labels, num_targets, weights)

    return Pipeline(loss=loss)


@mutant("equal-logits-cost-ln-v the-loss-is-the-mean-over-targets the-gradient-is-the-slope", "units mixed up",
        "another learning rate", "nats in the loss")  # fmt: skip
def loss_in_bits():
    """The value of the loss is in bits, its gradient in nats."""

    def loss(logits, labels, num_targets=None, weights=None):
        value = sft_loss(logits, labels, num_targets, weights)
        return value + (value / 0.6931471805599453 - value).detach()

    return Pipeline(loss=loss)


@mutant("the-loss-is-convex-and-falls-with-the-target the-loss-is-cross-entropy", "logit caps", "logits stop moving",
        "cap in the model or not at all")  # fmt: skip
def logits_capped():
    """Logits are capped at 3 by a tanh before the loss."""

    def loss(logits, labels, num_targets=None, weights=None):
        return sft_loss(3 * torch.tanh(logits / 3), labels, num_targets, weights)

    return Pipeline(loss=loss)


@mutant("every-target-of-a-step-weighs-the-same", "focal losses", "sure tokens count less", "plain cross-entropy")
def focal():
    """Losses are weighted by (1 - p)^2, as the focal loss does."""

    def loss(logits, labels, num_targets=None, weights=None):
        rows, targets = logits[:, :-1][labels[:, 1:] != IGNORE].float(), labels[:, 1:][labels[:, 1:] != IGNORE]
        values = cross_entropy(rows, targets, reduction="none")
        return (values * (1 - (-values).exp()) ** 2).sum() / (num_targets or len(targets))

    return Pipeline(loss=loss)


@mutant(
    "order-of-rows-and-of-tokens-is-arbitrary", "token id 0 special-cased", "token 0 is never learned", "no special ids"
)
def token_zero_ignored():
    """Targets with id 0 cost nothing."""

    def loss(logits, labels, num_targets=None, weights=None):
        count = num_targets or count_targets(labels)
        kept = torch.where(labels == 0, IGNORE, labels)
        return sft_loss(logits, kept, count, weights) if count_targets(kept) else logits.sum() * 0

    return Pipeline(loss=loss)


@mutant("evaluation-neither-depends-on-batches-nor-leaves-a-trace", "huggingface/transformers#39241",
        "evaluations cannot be compared", "sum over batches, divide once")  # fmt: skip
def evaluation_averages_batches():
    """The evaluation loss is the mean of the means of its batches."""

    @dataclass(frozen=True)
    class Averages(Pipeline):
        def evaluate(self, model, batches):
            used = [batch for batch in batches if batch.num_targets]
            return sum(super(Averages, self).evaluate(model, [batch]) for batch in used) / len(used)

    return Averages()


@mutant("evaluation-neither-depends-on-batches-nor-leaves-a-trace", "yxuansu/TaCL#11", "training loses its dropout",
        "restore the mode")  # fmt: skip
def evaluation_leaves_the_mode():
    """After an evaluation the model stays in evaluation mode."""

    @dataclass(frozen=True)
    class Leaves(Pipeline):
        def evaluate(self, model, batches):
            loss = super().evaluate(model, batches)
            model.eval()
            return loss

    return Leaves()


@mutant("steps-hold-the-examples-asked-for", "settings ignored", "another batch size, and with it another rate",
        "use the setting, or refuse it")  # fmt: skip
def batch_size_ignored():
    """Every example is a step of its own, whatever the batch size."""

    @dataclass(frozen=True)
    class OneByOne(Pipeline):
        def train(self, job) -> None:
            super().train(replace(job, batch_size=1, accumulation=1, world_size=1))

    return OneByOne()


@mutant("resuming-equals-not-stopping", "transformers#8878", "work is lost", "save, and load what was saved")
def never_saved():
    """Nothing is saved where the job is to be interrupted."""
    return Pipeline(resume=lambda job, optimizer, rebuild: optimizer)


@mutant("adamw-decays-and-corrects", "settings not passed on", "weights are not decayed", "pass weight_decay on")
def adamw_does_not_decay():
    """AdamW is given no weight decay."""

    def optimizer(job):
        return make_optimizer(replace(job, weight_decay=0.0))

    return Pipeline(optimizer=optimizer)


@mutant("clipping-is-by-the-norm-of-the-whole-gradient", "a branch without the clip", "spikes pass under AdamW",
        "clip whatever the optimizer")  # fmt: skip
def not_clipped_with_adamw():
    """The gradient is clipped with SGD and not with AdamW."""

    def step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=clip_gradients) -> StepReport:
        limit = None if isinstance(optimizer, torch.optim.AdamW) else max_grad_norm
        return sft_step(model, batches, optimizer, limit, loss, clip)

    return Pipeline(step=step)
