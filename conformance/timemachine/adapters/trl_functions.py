"""Functions of TRL: the divergence of its GKD trainer, and its packer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Function:
    """A part of TRL that is judged alone."""

    name = "trl"

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("trl")

    def train(self, job) -> None:
        raise NotImplementedError("a function is judged, not a trainer")


class Jsd(Function):
    """GKDTrainer.generalized_jsd_loss for each row, without a reduction."""

    claims = frozenset({"distillation"})

    @property
    def parts(self):
        return {"generalised_jsd": self.rows}

    def rows(self, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
        """student, teacher: log-probabilities (..., V), which are logits of themselves."""
        from trl import GKDTrainer

        return GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="none").sum(-1)


class JsdBatchmean(Jsd):
    """The same with its default reduction, each row being a batch of one."""

    def rows(self, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
        from trl import GKDTrainer

        pairs = zip(student.flatten(0, -2).split(1), teacher.flatten(0, -2).split(1), strict=True)
        values = [GKDTrainer.generalized_jsd_loss(*pair, beta=beta) for pair in pairs]
        return torch.stack(values).reshape(student.shape[:-1])


class BestFit(Function):
    """pack_dataset with the strategy "bfd"."""

    claims = frozenset({"packing"})

    @property
    def parts(self):
        return {"pack": self.pack}

    def pack(self, lengths: Sequence[int], capacity: int) -> list[list[int]]:
        """Bins of indices: each example is its own number, over and over."""
        from datasets import Dataset, disable_progress_bars
        from trl.data_utils import pack_dataset

        disable_progress_bars()
        rows = Dataset.from_dict({"input_ids": [[number] * int(n) for number, n in enumerate(lengths)]})
        if not len(rows):
            return []
        packed = pack_dataset(rows, int(capacity), "bfd")["input_ids"]
        return [list(dict.fromkeys(row)) for row in packed]
