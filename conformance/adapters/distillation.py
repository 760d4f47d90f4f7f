"""TRL's trainers that learn from a teacher: `GKDTrainer` on a dataset, `DistillationTrainer` on its own samples.

Both are given the suite's own teacher; what they distilled is read by `sftspec.conformance.trial.distiller`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from sftspec.conformance.adapters.transformers_trainer import run_trainer, training_arguments
from sftspec.conformance.trial.distiller import distil
from sftspec.conversation import Conversation
from sftspec.job import Job
from sftspec.masking import Conventions


def divergence_of(beta: float) -> str:
    """The name of TRL's beta, as the recovery says it: 0 is the forward, 1 the reverse KL."""
    return {0.0: "forward KL", 1.0: "reverse KL"}.get(beta, f"JSD({beta:g})")


@dataclass(frozen=True)
class GKD:
    """`trl.experimental.gkd.GKDTrainer` without samples of its own (lmbda = 0): the dataset's last turns.

    teacher      a causal LM over the student's vocabulary; the suite puts its own there
    beta         of the generalised JSD: 0 is the forward, 1 the reverse KL
    temperature  GKDConfig's; its documentation says "for sampling"
    """

    teacher: Any = None
    beta: float = 0.5
    temperature: float = 0.9
    name: ClassVar[str] = "trl-gkd"
    policy: ClassVar[str] = "last"
    conventions: ClassVar[Conventions] = Conventions(separator=True)
    claims: ClassVar[frozenset[str]] = frozenset({"distillation", "padding", "accumulation"})

    @property
    def version(self) -> str:
        import trl

        return trl.__version__

    @property
    def divergence(self) -> str:
        return divergence_of(self.beta)

    @property
    def loss_temperature(self) -> float:
        return 1.0  # GKDConfig's is for sampling alone (trl#5731)

    @property
    def parts(self) -> dict[str, Any]:
        return {"distil": partial(distil, self)}

    def accepts(self, conversation: Conversation) -> bool:
        return len(conversation) > 1 and conversation[-1]["role"] == "assistant"

    def train(self, job: Job) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        trainer = GKDTrainer(
            model=job.model,
            teacher_model=self.teacher,
            args=GKDConfig(
                **training_arguments(job), max_length=job.max_length or 1024,
                lmbda=0.0, beta=self.beta, temperature=self.temperature,
            ),
            train_dataset=Dataset.from_list([{"messages": list(talk)} for talk in job.conversations]),
            processing_class=job.tokenizer,
        )  # fmt: skip
        run_trainer(trainer, job, None)


@dataclass(frozen=True)
class Distillation:
    """`trl.DistillationTrainer`: completions that the student samples for the prompts, compared with the teacher.

    completion  tokens to sample at most
    """

    teacher: Any = None
    beta: float = 1.0
    temperature: float = 1.0
    completion: int = 8
    name: ClassVar[str] = "trl-distillation"
    claims: ClassVar[frozenset[str]] = frozenset({"distillation", "padding", "accumulation"})

    @property
    def version(self) -> str:
        import trl

        return trl.__version__

    @property
    def divergence(self) -> str:
        return divergence_of(self.beta)

    @property
    def loss_temperature(self) -> float:
        return self.temperature

    @property
    def parts(self) -> dict[str, Any]:
        return {"distil": partial(distil, self)}

    def accepts(self, conversation: Conversation) -> bool:
        return len(conversation) > 1 and conversation[-1]["role"] == "assistant"

    def train(self, job: Job) -> None:
        from datasets import Dataset
        from trl import DistillationConfig, DistillationTrainer

        trainer = DistillationTrainer(
            model=job.model,
            teacher_model=self.teacher,
            args=DistillationConfig(
                **training_arguments(job), max_completion_length=self.completion,
                beta=self.beta, temperature=self.temperature,
            ),
            train_dataset=Dataset.from_list([{"prompt": list(talk)[:-1]} for talk in job.conversations]),
            processing_class=job.tokenizer,
        )  # fmt: skip
        run_trainer(trainer, job, None)
