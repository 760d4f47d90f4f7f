"""mlx-lm's `mlx_lm.tuner.trainer.train` on its Llama and its ChatDataset, as `mlx_lm.lora` calls it for full tuning.

Its environment has no torch: its steps are recorded (conformance/witness/mlx_recorder.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

NO_LIMIT = 2**20


@dataclass(frozen=True)
class MlxLm:
    """`mlx_lm.tuner.trainer.train`.

    mask_prompt  train the last answer alone; false (mlx-lm's default) trains every token
    """

    mask_prompt: bool = False

    name, framework = "mlx-lm", "mlx"
    claims = frozenset({"padding", "accumulation", "adamw", "truncation", "log", "no-learned-positions", "no-dropout"})
    conventions = Conventions(separator=True, pad=0)  # all that follows the prompt is trained; rows end in zeros

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("mlx-lm")

    @property
    def policy(self) -> str:
        return "last" if self.mask_prompt else "every-token"

    def accepts(self, conversation: Conversation) -> bool:
        """With mask_prompt the last message is the completion, whoever wrote it, and something stands before it."""
        return not self.mask_prompt or (len(conversation) > 1 and conversation[-1]["role"] == "assistant")

    def train(self, job: Job) -> None:
        import mlx.core as mx
        import mlx.optimizers as optim
        import numpy as np
        from mlx_lm.tuner.callbacks import TrainingCallback
        from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
        from mlx_lm.tuner.trainer import TrainingArgs, train
        from mlx_lm.utils import load_model

        losses: list[float] = []

        class Losses(TrainingCallback):
            """The loss that is reported for each optimizer step."""

            def on_train_loss_report(self, train_info: dict) -> None:
                losses.append(train_info["train_loss"])

        model, _ = load_model(job.save_model(), lazy=False)
        job.listen_to(model, hidden="model.norm", weights=lambda state: state, arguments={"input_ids": "inputs"})
        adamw = optim.AdamW(job.learning_rate, weight_decay=job.weight_decay, bias_correction=True)
        rows = [{"messages": list(item)} for item in job.conversations]
        np.random.seed(job.seed), mx.random.seed(job.seed)
        iterations = job.epochs * (len(rows) // job.batch_size)  # a last batch that is not full is left out
        train(
            model,
            adamw if job.optimizer == "adamw" else optim.SGD(job.learning_rate),
            CacheDataset(ChatDataset(rows, job.tokenizer, mask_prompt=self.mask_prompt)),
            args=TrainingArgs(
                batch_size=job.batch_size,
                iters=iterations,
                steps_per_report=job.accumulation,
                steps_per_save=NO_LIMIT,
                max_seq_length=job.max_length or NO_LIMIT,
                adapter_file=str(job.workdir / "weights.safetensors"),
                grad_accumulation_steps=job.accumulation,
            ),
            training_callback=Losses(),
        )
        job.report(losses=losses[: iterations // job.accumulation])  # the last iteration tells one without a step
