"""torchtune 0.6.1: one batch without a target makes every parameter NaN, and training goes on.

Run in an environment with torchtune 0.6.1. Exits 1 if a parameter is NaN.
"""

import sys

from torchtune_recipe import batch, recipe

made = recipe(lambda: [batch([1, 2, 3], [-100, -100, -100])], epochs=1, accumulation=1)
made.train()
broken = sum(int(item.isnan().sum()) for item in made._model.parameters())
print(f"parameters that are NaN after one step: {broken}")
sys.exit(broken > 0)
