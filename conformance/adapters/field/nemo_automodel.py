"""NeMo AutoModel's dataset of conversations, collator and loss, in a plain loop: its recipes ask for CUDA."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sftspec.conformance.adapters.field.plain_loop import IGNORE, Loop, given, order
from sftspec.job import Job


@dataclass(frozen=True)
class NemoAutomodel(Loop):
    """`ChatDataset`, `default_collater` and `MaskedCrossEntropy`: labels come shifted, the last token is not fed.

    mask_history  train the last answer alone
    """

    mask_history: bool = False

    package = "nemo-automodel"
    claims = frozenset({"padding", "accumulation", "adamw", "truncation"})

    @property
    def policy(self) -> str:  # type: ignore[override]
        return "last" if self.mask_history else "all"

    def accepts(self, conversation: list[Any]) -> bool:
        """A tool's message needs the id of its call."""
        return all(message["role"] != "tool" or message.get("tool_call_id") for message in conversation)

    def batches(self, job: Job, epoch: int) -> Iterable[dict[str, Tensor]]:
        from nemo_automodel.components.datasets.llm.chat_dataset import ChatDataset
        from nemo_automodel.components.datasets.utils import default_collater

        path = job.workdir / "data.jsonl"
        rows = [{"messages": [dict(message) for message in talk]} for talk in job.conversations]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        dataset = ChatDataset(
            str(path), job.tokenizer, seq_length=job.max_length, truncation=bool(job.max_length),
            mask_history=self.mask_history,
        )  # fmt: skip
        for chosen in order(job, epoch):
            yield default_collater([dataset[number] for number in chosen])

    def targets(self, batch: dict[str, Tensor]) -> int:
        return int((batch["labels"] != IGNORE).sum())

    def loss(self, job: Job, batch: dict[str, Tensor], count: int) -> Tensor:
        from nemo_automodel.components.loss.masked_ce import MaskedCrossEntropy

        logits = job.model(**given(batch), use_cache=False).logits
        return MaskedCrossEntropy()(logits, batch["labels"], num_label_tokens=count)
