"""torchtune 0.6.1: micro-batches that are left at the end of an epoch are added to the first step of the next one, and
those left at the end of training are lost.

Run in an environment with torchtune 0.6.1. Three batches, two epochs, 2 batches a step: 4 steps of 2, 1, 2, 1 batches
are expected. Exits 1 if it is otherwise.
"""

import sys

from torch.optim.optimizer import register_optimizer_step_post_hook
from torchtune_recipe import batch, recipe

steps, calls = [], []
made = recipe(lambda: [batch([1, 2, 3], [-100, 2, 3]) for _ in range(3)], epochs=2, accumulation=2)
made._model.register_forward_hook(lambda *args: calls.append(1))
register_optimizer_step_post_hook(lambda *args: (steps.append(len(calls)), calls.clear()))
made.train()
print(f"batches of each optimizer step: {steps}; never stepped on: {len(calls)}")
sys.exit(steps != [2, 1, 2, 1])
