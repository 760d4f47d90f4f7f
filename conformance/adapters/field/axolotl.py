"""axolotl's command `axolotl train`, from its configuration on: datasets of type chat_template, and `train`."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conventions import Conventions
from sftspec.job import Job

CHOICES = {"attn_implementation": ("sdpa", "eager", "flex_attention")}


@dataclass(frozen=True)
class Axolotl:
    """`axolotl.train.train` on what `axolotl.common.datasets.load_datasets` makes of a configuration.

    sample_packing       several examples a row of sequence_len tokens
    train_on_inputs      train the contents of all messages
    attn_implementation  "sdpa" or "eager": flash attention is not there on a CPU
    """

    sample_packing: bool = False
    train_on_inputs: bool = False
    attn_implementation: str = "sdpa"

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)!r}; known: {', '.join(choices)}")

    name = "axolotl"
    conventions = Conventions()

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("axolotl")

    @property
    def claims(self) -> frozenset[str]:
        layout = {"packing"} if self.sample_packing else {"padding", "truncation"}
        policy = set() if self.train_on_inputs else {"train-flag"}
        return frozenset(layout | policy | {"accumulation", "clipping", "adamw", "log", "chat-template"})

    @property
    def policy(self) -> str:
        return "contents" if self.train_on_inputs else "all"

    def train(self, job: Job) -> None:
        os.environ["AXOLOTL_DATASET_NUM_PROC"] = "0"  # its own variable: no processes for a dozen rows
        from axolotl.cli.config import load_cfg
        from axolotl.common.datasets import load_datasets
        from axolotl.train import train

        gc.freeze()  # to count packs it collects garbage nine times, and would walk all that was imported
        job.listen_to(type(job.model))
        cfg = load_cfg(str(self.configuration(job)))
        _, _, trainer = train(cfg=cfg, dataset_meta=load_datasets(cfg=cfg))
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        job.report(losses=[float(entry["loss"]) for entry in steps])
        job.report(grad_norms=[float(entry["grad_norm"]) for entry in steps])

    def configuration(self, job: Job) -> Path:
        """The file that `axolotl train` is given."""
        given: dict[str, Any] = {
            "base_model": str(job.save_model()),
            "datasets": [
                {
                    "path": str(data(job)),
                    "ds_type": "json",
                    "type": "chat_template",
                    "chat_template": "tokenizer_default",
                    "message_field_training": "train",
                }
            ],
            "dataset_prepared_path": str(job.workdir / "prepared"),
            "dataset_num_proc": 0,
            "output_dir": str(job.workdir / "output"),
            "sequence_len": job.max_length or 4096,
            "excess_length_strategy": "truncate",
            "sample_packing": self.sample_packing,
            "train_on_inputs": self.train_on_inputs,
            "attn_implementation": self.attn_implementation,
            "micro_batch_size": job.batch_size,
            "gradient_accumulation_steps": job.accumulation,
            "num_epochs": job.epochs,
            "optimizer": {"sgd": "sgd", "adamw": "adamw_torch"}[job.optimizer],
            "learning_rate": job.learning_rate,
            "lr_scheduler": "constant",
            "weight_decay": job.weight_decay,
            "max_grad_norm": job.max_grad_norm or 0.0,
            "seed": job.seed,
            "bf16": False,
            "fp16": False,
            "tf32": False,
            "val_set_size": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "dataloader_num_workers": 0,
            "dataloader_prefetch_factor": None,
            "dataloader_pin_memory": False,
        }
        path = job.workdir / "config.yaml"
        path.write_text(json.dumps(given), encoding="utf-8")  # JSON is YAML
        return path


def data(job: Job) -> Path:
    path = job.workdir / "data.jsonl"
    # "train": true trains a message whoever wrote it, so that only what is not to be trained is marked.
    rows = [{"messages": [unmarked(item) for item in talk]} for talk in job.conversations]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def unmarked(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "train" or not value}
