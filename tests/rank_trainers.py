"""Trainers of two ranks in one: the job's seed says which one does it. Imported by the trainer's processes alone."""

from __future__ import annotations

import os
import time

import torch.distributed as ranks

from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel
from sftspec.conformance.sensitivity.mutants.step import ranks as planted


def sharded(model):
    """`fully_shard`, in place of DistributedDataParallel."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def on_rank_one(act):
    def begin(model, job):
        if ranks.get_rank() == 1:
            act()

    return DataParallel(begin=begin)


def fail():
    raise ValueError("no such file: shard 1")


def leave():
    os._exit(3)


def sleep_on():
    time.sleep(600)


MADE = {
    0: DataParallel,
    1: lambda: DataParallel(wrap=sharded),
    2: planted.never_reduced,
    3: planted.each_process_counts_its_own,
    10: lambda: on_rank_one(fail),
    11: lambda: on_rank_one(leave),
    12: lambda: on_rank_one(sleep_on),
}


class Several:
    name, version = "several", "1"
    claims = frozenset({"padding", "accumulation", "clipping"})

    def train(self, job):
        MADE[job.seed % 100]().train(job)
