"""Two helpers of the other scripts: torchtune's recipe `full_finetune_single_device` around a model of one matrix."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import torch
from torchtune.modules.loss import CEWithChunkedOutputLoss

VOCABULARY = 8


class Tiny(torch.nn.Module):
    """Token in, logits in one chunk out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, tokens, **rest):
        return [self.table(tokens)]


class Batches(list):
    sampler = SimpleNamespace(set_epoch=lambda epoch: None)


def batch(tokens, labels):
    return {"tokens": torch.tensor([tokens]), "labels": torch.tensor([labels])}


def recipe(make_batches, epochs, accumulation):
    """The recipe's own class, set up by hand: `train()` is torchtune's."""
    origin = Path(importlib.util.find_spec("recipes").origin).with_name("full_finetune_single_device.py")
    spec = importlib.util.spec_from_file_location("full_finetune_single_device", origin)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.FullFinetuneRecipeSingleDevice.__new__(module.FullFinetuneRecipeSingleDevice)
    model = Tiny()
    made.__dict__.update(
        _compile=False, _optimizer_in_bwd=False, _model=model, _optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        _profiler=SimpleNamespace(start=lambda: None, step=lambda: None, stop=lambda: None),
        profiler_profile_memory=False, profiler_wait_steps=0, profiler_warmup_steps=0, profiler_active_steps=0,
        epochs_run=0, total_epochs=epochs, global_step=0, _steps_per_epoch=1, max_steps_per_epoch=None,
        _dataloader=Again(make_batches), _device=torch.device("cpu"), _gradient_accumulation_steps=accumulation,
        _clip_grad_norm=None, _lr_scheduler=None, _log_every_n_steps=10**9, _loss_fn=CEWithChunkedOutputLoss(1),
        activations_handling_ctx=__import__("contextlib").nullcontext(), save_checkpoint=lambda epoch: None,
        ignore_labels_cache=torch.full((1, 1), -100),
    )  # fmt: skip
    return made


class Again:
    """A data loader that gives new batches in each epoch, because the recipe takes the labels out of them."""

    sampler = SimpleNamespace(set_epoch=lambda epoch: None)

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())
