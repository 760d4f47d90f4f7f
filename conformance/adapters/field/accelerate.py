"""accelerate's loop, as its guides write it: `prepare`, `accumulate`, `backward`, `clip_grad_norm_`, `step`.

loop="quicktour" is the loop of the quick tour and of "Performing gradient accumulation": the model's own mean loss,
which `accelerator.backward` divides by the number of micro-batches. loop="num-items" is that of the same guide for
samples of variable size: the targets of a step are counted first, and the loss is scaled to undo that division.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.transformers_trainer import TransformersTrainer
from sftspec.conventions import Conventions
from sftspec.job import Job

LOOPS = ("num-items", "quicktour")


@dataclass(frozen=True)
class Accelerate:
    """`accelerate.Accelerator` around a model of transformers, padded batches, all assistant turns trained.

    loop  "num-items" or "quicktour"
    """

    loop: str = "num-items"

    def __post_init__(self) -> None:
        if self.loop not in LOOPS:
            raise ValueError(f"loop={self.loop!r}; known: {', '.join(LOOPS)}")

    name = "accelerate"
    conventions = Conventions()
    claims = frozenset(
        {"padding", "accumulation", "truncation", "left-truncation", "clipping", "adamw", "bf16", "autocast", "log"}
        | {"chat-template"}
    )

    @property
    def version(self) -> str:
        import accelerate

        return accelerate.__version__

    def train(self, job: Job) -> None:
        import torch
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
        from transformers import DataCollatorForSeq2Seq

        AcceleratorState._reset_state(True)  # of the job before, in the same process
        GradientState._reset_state()
        precision = {"": "no", "bfloat16": "bf16", "float16": "fp16"}[job.autocast]
        given = {"cpu": job.device == "cpu", "mixed_precision": precision}
        accelerator = Accelerator(gradient_accumulation_steps=job.accumulation, **given)
        rows = [TransformersTrainer().example(job, list(talk)) for talk in job.conversations]
        for row in rows:
            row["attention_mask"] = [1] * len(row["input_ids"])
        loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            rows,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=job.batch_size,
            shuffle=True,
            collate_fn=DataCollatorForSeq2Seq(job.tokenizer, padding=True),
            generator=torch.Generator().manual_seed(job.seed),
        )
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
        optimizer = kind(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
        model, optimizer, loader = accelerator.prepare(job.model, optimizer, loader)
        model.train()
        steps = self.by_batch if self.loop == "quicktour" else self.by_step
        losses, norms = [], []
        for _ in range(job.epochs):
            for loss, norm in steps(accelerator, job, model, optimizer, loader):
                losses.append(loss)
                norms.append(norm)
        job.report(losses=losses)
        if job.max_grad_norm is not None:
            job.report(grad_norms=norms)

    def by_batch(self, accelerator: Any, job: Job, model: Any, optimizer: Any, loader: Any) -> Iterator[tuple]:
        """The quick tour: one batch after another, `accumulate` says when the optimizer steps."""
        told: list[float] = []
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch, use_cache=False).loss
                accelerator.backward(loss)
                told.append(float(loss))
                norm = 0.0
                if accelerator.sync_gradients and job.max_grad_norm is not None:
                    norm = float(accelerator.clip_grad_norm_(model.parameters(), job.max_grad_norm))
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                yield sum(told) / len(told), norm
                told = []

    def by_step(self, accelerator: Any, job: Job, model: Any, optimizer: Any, loader: Any) -> Iterator[tuple]:
        """The guide on gradient accumulation: the batches of a step are fetched first, and their targets counted, over
        all processes. DDP averages gradients over them, which a factor undoes.
        """
        import torch

        def over_all(number: float) -> float:
            return float(accelerator.reduce(torch.tensor(float(number), device=accelerator.device), "sum"))

        batches, remainder = iter(loader), len(loader) % job.accumulation or job.accumulation
        updates = -(-len(loader) // job.accumulation)
        undone = accelerator.gradient_accumulation_steps * accelerator.num_processes
        for update in range(updates):
            count = remainder if update == updates - 1 else job.accumulation
            step = [next(batches) for _ in range(count)]
            items = int(over_all(sum(int(batch["labels"][:, 1:].ne(-100).sum()) for batch in step)))
            told = 0.0
            for batch in step:
                loss = model(**batch, num_items_in_batch=max(items, 1), use_cache=False).loss
                accelerator.backward(loss * undone)
                told += float(loss)
            norm = 0.0
            if job.max_grad_norm is not None:
                norm = float(accelerator.clip_grad_norm_(model.parameters(), job.max_grad_norm))
            optimizer.step()
            optimizer.zero_grad()
            yield over_all(told), norm
