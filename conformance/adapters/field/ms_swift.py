"""ms-swift's `sft_main`, with its template chatml, which has no system prompt of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters.field.logs import log_callback, report_logs
from sftspec.conformance.adapters.transformers_trainer import training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

CHOICES = {
    "loss_scale": ("default", "last_round", "all"),
    "truncation_strategy": ("right", "left", "delete"),
    "tuner_type": ("full", "lora"),
}


@dataclass(frozen=True)
class MsSwift:
    """`swift.pipelines.sft_main`.

    loss_scale           "default": all answers; "last_round": the last one; "all": every token
    truncation_strategy  what is cut of a sample over max_length; "delete" leaves it out (ms-swift's default)
    tuner_type           "full" or "lora" (rank 8, alpha 16, on all linear layers)
    lazy_tokenize        encode a sample when its batch is made
    runs_of_a_role       hand over also conversations in which messages of one role follow each other: it joins them
    """

    loss_scale: str = "default"
    truncation_strategy: str = "right"
    tuner_type: str = "full"
    runs_of_a_role: bool = False
    lazy_tokenize: bool = False

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)!r}; known: {', '.join(choices)}")

    name = "ms-swift"

    @property
    def claims(self) -> frozenset[str]:
        cut = "left-truncation" if self.truncation_strategy == "left" else "truncation"
        flag = {"train-flag"} if self.loss_scale == "default" else set()  # the others say themselves what is trained
        return frozenset({"padding", cut, "accumulation", "clipping", "adamw", "log", "no-learned-positions"} | flag)

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("ms-swift")

    @property
    def conventions(self) -> Conventions:
        """What is trained is encoded apart from what is not; the newline after an answer is trained."""
        return Conventions(separator=True, tokenization="whole" if self.loss_scale == "all" else "answers")

    @property
    def policy(self) -> str:
        return {"default": "all", "last_round": "last", "all": "every-token"}[self.loss_scale]

    def accepts(self, conversation: Conversation) -> bool:
        """User and assistant in turn, after one message of the system at most. An answer that is not trained is encoded
        with what stands around it: one that begins with a newline would be cut otherwise than as an answer.
        """
        answers = [item for item in conversation if item["role"] == "assistant"]
        untrained = answers[:-1] if self.loss_scale == "last_round" else [*filter(is_masked, answers)]
        if any(item["content"].startswith("\n") for item in untrained):
            return False
        roles = [message["role"] for message in conversation]
        roles = roles[1:] if roles[:1] == ["system"] else roles
        if self.runs_of_a_role:
            roles = [role for role, _ in groupby(roles)]
        return bool(roles) and roles == ["user", "assistant"] * (len(roles) // 2)

    def train(self, job: Job) -> None:
        from swift.pipelines import SwiftSft

        logs = log_callback(job)

        class Logged(SwiftSft):
            """Its own pipeline, with one callback more."""

            def train(self, trainer: Any) -> Any:
                trainer.add_callback(logs)
                return super().train(trainer)

        Logged(self.arguments(job)).main()
        report_logs(job, logs)

    def arguments(self, job: Job) -> list[str]:
        given = {
            **training_arguments(job),
            "model": str(job.save_model()),
            "model_type": "llama",
            "template": "chatml",
            "check_model": False,
            "torch_dtype": "float32",
            "attn_impl": "sdpa",
            "tuner_type": self.tuner_type,
            "lora_rank": 8,
            "lora_alpha": 16,
            "dataset": str(data(job)),
            "load_from_cache_file": False,
            "dataset_num_proc": 1,
            "dataloader_num_workers": 0,
            "max_length": job.max_length or 4096,
            "truncation_strategy": self.truncation_strategy,
            "loss_scale": self.loss_scale,
            "adam_beta2": 0.999,  # its own default is 0.95
            "data_seed": job.seed,  # it orders by this one alone
            "add_version": False,
            "split_dataset_ratio": 0,
            "lazy_tokenize": self.lazy_tokenize,
        }
        del given["disable_tqdm"]
        return [
            word
            for key, value in given.items()
            for word in (f"--{key}", str(value).lower() if value in (True, False) else str(value))
        ]


def data(job: Job) -> Path:
    path = job.workdir / "data.jsonl"
    talks = [[message(item) for item in talk] for talk in job.conversations]
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    return path


def message(item: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the form of ms-swift, in which `loss` says that it is not trained."""
    form = {"role": item["role"], "content": item["content"]}
    return form | ({"loss": False} if is_masked(item) else {})


def is_masked(item: Mapping[str, Any]) -> bool:
    return not item.get("train", True)
