"""TRL's `SFTTrainer`: padded, packed (`bfd`, `bfd_split`, `wrapped`; `ffd` before 0.20) or padding-free; three ways to
choose targets. Releases from 0.19 on; of earlier ones, to 0.11, what they have: no assistant_only_loss.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from sftspec.conformance.adapters.transformers_trainer import run_trainer, training_arguments
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

CHOICES = {
    "packing": ("none", "bfd", "bfd_split", "wrapped", "ffd"),
    "dataset": ("messages", "prompt-completion"),
    "loss_type": ("nll", "dft"),
    "peft": ("none", "lora", "rslora", "dora"),
}

# What to ask of a release that is older than a setting.
SETTINGS = {
    "padding_free": "padding_free=false",
    "assistant_only_loss": "assistant_only_loss=false",
    "packing_strategy": "packing=none",
    "loss_type": "loss_type=nll",
}


def config_fields() -> set[str]:
    """What the installed release's SFTConfig can be told; nothing where there is none."""
    try:
        from trl import SFTConfig
    except ImportError:
        return set()
    return {item.name for item in dataclasses.fields(SFTConfig)}


@dataclass(frozen=True)
class TRL:
    """`trl.SFTTrainer` on conversations.

    packing              "none", or TRL's packing_strategy
    padding_free         flatten a batch into one row
    assistant_only_loss  train the assistant's turns; false trains every token
    dataset              "messages", or "prompt-completion": the last assistant turn is the completion
    loss_type            TRL's loss_type
    peft                 "none", or adapters of PEFT: rank 8, alpha 16, on all linear layers but the head
    """

    packing: str = "none"
    padding_free: bool = False
    assistant_only_loss: bool = True
    dataset: str = "messages"
    loss_type: str = "nll"
    peft: str = "none"

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)!r}; known: {', '.join(choices)}")

    name = "trl"

    @property
    def conventions(self) -> Conventions:
        """A completion is rendered by the template, with the newline that follows its end-of-turn token."""
        return Conventions(separator=self.dataset == "prompt-completion")

    @property
    def version(self) -> str:
        import trl

        return trl.__version__

    @property
    def claims(self) -> frozenset[str]:
        layout = {"padding", "truncation"} if self.packing == "none" else {"packing"}
        if "truncation" in layout and "truncation_mode" in config_fields():
            layout.add("left-truncation")
        if self.padding_free:
            layout -= {"truncation", "left-truncation"}
        does = {"accumulation", "clipping", "adamw", "frozen", "bf16", "resume", "log", "chat-template", "autocast"}
        if self.peft != "none":
            does -= {"resume"}  # a second SFTTrainer around the same model would put in adapters twice
        return frozenset(layout | does)

    @property
    def policy(self) -> str:
        if self.dataset == "prompt-completion":
            return "last"
        return "all" if self.assistant_only_loss else "every-token"

    def accepts(self, conversation: Conversation) -> bool:
        """TRL raises on a conversation without an assistant turn when it is to train these alone.

        A prompt and its completion: the last turn is the assistant's, and something stands before it.
        """
        if self.dataset == "prompt-completion":
            return len(conversation) > 1 and conversation[-1]["role"] == "assistant"
        return not self.assistant_only_loss or any(message["role"] == "assistant" for message in conversation)

    def train(self, job: Job) -> None:
        run_trainer(self.build(job), job, lambda: self.build(job))

    def build(self, job: Job) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        known = config_fields()
        asked: dict[str, Any] = {"packing": self.packing != "none"}
        asked["max_length" if "max_length" in known else "max_seq_length"] = job.max_length
        if job.truncation_side == "left":
            asked["truncation_mode"] = "keep_end"
        newer = {  # and what they are where nothing is asked of them
            "padding_free": (self.padding_free, False),
            "assistant_only_loss": (self.assistant_only_loss and self.dataset == "messages", False),
            "packing_strategy": (self.packing, "none"),
            "loss_type": (self.loss_type, "nll"),
        }
        for name, (value, nothing) in newer.items():
            if value != nothing and name not in known:
                raise ValueError(f"TRL {self.version} has no {name}: use --set {SETTINGS[name]}")
            if value != nothing:
                asked[name] = value
        takes = inspect.signature(SFTTrainer.__init__).parameters
        named = "processing_class" if "processing_class" in takes else "tokenizer"
        return SFTTrainer(
            model=job.model,
            args=SFTConfig(**training_arguments(job), **asked),
            train_dataset=Dataset.from_list([self.record(list(talk)) for talk in job.conversations]),
            peft_config=None if self.peft == "none" else self.adapters(),
            **{named: job.tokenizer},
        )

    def adapters(self) -> Any:
        from peft import LoraConfig

        kind: dict[str, Any] = {"use_rslora": self.peft == "rslora", "use_dora": self.peft == "dora"}
        return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **kind)

    def record(self, messages: list[dict]) -> dict[str, list[dict]]:
        if self.dataset == "messages":
            return {"messages": messages}
        return {"prompt": messages[:-1], "completion": messages[-1:]}
