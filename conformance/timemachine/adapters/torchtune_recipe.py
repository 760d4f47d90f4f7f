"""torchtune's `full_finetune_single_device` recipe: its own `train`, on job.model in place of a checkpoint."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from sftspec.conformance.adapters.field.plain_loop import Loop
from sftspec.job import Job


@dataclass(frozen=True)
class Recipe(Loop):
    """What `setup` makes of a checkpoint, a tokenizer and a dataset is put there; the rest is the recipe's."""

    package = "torchtune"
    claims = frozenset({"padding", "accumulation"})

    def accepts(self, conversation: list[Any]) -> bool:
        """A micro-batch without a target makes NaN in every release, which is another matter."""
        return any(message["role"] == "assistant" for message in conversation)

    def train(self, job: Job) -> None:
        from torchtune.data import padded_collate_sft

        recipe = recipe_class().__new__(recipe_class())
        loss = torch.nn.CrossEntropyLoss(ignore_index=-100)
        rows: Any = [
            dict(zip(("tokens", "labels"), self.row(job, list(talk)), strict=True)) for talk in job.conversations
        ]
        loader: Any = torch.utils.data.DataLoader(
            rows,
            batch_size=job.batch_size,
            collate_fn=partial(padded_collate_sft, padding_idx=job.tokenizer.pad_token_id),
        )
        quiet = SimpleNamespace(start=lambda: None, stop=lambda: None, step=lambda: None)
        for name, value in {
            "model": Called(job.model, job.tokenizer.pad_token_id), "loss_fn": loss, "dataloader": loader,
            "optimizer": torch.optim.SGD(job.model.parameters(), lr=job.learning_rate), "device": torch.device("cpu"),
            "sampler": SimpleNamespace(set_epoch=lambda epoch: None), "profiler": quiet, "compile": False,
            "optimizer_in_bwd": False, "gradient_accumulation_steps": job.accumulation, "clip_grad_norm": None,
            "steps_per_epoch": len(loader) // job.accumulation, "log_every_n_steps": 1, "lr_scheduler": None,
            "log_peak_memory_stats": False, "metric_logger": SimpleNamespace(log_dict=lambda *said, **more: None),
        }.items():  # fmt: skip
            object.__setattr__(recipe, f"_{name}", value)
        recipe.epochs_run, recipe.total_epochs, recipe.global_step, recipe.max_steps_per_epoch = 0, job.epochs, 0, None
        recipe.profiler_profile_memory, recipe.activations_handling_ctx = False, nullcontext()
        recipe.ignore_labels_cache = torch.full((job.batch_size, 1), -100)
        recipe.save_checkpoint = lambda epoch: None
        recipe.train()


class Called(torch.nn.Module):
    """job.model, called as the recipe calls torchtune's: `tokens` alone, rows filled up on the right."""

    def __init__(self, model: Any, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def recipe_class() -> Any:
    """It is a script in a folder beside the package."""
    import torchtune

    path = Path(torchtune.__file__).parents[1] / "recipes" / "full_finetune_single_device.py"
    spec: Any = importlib.util.spec_from_file_location("full_finetune_single_device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FullFinetuneRecipeSingleDevice
