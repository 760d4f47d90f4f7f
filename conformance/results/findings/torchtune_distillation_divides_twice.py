"""torchtune 0.6.1: the recipe for knowledge distillation divides the gradient by the step's tokens twice.

Run in an environment with torchtune 0.6.1. The loss is a mean already; it is not multiplied by the tokens of its
micro-batch, and the gradient of the step is divided by their number. Prints both; exits 1 if they differ.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torchtune.modules.loss import CEWithChunkedOutputLoss, ForwardKLWithChunkedOutputLoss
from torchtune_recipe import Tiny, batch

TOKENS = 6
origin = Path(importlib.util.find_spec("recipes").origin).with_name("knowledge_distillation_single_device.py")
spec = importlib.util.spec_from_file_location("knowledge_distillation_single_device", origin)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = {}


class Heard(torch.optim.SGD):
    """Keeps the gradient that it steps on."""

    def step(self, closure=None):
        found["gradient"] = self.param_groups[0]["params"][0].grad.clone()


class Once(list):
    sampler = SimpleNamespace(set_epoch=lambda epoch: None)


row = batch([1, 2, 3, 4, 5, 6, 7], [-100, 2, 3, 4, 5, 6, 7])
student, teacher = Tiny(), Tiny()
torch.nn.init.normal_(teacher.table.weight)
loss, distillation = CEWithChunkedOutputLoss(1), ForwardKLWithChunkedOutputLoss(1)
recipe = module.KDRecipeSingleDevice.__new__(module.KDRecipeSingleDevice)
recipe.__dict__.update(
    _compile=False, _model=student, _teacher_model=teacher, _optimizer=Heard(student.parameters(), lr=0.0),
    _profiler=SimpleNamespace(start=lambda: None, step=lambda: None, stop=lambda: None), profiler_profile_memory=False,
    epochs_run=0, total_epochs=1, global_step=0, _steps_per_epoch=1, max_steps_per_epoch=None, _dataloader=Once([row]),
    _device=torch.device("cpu"), _gradient_accumulation_steps=1, _clip_grad_norm=None, _kd_ratio=0.5,
    _lr_scheduler=SimpleNamespace(step=lambda: None), _log_every_n_steps=10**9, _loss_fn=loss,
    _kd_loss_fn=distillation, ignore_labels_cache=torch.full((1, 1), -100), save_checkpoint=lambda epoch: None,
)  # fmt: skip
recipe.train()

labels = torch.tensor([[2, 3, 4, 5, 6, 7, -100]])
logits, taught = student(row["tokens"]), teacher(row["tokens"])
mean = 0.5 * loss(logits, labels) + 0.5 * distillation(logits, taught, labels)
(expected,) = torch.autograd.grad(mean, [student.table.weight])
ratio = float(found["gradient"].norm() / expected.norm())
print(f"the gradient of the mean over {TOKENS} targets: {float(expected.norm()):.4f}; the recipe's, {ratio:.4f} of it")
sys.exit(abs(ratio - 1) > 1e-3)
