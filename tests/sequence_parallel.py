"""A plain loop whose ranks share each row: every rank holds a stretch of its columns, and attends to the keys of all.
A row is an example, or a pack of whole ones.

Keys and values are gathered from all ranks (as in Llama 3's context parallelism, Grattafiori et al. 2024,
arXiv:2407.21783, section 3.3.2); labels are shifted before rows are cut, so that the last token of a stretch has its
target on the next rank. `wrong` is a way to get that wrong.
"""

from __future__ import annotations

import torch
import torch.distributed as ranks
from torch.nn.functional import cross_entropy, pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from sftspec.packing import pack
from sftspec.tests.loops import IGNORE, Loop


class Gathered(torch.autograd.Function):
    """(B, heads, T / ranks, D) on each rank -> (B, heads, T, D) on all of them."""

    @staticmethod
    def forward(ctx, stretch):
        parts = [torch.empty_like(stretch) for _ in range(ranks.get_world_size())]
        ranks.all_gather(parts, stretch.contiguous())
        return torch.cat(parts, 2)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        ranks.all_reduce(gradient)
        return gradient.chunk(ranks.get_world_size(), 2)[ranks.get_rank()]


def over_all_ranks(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **others):
    begin, segments = ranks.get_rank() * query.shape[2], module.segments
    mine = segments[:, begin : begin + query.shape[2]]
    if getattr(module, "alone", False):  # a planted bug: each stretch attends to itself
        begin, segments = 0, mine
    else:
        key, value = Gathered.apply(key), Gathered.apply(value)
    causal = torch.arange(key.shape[2])[None] <= torch.arange(query.shape[2])[:, None] + begin
    seen = (causal & (mine[..., None] == segments[:, None]))[:, None]
    groups = query.shape[1] // key.shape[1]
    key, value = (item.repeat_interleave(groups, 1) for item in (key, value))
    return scaled_dot_product_attention(query, key, value, seen, scale=scaling).transpose(1, 2), None


AttentionInterface.register("over_all_ranks", over_all_ranks)
AttentionMaskInterface.register("over_all_ranks", lambda *given, **named: None)


class SequenceParallel(Loop):
    name, claims = (
        "sequence parallel",
        frozenset(
            {
                "padding",
                "packing",
                "accumulation",
                "processes",
                "sequence-parallel",
                "no-learned-positions",
                "no-dropout",
            }
        ),
    )
    processes = 2

    def __init__(self, wrong: str = "", processes: int = 2):
        self.wrong, self.processes = wrong, processes

    def prepare(self, job):
        if not ranks.is_initialized():
            ranks.init_process_group("gloo")
        job.model.set_attn_implementation("over_all_ranks")
        for layer in job.model.model.layers:
            layer.self_attn.alone = self.wrong == "attention"
        return job.model

    def rows(self, job, examples):
        """(ids, labels, lengths of the examples in it); no label of a pack is that of an example's first token."""
        if not job.packing:
            return [(ids, labels, [len(ids)]) for ids, labels in examples]
        packs = [[examples[index] for index in one] for one in pack([len(ids) for ids, _ in examples], job.max_length)]
        return [
            (
                [token for ids, _ in one for token in ids],
                [label for _, labels in one for label in (IGNORE, *labels[1:])],
                [len(ids) for ids, _ in one],
            )
            for one in packs
        ]

    def pad(self, job, rows):
        """This rank's stretch of ids, its positions with the segments of the whole row (in the mask's place), and its
        stretch of labels, which are shifted already.
        """
        ids, _, labels = super().pad(job, [row[:2] for row in rows])
        count = ranks.get_world_size()
        more = -ids.shape[1] % count
        ids, labels = pad(ids, (0, more), value=job.tokenizer.pad_token_id), pad(labels, (0, more), value=IGNORE)
        sizes = [[*row[2][:-1], ids.shape[1] - sum(row[2][:-1])] for row in rows]  # padding goes on from the last
        places = torch.stack([torch.cat([torch.arange(size) for size in one]) for one in sizes])
        segments = (places == 0).cumsum(1)
        if self.wrong != "shift":
            labels = pad(labels[:, 1:], (0, 1), value=IGNORE)
        ids, places, labels = (item.chunk(count, 1)[ranks.get_rank()] for item in (ids, places, labels))
        if self.wrong == "shift":
            labels = pad(labels[:, 1:], (0, 1), value=IGNORE)
        if self.wrong == "positions":
            places = torch.arange(places.shape[1]).expand(places.shape)
        if self.wrong == "segments":
            segments = torch.zeros_like(segments)
        return ids, (places, segments), labels

    def count(self, labels):
        total = torch.tensor(float(sum((one != IGNORE).sum() for one in labels)))
        ranks.all_reduce(total)
        return max(1.0, float(total))

    def place(self, model, places):
        """The positions; the segments are given to the attention."""
        for layer in model.model.layers:
            layer.self_attn.segments = places[1]
        return places[0]

    def logits(self, job, model, ids, places):
        places = self.place(model, places)
        return model(input_ids=ids, position_ids=places, use_cache=False).logits

    def loss(self, logits, labels, count):
        return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum") / count

    def step(self, job, model, optimizer):
        for item in model.parameters():
            item.grad = torch.zeros_like(item) if item.grad is None else item.grad
            ranks.all_reduce(item.grad)
        super().step(job, model, optimizer)

    def finish(self, job, model):
        ranks.destroy_process_group()
