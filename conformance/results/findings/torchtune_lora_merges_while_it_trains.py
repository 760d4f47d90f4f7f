"""torchtune 0.6.1: on a CPU, saving a LoRA run merges the adapters into the weights that go on training.

Run in an environment with torchtune 0.6.1. One linear layer with a LoRA adapter, saved by the recipe's own
`save_checkpoint` after the first of two epochs. Its base weight is frozen, so it and what the layer computes must stay
as they were. Exits 1 if they change.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torchtune.modules.peft import LoRALinear

origin = Path(importlib.util.find_spec("recipes").origin).with_name("lora_finetune_single_device.py")
spec = importlib.util.spec_from_file_location("lora_finetune_single_device", origin)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

torch.manual_seed(0)
model = torch.nn.ModuleDict({"q_proj": LoRALinear(4, 4, rank=2, alpha=4)})
layer = model["q_proj"]
torch.nn.init.normal_(layer.lora_b.weight)  # as after some steps
nothing = SimpleNamespace(state_dict=dict, save_checkpoint=lambda *args, **settings: None)
recipe = module.LoRAFinetuneRecipeSingleDevice.__new__(module.LoRAFinetuneRecipeSingleDevice)
recipe.__dict__.update(
    _model=model, _optimizer=nothing, _dataloader=nothing, _checkpointer=nothing, seed=0, epochs_run=1, total_epochs=2,
    max_steps_per_epoch=None, _save_adapter_weights_only=False, _lora_rank=2, _lora_alpha=4,
    _lora_attn_modules=["q_proj"], _apply_lora_to_mlp=False, _apply_lora_to_output=False,
)  # fmt: skip

x = torch.ones(1, 4)
with torch.no_grad():
    base, before = layer.weight.clone(), layer(x)
    recipe.save_checkpoint(epoch=0)
    moved, after = layer.weight - base, layer(x)
    times = float(((after - x @ base.T) / (before - x @ base.T)).mean())
print(f"the frozen base weight moved by {float(moved.abs().max()):.3f}; the adapter now counts {times:.2f} times")
sys.exit(bool(moved.any()))
