"""`transformers.Trainer` of any release since 4.45, on padded rows: the one argument that was renamed is left away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer, training_arguments
from sftspec.job import Job


@dataclass(frozen=True)
class OldTrainer(TransformersTrainer):
    """collator  "padded" or "flattening" """

    def build(self, job: Job) -> Any:
        from datasets import Dataset
        from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, Trainer, TrainingArguments

        padded = self.collator == "padded"
        return Trainer(
            model=job.model,
            args=TrainingArguments(**training_arguments(job)),
            train_dataset=Dataset.from_list([self.example(job, list(talk)) for talk in job.conversations]),
            data_collator=DataCollatorForSeq2Seq(job.tokenizer) if padded else DataCollatorWithFlattening(),
        )
