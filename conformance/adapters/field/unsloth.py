"""unsloth on the CPU, which it offers where there is no GPU: `FastLanguageModel`, its `SFTTrainer` on text, and
`train_on_responses_only`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.field.logs import log_callback, report_logs
from sftspec.conformance.adapters.transformers_trainer import training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

HEADERS = {"instruction_part": "<|im_start|>user\n", "response_part": "<|im_start|>assistant\n"}


@dataclass(frozen=True)
class Unsloth:
    """`unsloth.FastLanguageModel` and the `SFTTrainer` that unsloth puts in place of TRL's.

    responses_only  `train_on_responses_only` with ChatML's headers; false trains every token
    """

    responses_only: bool = True

    name = "unsloth"
    conventions = Conventions()
    claims = frozenset({"padding", "truncation", "accumulation", "clipping", "adamw", "log", "no-learned-positions"})

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("unsloth")

    @property
    def policy(self) -> str:
        return "all" if self.responses_only else "every-token"

    def accepts(self, conversation: Conversation) -> bool:
        """Turns of the user between answers: the headers of these two are all that it is told."""
        roles = [message["role"] for message in conversation]
        roles = roles[1:] if roles[:1] == ["system"] else roles
        return bool(roles) and roles == ["user", "assistant"] * (len(roles) // 2)

    def train(self, job: Job) -> None:
        import unsloth  # isort: skip  # it changes what is imported after it
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer
        from unsloth.chat_templates import train_on_responses_only

        longest = job.max_length or 4096
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
            str(job.save_model()),
            max_seq_length=longest,
            dtype=job.model.dtype,
            load_in_4bit=False,
            full_finetuning=True,
            local_files_only=True,
        )
        texts = [job.tokenizer.apply_chat_template(list(talk), tokenize=False) for talk in job.conversations]
        logs = log_callback(job)
        trainer: Any = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"text": texts}),
            args=SFTConfig(
                **training_arguments(job), dataset_text_field="text", max_length=longest, dataset_num_proc=1
            ),
            callbacks=[logs],
        )
        if self.responses_only:
            trainer = train_on_responses_only(trainer, **HEADERS, num_proc=1)
        trainer.train()
        report_logs(job, logs)
