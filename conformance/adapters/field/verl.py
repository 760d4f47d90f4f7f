"""verl's dataset for fine-tuning and its loss, in a plain loop: its engines ask CUDA for its memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.adapters.field.plain_loop import Loop, given, order
from sftspec.conventions import Conventions
from sftspec.job import Job

LONGEST = 4096


@dataclass(frozen=True)
class Verl(Loop):
    """`MultiTurnSFTDataset` on a Parquet file without padding, `SFTTensorCollator` and `sft_loss`."""

    package = "verl"
    claims = frozenset({"padding", "accumulation", "adamw", "truncation", "left-truncation"})
    # All of an assistant's message is trained but the generation prompt.
    conventions = Conventions(separator=True)

    def batches(self, job: Job, epoch: int) -> Iterable[dict[str, Tensor]]:
        import pandas
        from verl.utils.dataset.dataset_utils import SFTTensorCollator
        from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

        path = job.workdir / f"data-{epoch}.parquet"
        rows = [[dict(message) for message in talk] for talk in job.conversations]
        pandas.DataFrame({"messages": rows}).to_parquet(path)
        settings = {
            "pad_mode": "no_padding", "truncation": job.truncation_side if job.max_length else "error",
            "max_length": job.max_length or LONGEST,
        }  # fmt: skip
        dataset, collate = MultiTurnSFTDataset(str(path), job.tokenizer, settings), SFTTensorCollator("no_padding")
        for chosen in order(job, epoch):
            nested = collate([dataset[number] for number in chosen])
            yield {"mask": nested["loss_mask"], **padded(nested, job.tokenizer.pad_token_id)}

    def targets(self, batch: dict[str, Tensor]) -> int:
        """As its engine counts them: `forward_backward_batch`."""
        return int(batch["mask"].values().sum())

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from tensordict import TensorDict
        from verl.workers.utils.losses import sft_loss

        logits = job.model(**given(batch), use_cache=False).logits.float()
        following = torch.roll(batch["input_ids"], -1, 1)
        each = torch.log_softmax(logits, -1).gather(-1, following[..., None])[..., 0]
        widths = batch["attention_mask"].sum(1).tolist()
        found = torch.nested.as_nested_tensor([row[:width] for row, width in zip(each, widths)], layout=torch.jagged)
        data: Any = TensorDict({"loss_mask": batch["mask"]}, batch_size=[len(widths)])
        from verl.utils import tensordict_utils

        tensordict_utils.assign_non_tensor(data, dp_size=1, batch_num_tokens=count, pad_mode="no_padding")
        return sft_loss(None, {"log_probs": found}, data)[0]


def padded(nested: dict[str, Any], filler: int) -> dict[str, Tensor]:
    """What its engine gives the model, where it does not pack: rows filled up on the right."""
    rows = list(nested["input_ids"].unbind())
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler),
        "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
