"""The `Trainer` of transformers, with the collators that it ships.

It has no chat format of its own: conversations go through `apply_chat_template` with the assistant mask, as its users
do. The settings are its two ways to make a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sftspec.conventions import Conventions
from sftspec.job import Job

COLLATORS = ("padded", "flattening", "language-modeling")
# accelerate's autocast around forward, and its mark that this is done. Where the mark stays, nothing is done again, and
# TRL, which puts in a forward of its own, goes on in float32.
LEFT_ON_THE_MODEL = ("forward", "_original_forward", "_is_accelerate_prepared")


def training_arguments(job: Job) -> dict[str, Any]:
    """What a job means in TrainingArguments: constant rate, plain SGD or AdamW, clipping only if asked for."""
    return {
        "output_dir": str(job.workdir / "output"),
        "use_cpu": job.model.device.type == "cpu",
        "per_device_train_batch_size": job.batch_size,
        "gradient_accumulation_steps": job.accumulation,
        "num_train_epochs": job.epochs,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": {"sgd": "sgd", "adamw": "adamw_torch"}[job.optimizer],
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm or 0.0,
        "seed": job.seed,
        "bf16": job.autocast == "bfloat16",
        "fp16": job.autocast == "float16",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no" if job.resume_at is None else "steps",
        "save_steps": job.resume_at or 500,
        "dataloader_pin_memory": False,
    }


def run_trainer(trainer: Any, job: Job, rebuild: Any) -> None:
    """Train, resume from the checkpoint of step `resume_at` if the job says so, and report what was logged.

    rebuild: makes the trainer anew around the same model, without what the first one hung on it, as a restarted
             process would
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    if job.resume_at is None:
        trainer.train()
    else:
        trainer.args.max_steps = job.resume_at
        trainer.train()
        for left in LEFT_ON_THE_MODEL:
            vars(job.model).pop(left, None)
        trainer = rebuild()
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(job.workdir / "output" / f"checkpoint-{job.resume_at}"))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    job.report(losses=[entry["loss"] for entry in history])
    if norms := [entry["grad_norm"] for entry in history if "grad_norm" in entry]:
        job.report(grad_norms=norms)


@dataclass(frozen=True)
class TransformersTrainer:
    """`transformers.Trainer`.

    collator  "padded": DataCollatorForSeq2Seq over ids and labels; "flattening": DataCollatorWithFlattening (rows
    joined
              into one, position_ids restart); "language-modeling": DataCollatorForLanguageModeling, which makes its own
              labels: every token, except where the id is the pad's
    """

    collator: str = "padded"

    def __post_init__(self) -> None:
        if self.collator not in COLLATORS:
            raise ValueError(f"collator={self.collator!r}; known: {', '.join(COLLATORS)}")

    name = "transformers"
    conventions = Conventions()

    @property
    def version(self) -> str:
        import transformers

        return transformers.__version__

    @property
    def claims(self) -> frozenset[str]:
        claims = {
            "padding",
            "accumulation",
            "truncation",
            "left-truncation",
            "clipping",
            "adamw",
            "frozen",
            "bf16",
            "resume",
            "log",
            "autocast",
        }
        return frozenset(claims | {"chat-template"})

    @property
    def policy(self) -> str:
        return "every-token" if self.collator == "language-modeling" else "all"

    def train(self, job: Job) -> None:
        run_trainer(self.build(job), job, lambda: self.build(job))

    def build(self, job: Job) -> Any:
        from datasets import Dataset
        from transformers import (
            DataCollatorForLanguageModeling,
            DataCollatorForSeq2Seq,
            DataCollatorWithFlattening,
            Trainer,
            TrainingArguments,
        )

        collators: dict[str, Callable[[], Any]] = {
            "padded": lambda: DataCollatorForSeq2Seq(job.tokenizer, padding=True),
            "flattening": lambda: DataCollatorWithFlattening(),
            "language-modeling": lambda: DataCollatorForLanguageModeling(job.tokenizer, mlm=False),
        }
        return Trainer(
            model=job.model,
            args=TrainingArguments(**training_arguments(job)),
            train_dataset=Dataset.from_list([self.example(job, list(talk)) for talk in job.conversations]),
            data_collator=collators[self.collator](),
            processing_class=job.tokenizer,
        )

    def example(self, job: Job, messages: list[dict]) -> dict[str, list[int]]:
        encoded = job.tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
        )
        kept = slice(job.max_length)
        if job.truncation_side == "left" and job.max_length is not None:
            kept = slice(-job.max_length, None)
        ids = encoded["input_ids"][kept]
        if self.collator == "language-modeling":
            return {"input_ids": ids}
        mask = encoded["assistant_masks"][kept]
        return {"input_ids": ids, "labels": [token if on else -100 for token, on in zip(ids, mask)]}
