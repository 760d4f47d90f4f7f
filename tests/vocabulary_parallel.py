"""Megatron's way to share a row and the head (Korthikanti et al. 2022, arXiv:2205.05198): each rank holds a stretch of
the columns up to the last hidden state, and a part of the vocabulary behind it.

The loss is torch.distributed.tensor.parallel's `loss_parallel`, over logits of which each rank has its own shard.
`wrong` is a way to get that wrong.
"""

from __future__ import annotations

import torch
import torch.distributed as ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn.functional import cross_entropy

from sftspec.tests.loops import IGNORE
from sftspec.tests.sequence_parallel import SequenceParallel


class Stretches(torch.autograd.Function):
    """(B, T / ranks, H) on each rank -> (B, T, H) on all; on the way back the gradients of all shards are summed."""

    @staticmethod
    def forward(ctx, stretch, summed):
        ctx.summed = summed
        return together(stretch)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        if ctx.summed:
            ranks.all_reduce(gradient)
        return gradient.chunk(ranks.get_world_size(), 1)[ranks.get_rank()], None


def together(stretch):
    parts = [torch.empty_like(stretch) for _ in range(ranks.get_world_size())]
    ranks.all_gather(parts, stretch.contiguous())
    return torch.cat(parts, 1)


class VocabularyParallel(SequenceParallel):
    name = "sequence and vocabulary parallel"

    def logits(self, job, model, ids, places):
        """Of the whole row, and of this rank's part of the vocabulary."""
        places = self.place(model, places)
        stretch = model.model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        head = model.get_output_embeddings().weight.chunk(ranks.get_world_size())[ranks.get_rank()]
        return Stretches.apply(stretch, self.wrong != "not summed") @ head.T

    def loss(self, logits, labels, count):
        targets = together(labels).flatten()
        flat = logits.flatten(0, 1).float()
        if self.wrong == "own shard":
            mine = targets - ranks.get_rank() * flat.shape[1]
            held = (mine >= 0) & (mine < flat.shape[1])
            return cross_entropy(flat, mine.where(held, torch.tensor(IGNORE)), reduction="sum") / count
        mesh = init_device_mesh("cpu", (ranks.get_world_size(),))
        with loss_parallel():
            return cross_entropy(DTensor.from_local(flat, mesh, [Shard(1)]), targets, reduction="sum") / count

    def backward(self, loss):
        if loss.requires_grad:
            with loss_parallel():
                loss.backward()
