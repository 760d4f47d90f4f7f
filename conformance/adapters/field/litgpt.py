"""LitGPT's full fine-tuning, `litgpt finetune_full` with its JSON data module.

Its samples have one instruction and one output: all turns before the last assistant turn are rendered by the chat
template into the instruction (prompt style Default), and the output is followed by the end-of-sequence token. Its
learning rate always warms up and decays; the optimizer option is given a class that holds its rate.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job


class SteadyGroup(dict):
    """A parameter group whose rate a scheduler does not change."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "lr":
            super().__setitem__(key, value)


class SteadySGD(torch.optim.SGD):
    """SGD at its rate, whatever a scheduler says."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1] = SteadyGroup(self.param_groups[-1])


class SteadyAdamW(torch.optim.AdamW):
    """AdamW at its rate, whatever a scheduler says."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1] = SteadyGroup(self.param_groups[-1])


@dataclass(frozen=True)
class LitGPT:
    """`litgpt.finetune.full.setup`.

    mask_prompt  train the output alone; false (LitGPT's default) trains instruction and output
    """

    mask_prompt: bool = True

    name = "litgpt"
    # Prompt and output are encoded apart, nothing stands after the output's end, rows are filled up with 0.
    conventions = Conventions(final_separator=False, tokenization="answers", pad=0)
    # Its GPT is built from a config of its own: neither learned positions nor dropout. It refuses train.max_norm.
    claims = frozenset(
        {"padding", "accumulation", "adamw", "truncation", "log", "no-learned-positions", "no-dropout", "bf16"}
    )

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("litgpt")

    @property
    def policy(self) -> str:
        return "last" if self.mask_prompt else "every-token"

    def accepts(self, conversation: Conversation) -> bool:
        """An instruction, and an output at the end. An earlier answer is part of the instruction's text: one that
        begins with a newline would be cut into other tokens than an answer of its own.
        """
        earlier = (item["content"] for item in conversation[:-1] if item["role"] == "assistant")
        is_paired = len(conversation) > 1 and conversation[-1]["role"] == "assistant"
        return is_paired and not any(text.startswith("\n") for text in earlier)

    def train(self, job: Job) -> None:
        from litgpt.args import EvalArgs, TrainArgs
        from litgpt.data import JSON
        from litgpt.finetune.full import setup
        from litgpt.model import GPT
        from litgpt.prompts import Default
        from litgpt.scripts.convert_lit_checkpoint import copy_weights_llama

        def to_hugging_face(own: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            copy_weights_llama(config, found, own)
            return found

        folder, config = checkpoint(job)
        job.listen_to(GPT, hidden="transformer.ln_f", weights=to_hugging_face, arguments={"input_ids": "idx"})
        kind = {"sgd": "SteadySGD", "adamw": "SteadyAdamW"}[job.optimizer]
        command, sys.argv = sys.argv, ["litgpt", "finetune_full", str(folder)]  # which it writes beside its result
        try:
            setup(
                folder,
                out_dir=job.workdir / "out",
                precision="bf16-true" if job.model.dtype == torch.bfloat16 else "32-true",
                data=JSON(
                    data(job), mask_prompt=self.mask_prompt, prompt_style=Default(), num_workers=0, seed=job.seed
                ),
                train=TrainArgs(
                    global_batch_size=job.batch_size * job.accumulation,
                    micro_batch_size=job.batch_size,
                    lr_warmup_steps=10**6,  # 0, and as many as there are steps, divide by zero
                    epochs=job.epochs,
                    max_seq_length=job.max_length,
                ),
                eval=EvalArgs(interval=10**9, max_new_tokens=1, max_iters=1, final_validation=False),
                optimizer={
                    "class_path": f"{__name__}.{kind}",
                    "init_args": {"lr": job.learning_rate, "weight_decay": job.weight_decay},
                },
                seed=job.seed,
            )
        finally:
            sys.argv = command
        job.report(losses=logged(job.workdir / "out", job.accumulation))


def checkpoint(job: Job) -> tuple[Path, Any]:
    """A checkpoint in LitGPT's form, by its own converter. Returns the folder, and LitGPT's config."""
    from litgpt.config import Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import save_config

    folder, given = job.save_model(), job.model.config
    config = Config(
        name="witness",
        hf_config={},
        block_size=given.max_position_embeddings,
        vocab_size=given.vocab_size,
        padded_vocab_size=given.vocab_size,
        n_layer=given.num_hidden_layers,
        n_head=given.num_attention_heads,
        n_query_groups=given.num_key_value_heads,
        head_size=given.head_dim,
        n_embd=given.hidden_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=given.rms_norm_eps,
        mlp_class_name="LLaMAMLP",
        intermediate_size=given.intermediate_size,
        rope_base=10000,
    )
    state: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, state, dict(job.model.state_dict()))
    torch.save(state, folder / "lit_model.pth")
    save_config(config, folder)
    return folder, config


def data(job: Job) -> Path:
    """A folder with train.json and val.json, as the data module reads it."""
    folder = job.workdir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for conversation in job.conversations:
        messages = [dict(message) for message in conversation]
        prompt = job.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        samples.append({"instruction": prompt, "output": messages[-1]["content"]})
    (folder / "train.json").write_text(json.dumps(samples), encoding="utf-8")
    (folder / "val.json").write_text(json.dumps(samples[:1]), encoding="utf-8")
    return folder


def logged(folder: Path, accumulation: int) -> list[float]:
    """The loss that was logged at the last iteration of each step."""
    path = max(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    with path.open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line.get("loss")]
    return [float(line["loss"]) for line in lines if int(float(line["iter"])) % accumulation == 0]
