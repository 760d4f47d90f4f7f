"""fms-hf-tuning's `sft_trainer.train`, with its data handler that renders the chat template and masks all but answers.

It finds answers by rendering the conversation again up to each message, and loads the model from a folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sftspec.conformance.adapters.field.logs import log_callback, report_logs
from sftspec.conformance.adapters.transformers_trainer import training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job


@dataclass(frozen=True)
class FmsHfTuning:
    """`tuning.sft_trainer.train`.

    enable_reduce_loss_sum  its own trainer, whose loss is a sum over the targets
    """

    enable_reduce_loss_sum: bool = False

    name = "fms-hf-tuning"
    conventions = Conventions(separator=True)  # what stands between an answer and the next message is trained
    claims = frozenset({"padding", "truncation", "accumulation", "clipping", "adamw", "log", "chat-template"})

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("fms-hf-tuning")

    def accepts(self, conversation: Conversation) -> bool:
        """Not an answer before any message of another: a header before it would be trained as if it were written."""
        roles = [message["role"] for message in conversation]
        return all(one != "assistant" or before != "assistant" for before, one in zip(["assistant", *roles], roles))

    def train(self, job: Job) -> None:
        from tuning.config import configs
        from tuning.sft_trainer import train

        logs, folder = log_callback(job), job.save_model()
        given = training_arguments(job)
        train(
            model_args=configs.ModelArguments(
                model_name_or_path=str(folder),
                tokenizer_name_or_path=str(folder),  # else it adds tokens, and the model grows
                use_flash_attn=False,
                torch_dtype="float32",
            ),
            data_args=configs.DataArguments(data_config_path=str(data_config(job))),
            train_args=configs.TrainingArguments(
                **given,
                max_seq_length=job.max_length or 4096,
                cache_dir=str(job.workdir / "cache"),
                resume_from_checkpoint="false",
                enable_reduce_loss_sum=self.enable_reduce_loss_sum,
                remove_unused_columns=False,
                logging_strategy="steps",
            ),
            additional_callbacks=[logs],
        )
        report_logs(job, logs)


def data_config(job: Job) -> Path:
    """Its own description of a dataset, and the corpus beside it."""
    rows = [
        {"messages": [{"role": item["role"], "content": item["content"]} for item in talk]}
        for talk in job.conversations
    ]
    corpus, config = job.workdir / "data.jsonl", job.workdir / "data.yaml"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    handler = {
        "name": "tokenize_and_apply_chat_template_with_masking",
        "arguments": {
            "remove_columns": "all",
            "batched": False,
            "fn_kwargs": {"conversation_column": "messages", "max_seq_length": job.max_length or 4096},
        },
    }
    text = {
        "dataprocessor": {"type": "default", "seed": job.seed},
        "datasets": [{"name": "corpus", "data_paths": [str(corpus)], "data_handlers": [handler]}],
    }
    config.write_text(json.dumps(text), encoding="utf-8")  # JSON is YAML
    return config
