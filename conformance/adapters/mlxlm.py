"""mlx-lm on trial: `mlx_lm.tuner.trainer.train` on its own Llama and ChatDataset, as `mlx_lm.lora` calls it for full
fine-tuning. It runs where mlx-lm is installed, which needs no torch; mlxlm.lock pins what was tried:

    sftspec check conformance/adapters/mlxlm.py --python ENV/bin/python --set mask_prompt=true
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, train
from mlx_lm.utils import load_model

from sftspec.conventions import Conventions
from sftspec.job import Job

NO_LIMIT = 2**20


class Losses(TrainingCallback):
    """The loss that is reported for each optimizer step."""

    def __init__(self) -> None:
        self.reported: list[float] = []

    def on_train_loss_report(self, info: dict) -> None:
        self.reported.append(info["train_loss"])


@dataclass(frozen=True)
class MlxLm:
    """Full fine-tuning. mask_prompt: train the last answer alone; without it, as by default, every token."""

    mask_prompt: bool = False

    name, version, framework = "mlx-lm", version("mlx-lm"), "mlx"
    claims = frozenset({"padding", "accumulation", "adamw", "truncation", "log", "no-learned-positions", "no-dropout"})
    conventions = Conventions(pad=0)  # iterate_batches fills up with zeros

    @property
    def policy(self) -> str:
        return "last" if self.mask_prompt else "every-token"

    def accepts(self, conversation: list[dict]) -> bool:
        """With mask_prompt it renders all but the last message, and raises where nothing is left."""
        return len(conversation) > self.mask_prompt

    def train(self, job: Job) -> None:
        model, _ = load_model(job.save_model(), lazy=False)
        job.listen_to(model, hidden="model.norm", weights=lambda state: state, arguments={"input_ids": "inputs"})
        adamw = optim.AdamW(job.learning_rate, weight_decay=job.weight_decay, bias_correction=True)
        rows = [{"messages": list(item)} for item in job.conversations]
        np.random.seed(job.seed), mx.random.seed(job.seed)
        losses = Losses()
        train(
            model,
            adamw if job.optimizer == "adamw" else optim.SGD(job.learning_rate),
            CacheDataset(ChatDataset(rows, job.tokenizer, mask_prompt=self.mask_prompt)),
            args=TrainingArgs(
                batch_size=job.batch_size,
                iters=job.epochs * (len(rows) // job.batch_size),  # a last batch that is not full is left out
                steps_per_report=job.accumulation,
                steps_per_save=NO_LIMIT,
                max_seq_length=job.max_length or NO_LIMIT,
                adapter_file=str(job.workdir / "weights.safetensors"),
                grad_accumulation_steps=job.accumulation,
            ),
            training_callback=losses,
        )
        job.report(losses=losses.reported)
