"""fms-hf-tuning's `sft_trainer.train`, with one of two data handlers; it loads the model from a folder.

"chat" renders the chat template, and finds answers by rendering the conversation again up to each message.
"input-output" is given two texts, the prompt and the last answer, and finds the answer by the prompt's own tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters.field.logs import log_callback, report_logs
from sftspec.conformance.adapters.transformers_trainer import training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job


@dataclass(frozen=True)
class FmsHfTuning:
    """`tuning.sft_trainer.train`.

    handler                 of the data: "chat" or "input-output"
    enable_reduce_loss_sum  its own trainer, whose loss is a sum over the targets
    """

    enable_reduce_loss_sum: bool = False
    handler: str = "chat"

    def __post_init__(self) -> None:
        if self.handler not in HANDLERS:
            raise ValueError(f"handler={self.handler!r}; known: {', '.join(HANDLERS)}")

    name = "fms-hf-tuning"
    conventions = Conventions(separator=True)  # what stands between an answer and the next message is trained

    @property
    def claims(self) -> frozenset[str]:
        templates = {"chat-template"} if self.handler == "chat" else set()
        return frozenset({"padding", "truncation", "accumulation", "clipping", "adamw", "log", *templates})

    @property
    def policy(self) -> str:
        return "all" if self.handler == "chat" else "last"

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("fms-hf-tuning")

    def accepts(self, conversation: Conversation) -> bool:
        """Chat: not an answer before any message of another, whose header would be trained as if it were written.
        Two texts: what ends with an answer.
        """
        roles = [message["role"] for message in conversation]
        if self.handler == "input-output":
            return len(roles) > 1 and roles[-1] == "assistant"
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
            data_args=configs.DataArguments(data_config_path=str(data_config(job, self.handler))),
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


def data_config(job: Job, chosen: str) -> Path:
    """Its own description of a dataset, and the corpus beside it."""
    row, name, arguments = HANDLERS[chosen]
    rows = [row(job, talk) for talk in job.conversations]
    corpus, config = job.workdir / "data.jsonl", job.workdir / "data.yaml"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    handler = {
        "name": name,
        "arguments": {
            "remove_columns": "all",
            "batched": False,
            "fn_kwargs": {**arguments, "max_seq_length": job.max_length or 4096},
        },
    }
    text = {
        "dataprocessor": {"type": "default", "seed": job.seed},
        "datasets": [{"name": "corpus", "data_paths": [str(corpus)], "data_handlers": [handler]}],
    }
    config.write_text(json.dumps(text), encoding="utf-8")  # JSON is YAML
    return config


def messages(job: Job, talk: Conversation) -> dict[str, Any]:
    return {"messages": list(talk)}


def two_texts(job: Job, talk: Conversation) -> dict[str, Any]:
    """The rendered prompt, and all that is rendered behind it."""
    whole = job.tokenizer.apply_chat_template(list(talk), tokenize=False)
    prompt = job.tokenizer.apply_chat_template(list(talk)[:-1], tokenize=False, add_generation_prompt=True)
    return {"input": prompt, "output": whole.removeprefix(prompt)}


# (a row of a conversation, the name of a data handler of its own, its arguments)
HANDLERS: dict[str, tuple[Callable[[Job, Conversation], dict[str, Any]], str, dict[str, Any]]] = {
    "chat": (messages, "tokenize_and_apply_chat_template_with_masking", {"conversation_column": "messages"}),
    "input-output": (
        two_texts,
        "tokenize_and_apply_input_masking",
        {"input_column_name": "input", "output_column_name": "output", "add_eos_token": False},
    ),
}
