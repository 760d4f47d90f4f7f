"""`trl.SFTTrainer` of any release since 0.15: arguments that were renamed are given the name that it has there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.transformers_trainer import run_trainer, training_arguments
from sftspec.conventions import Conventions
from sftspec.job import Job


@dataclass(frozen=True)
class OldSFT:
    """A release of TRL, with what its users write.

    dataset         "messages"; "text": rendered without BOS and EOS, which are left to TRL;
                    "prompt-completion": the last turn is the completion
    packing         with the release's default strategy
    assistant_only  assistant_only_loss
    liger           use_liger_kernel, with every kernel switched off: what TRL itself does for it stays
    """

    dataset: str = "messages"
    packing: bool = False
    assistant_only: bool = False
    liger: bool = False

    name = "trl"

    @property
    def version(self) -> str:
        import trl

        return trl.__version__

    @property
    def claims(self) -> frozenset[str]:
        return frozenset({"packing"} if self.packing else {"padding", "truncation", "chat-template"})

    @property
    def policy(self) -> str:
        return "last" if self.dataset == "prompt-completion" else "all" if self.assistant_only else "every-token"

    @property
    def conventions(self) -> Conventions:
        return Conventions(separator=self.dataset == "prompt-completion")

    def accepts(self, conversation: list[dict]) -> bool:
        answered = any(message["role"] == "assistant" for message in conversation)
        if self.dataset == "messages":
            return answered or not self.assistant_only
        return [message["role"] for message in conversation[-2:]] == ["user", "assistant"]

    def train(self, job: Job) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        known = {item.name for item in dataclasses.fields(SFTConfig)}
        options = {
            "max_length": job.max_length,
            "max_seq_length": job.max_length,
            "packing": self.packing,
            "assistant_only_loss": self.assistant_only,
            "use_liger_kernel": self.liger,
            "liger_kernel_config": dict.fromkeys(KERNELS, False),
        }
        arguments = SFTConfig(
            **training_arguments(job), **{key: value for key, value in options.items() if key in known}
        )
        rows = [self.record(job, list(conversation)) for conversation in job.conversations]
        trainer = SFTTrainer(
            model=job.model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=job.tokenizer
        )
        run_trainer(trainer, job, None)

    def record(self, job: Job, messages: list[dict]) -> dict[str, Any]:
        if self.dataset == "messages":
            return {"messages": messages}
        if self.dataset == "prompt-completion":
            return {"prompt": messages[:-1], "completion": messages[-1:]}
        text = job.tokenizer.apply_chat_template(messages, tokenize=False)
        text = text.removeprefix(job.tokenizer.bos_token or "")
        return {"text": text[: text.rindex(job.tokenizer.eos_token)]}


KERNELS = ("rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy")
