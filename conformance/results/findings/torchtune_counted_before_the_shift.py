"""torchtune 0.6.1: the targets of a micro-batch are counted before the shift, so a token of a short one weighs more
where the first token has a label (train_on_input).

Run in an environment with torchtune 0.6.1. Two micro-batches in one step, of 1 and 5 scored targets. Exits 1 if the
step's gradient is not that of the mean over the 6.
"""

import sys

import torch
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchtune_recipe import Tiny, batch, recipe

rows = ([1, 2], [3, 4, 5, 6, 7, 1])
made = recipe(lambda: [batch(list(row), list(row)) for row in rows], epochs=1, accumulation=2)
taken = []
register_optimizer_step_pre_hook(lambda *args: taken.append(made._model.table.weight.grad.clone()))
made.train()
model = Tiny()
losses = [cross_entropy(model.table(torch.tensor(row[:-1])), torch.tensor(row[1:]), reduction="sum") for row in rows]
(sum(losses) / 6).backward()
right = model.table.weight.grad
error = float((taken[0] - right).norm() / right.norm())
print(f"the gradient of the step is off by {error:.0%} of the right one")
sys.exit(error > 1e-4)
