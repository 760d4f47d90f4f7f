"""instructlab-training's data processing, data loader and loss, in a plain loop: its `main` asks for CUDA.

The loop steps once for each batch of the loader, which holds the micro-batches of a step, as its own does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from sftspec.conformance.adapters.field.plain_loop import Loop, given
from sftspec.conventions import Conventions
from sftspec.job import Job

LONGEST = 4096


@dataclass(frozen=True)
class InstructLabTraining(Loop):
    """`process_messages_into_input_ids`, `get_data_loader` without flash attention, and `Model.compute_loss`."""

    package = "instructlab-training"
    # It puts marks around the contents of assistants before it renders, so these are encoded apart.
    conventions = Conventions(tokenization="answers")

    claims = frozenset({"padding", "truncation", "accumulation", "adamw", "report"})

    def steps(self, job: Job, epoch: int) -> Iterable[list[dict[str, Any]]]:
        from instructlab.training.sampler import get_data_loader

        if epoch == 0:
            self.prepare(job)
        path = job.workdir / "processed" / "data.jsonl"
        lengths = [json.loads(line)["len"] for line in path.read_text(encoding="utf-8").splitlines()]
        # A loader's batch is an optimizer step: so many samples, in micro-batches of so many tokens with their padding.
        loader, _ = get_data_loader(
            data_path=str(path), batch_size=job.batch_size * job.accumulation,
            max_tokens_per_gpu=max(lengths) * job.batch_size, seed=job.seed, rank=0, world_size=1, flash_enabled=False,
            pad_token_id=job.tokenizer.pad_token_id,
        )  # fmt: skip
        loader.sampler.set_epoch(epoch)
        yield from loader

    def prepare(self, job: Job) -> None:
        """Process the data as its command does, and report what it says that it drops."""
        from instructlab.training import data_process

        said: list[int] = []

        class Dropped(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "samples to be dropped" in record.getMessage():
                    said.append(int(record.getMessage().rpartition(" ")[2]))

        data = job.workdir / "data.jsonl"
        rows = [{"messages": [dict(message) for message in talk]} for talk in job.conversations]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        handler = Dropped()
        data_process.logger.addHandler(handler)
        data_process.logger.setLevel(logging.INFO)
        try:
            data_process.process_messages_into_input_ids(
                data_path=str(data), data_output_path=str(job.workdir / "processed"),
                max_seq_len=job.max_length or LONGEST, model_path=str(job.save_model()), num_cpu_procs=1,
            )  # fmt: skip
        finally:
            data_process.logger.removeHandler(handler)
        job.report(examples_dropped=sum(said))

    def targets(self, batch: dict[str, Any]) -> int:
        """Of the whole step: each micro-batch of the loader says it."""
        return 0

    def loss(self, job: Job, batch: dict[str, Any], count: int) -> Tensor:
        """Its loss calls its model, which is a wrapper around the one that is trained."""
        from instructlab.training.model import Model

        class Wrapped(SimpleNamespace):
            def __call__(self, labels: Tensor, **inputs: Any) -> Any:
                return job.model(**inputs)

        wrapped = Wrapped(is_gpt_oss=False, is_granitemoehybrid=False)
        inputs = {**given(batch), "labels": batch["labels"]}
        value, _ = Model.compute_loss(wrapped, inputs, 1, batch["batch_num_loss_counted_tokens"])
        return value
