"""LLaMA-Factory's `run_exp`, stage "sft", with its template chatml, which has no system prompt of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters.field.logs import log_callback, report_logs
from sftspec.conformance.adapters.transformers_trainer import training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

CHOICES = {
    "finetuning_type": ("full", "lora"),
    "template": ("chatml", "qwen"),
    "formatting": ("sharegpt", "openai"),
}


@dataclass(frozen=True)
class LLaMAFactory:
    """`llamafactory.train.tuner.run_exp`.

    packing          several examples a row of cutoff_len tokens, which see each other
    neat_packing     the same, and they do not: a block-diagonal mask
    mask_history     train the last turn alone
    train_on_prompt  train every token
    finetuning_type  "full" or "lora" (rank 8, alpha 16, on all linear layers)
    template         "chatml", or "qwen": the same with a system prompt where the conversation has none
    formatting       "sharegpt" with the tags of OpenAI's messages, or "openai"
    """

    packing: bool = False
    neat_packing: bool = False
    mask_history: bool = False
    train_on_prompt: bool = False
    finetuning_type: str = "full"
    template: str = "chatml"
    formatting: str = "sharegpt"

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)!r}; known: {', '.join(choices)}")

    name = "llamafactory"
    # Each message is encoded by itself; the newline after an answer is trained.
    conventions = Conventions(separator=True, tokenization="answers")

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("llamafactory")

    @property
    def claims(self) -> frozenset[str]:
        layout = {"packing"} if self.packing or self.neat_packing else {"padding", "truncation"}
        # Of a GPT-2, whose matrices are no nn.Linear, it finds no target for adapters.
        kind = {"no-learned-positions"} if self.finetuning_type == "lora" else set()
        return frozenset(layout | kind | {"accumulation", "clipping", "adamw", "log"})

    @property
    def policy(self) -> str:
        return "every-token" if self.train_on_prompt else "last" if self.mask_history else "all"

    def accepts(self, conversation: Conversation) -> bool:
        """User and assistant in turn, after one message of the system at most: it skips others with a warning."""
        roles = [message["role"] for message in conversation]
        roles = roles[1:] if roles[:1] == ["system"] else roles
        return bool(roles) and roles == ["user", "assistant"] * (len(roles) // 2)

    def train(self, job: Job) -> None:
        from llamafactory.train.tuner import run_exp

        logs = log_callback(job)
        run_exp(self.arguments(job), callbacks=[logs])
        report_logs(job, logs)

    def arguments(self, job: Job) -> dict[str, Any]:
        return {
            **training_arguments(job),
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(job.save_model()),
            "finetuning_type": self.finetuning_type,
            "lora_target": "all",
            "lora_rank": 8,
            "lora_alpha": 16,
            "dataset_dir": str(data(job, self.formatting)),
            "dataset": "corpus",
            "template": self.template,
            "cutoff_len": job.max_length or 4096,
            "packing": self.packing or self.neat_packing,
            "neat_packing": self.neat_packing,
            "mask_history": self.mask_history,
            "train_on_prompt": self.train_on_prompt,
            "flash_attn": "sdpa",
            "cache_dir": str(job.workdir / "cache"),
            "overwrite_cache": True,
            "overwrite_output_dir": True,
            "remove_unused_columns": False,
            "dataloader_num_workers": 0,
            "save_only_model": True,
        }


def data(job: Job, formatting: str) -> Path:
    """A dataset folder as LLaMA-Factory reads it: dataset_info.json, and the corpus in the form of OpenAI."""
    folder = job.workdir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    form = {
        "file_name": "corpus.json",
        "formatting": formatting,
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    (folder / "dataset_info.json").write_text(json.dumps({"corpus": form}), encoding="utf-8")
    talks = [[{"role": item["role"], "content": item["content"]} for item in talk] for talk in job.conversations]
    rows = [{"messages": talk} for talk in talks]
    (folder / "corpus.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder
