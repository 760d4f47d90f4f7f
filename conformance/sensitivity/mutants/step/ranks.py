"""What goes wrong between processes: the denominator, the reduction, the data of each rank, and what ranks must share.

These are planted in a loop of its own (`data_parallel`), which two real processes run.
"""

from __future__ import annotations

import torch
import torch.distributed as ranks
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel, clip, denominator, order, sharded, share


@killed_by("every-target-of-a-step-weighs-the-same")
@seen_in("variant of vllm-project/speculators#942")
@effect("targets on a rank that has few weigh more", fix="divide by the targets of all ranks")
def each_process_counts_its_own():
    """Each process divides by its own number of targets, and DDP averages the means."""
    return DataParallel(denominator=lambda targets: float(max(1, targets)))


@killed_by("the-denominator-is-the-number-of-targets")
@seen_in("variant of huggingface/transformers#34373")
@effect("the learning rate falls with the number of ranks", fix="multiply by the number of ranks")
def averaged_without_the_factor():
    """The targets of all processes are counted, and DDP divides once more by the number of processes."""
    return DataParallel(denominator=lambda targets: denominator(targets) * ranks.get_world_size())


@killed_by("every-rank-holds-the-same-parameters the-gradient-is-that-of-the-step")
@seen_in("bytetriper/RAE#40")
@effect("as many models as processes, each of its own data", fix="call the wrapped model")
def never_reduced():
    """The loop calls the model inside DDP, so that no gradient is averaged."""
    return DataParallel(reduces=lambda number, count: False)


@killed_by("every-rank-holds-the-same-parameters the-gradient-is-that-of-the-step")
@seen_in("modelscope/FunASR#3472, karpathy/build-nanogpt#30")
@effect("ranks step with gradients of their own", fix="reduce in the last micro-batch")
def reduced_in_the_first_micro_batch():
    """The gradient is averaged in the first micro-batch of a window, and not in the last."""
    return DataParallel(reduces=lambda number, count: number == 0)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("pytorch/pytorch#88955")
@effect("ranks pull with unlike force", fix="reduce first, clip then")
def clipped_before_the_reduction():
    """Each process clips its own gradient by its own norm, before they are averaged."""

    def clip_and_average(model, job) -> None:
        clip(model, job)
        for parameter in job.model.parameters():
            ranks.all_reduce(parameter.grad)
            parameter.grad /= ranks.get_world_size()

    return DataParallel(reduces=lambda number, count: False, before_step=clip_and_average)


@killed_by("clipping-is-by-the-norm-of-the-whole-gradient")
@seen_in("pytorch/pytorch#72548")
@effect("shards are scaled by unlike factors", fix="the norm of all shards together")
def clipped_by_the_norm_of_a_shard():
    """Parameters are sharded (FSDP2), and each process clips its shards by the norm of these alone."""

    def clip_shards(model, job) -> None:
        if job.max_grad_norm is not None:
            shards = [parameter.grad.to_local() for parameter in job.model.parameters()]
            norm = torch.stack([shard.norm() for shard in shards]).norm()
            for shard in shards:
                shard.mul_(min(1.0, job.max_grad_norm / float(norm)))

    return DataParallel(wrap=sharded, before_step=clip_shards)


@killed_by("every-parameter-gets-its-gradient")
@seen_in("subtle form of step/gradients-rounded: a hook that compresses what is reduced")
@effect("small gradients are lost", fix="reduce in float32")
def reduced_in_16_bits():
    """DistributedDataParallel sends gradients of float32 in bfloat16."""

    def compressed(group, bucket):
        bucket.buffer().copy_(bucket.buffer().bfloat16())
        return allreduce_hook(group, bucket)

    def wrap(model):
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, compressed)
        return wrapped

    return DataParallel(wrap=wrap)


@killed_by("the-gradient-is-that-of-the-step")
@seen_in("pytorch/pytorch#180666")
@effect("steps along old gradients", fix="wait for the copy")
def offloaded_too_late():
    """The optimizer steps while a gradient is still on its way to the CPU: with that of the step before."""

    def late(model, job) -> None:
        clip(model, job)
        arrived = [parameter.grad.clone() for parameter in job.model.parameters()]
        before = job.model.__dict__.get("offloaded", arrived)
        job.model.__dict__["offloaded"] = arrived
        for parameter, gradient in zip(job.model.parameters(), before, strict=True):
            parameter.grad.copy_(gradient)

    return DataParallel(before_step=late)


@killed_by("every-rank-holds-the-same-parameters")
@seen_in("subtle form of step/changed-on-one-rank: a loss scale of each rank's own")
@effect("as many models as processes", fix="leave a step out on all ranks, or on none")
def left_out_on_one_rank():
    """Where gradients overflowed on one rank, that rank alone leaves its step out."""

    def leave_out(model, job) -> None:
        clip(model, job)
        count = job.model.__dict__["steps"] = job.model.__dict__.get("steps", 0) + 1
        if ranks.get_rank() == 1 and count == 2:
            for parameter in job.model.parameters():
                parameter.grad = None

    return DataParallel(before_step=leave_out)


@killed_by("every-rank-holds-the-same-parameters parameters-change-in-the-step-alone")
@seen_in("pytorch/pytorch#112152")
@effect("as many models as processes", fix="initialise before the model is wrapped")
def begun_apart():
    """After the model was wrapped, each process draws new rows of the embedding."""

    def draw(model, job) -> None:
        generator = torch.Generator().manual_seed(ranks.get_rank())
        with torch.no_grad():
            rows = job.model.get_input_embeddings().weight[:4]
            rows.copy_(torch.randn(rows.shape, generator=generator) / 50)

    return DataParallel(begin=draw)


@killed_by("every-rank-holds-the-same-parameters")
@seen_in("variant of iCog-Labs-Dev/PC-Transformers#135")
@effect("as many models as processes", fix="change parameters on every rank, or broadcast them")
def changed_on_one_rank():
    """The first process alone adds something to its weights after each step."""

    def bias(model, job) -> None:
        if ranks.get_rank() == 1:
            with torch.no_grad():
                next(job.model.parameters())[0] += 1e-3

    return DataParallel(after_step=bias)


@killed_by("ranks-draw-dropout-of-their-own")
@seen_in("L-30: huggingface/accelerate#114")
@effect("less regularisation than asked for", fix="add the rank to the seed")
def dropout_alike_on_all_ranks():
    """Every process is seeded alike, so that all drop the same units."""

    def seed(model, job) -> None:
        torch.manual_seed(job.seed)

    return DataParallel(begin=seed)


@killed_by("masking/every-conversation-with-a-target-is-trained steps-hold-the-examples-asked-for")
@seen_in("SalesforceAIResearch/DiffusionDPO#15, Shark-NLP/DiffuSeq#37")
@effect("every process learns the same", fix="shard the data")
def every_process_reads_all():
    """The data is not sharded: every process reads all of it in one order."""

    return DataParallel(share=order)


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("vllm-project/speculators#427")
@effect("one shard counts twice, the others never", fix="shard by the global rank")
def one_shard_for_all():
    """Every process reads the shard of rank 0, as with the local rank of several nodes."""
    return DataParallel(share=lambda job, epoch: order(job, epoch)[:: ranks.get_world_size()])


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("huggingface/transformers#34365")
@effect("most of the data is never seen", fix="let one of the two shard")
def sharded_twice():
    """A shard is sharded again: the sampler and the loader both do it."""
    return DataParallel(share=lambda job, epoch: share(job, epoch)[ranks.get_rank() :: ranks.get_world_size()])


@killed_by("masking/every-conversation-with-a-target-is-trained")
@seen_in("criteo/tf-yarn#79")
@effect("the rest is never seen", fix="let the last step be smaller, or fill it up")
def uneven_rest_dropped():
    """Examples that do not make a whole batch on every process are left out, in silence."""

    def whole(job, epoch) -> list[int]:
        mine = share(job, epoch)
        return mine[: len(job.conversations) // (ranks.get_world_size() * job.batch_size) * job.batch_size]

    return DataParallel(share=whole)


@killed_by("no-example-fills-up-the-last-batches")
@seen_in("huggingface/accelerate#212")
@effect("those examples weigh twice", fix="let the last step be smaller")
def filled_up_by_the_sampler():
    """Examples are repeated where they do not come out even, as torch's DistributedSampler does."""

    def sampled(job, epoch) -> list[int]:
        sampler: DistributedSampler = DistributedSampler(range(len(job.conversations)), seed=job.seed)  # type: ignore
        sampler.set_epoch(epoch)
        return list(sampler)

    return DataParallel(share=sampled)
