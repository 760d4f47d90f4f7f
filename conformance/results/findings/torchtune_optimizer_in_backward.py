"""torchtune 0.6.1: with optimizer_in_bwd the step is that of the sum over the targets, and not of their mean.

Run in an environment with torchtune 0.6.1. One step of SGD on a row with 6 targets, without and with optimizer_in_bwd:
prints how far the parameters go; exits 1 if they differ.
"""

import sys

import torch
from torchtune import training
from torchtune_recipe import batch, recipe

moved = []
for in_backward in (False, True):
    made = recipe(lambda: [batch(list(range(7)), [-100, *range(1, 7)])], epochs=1, accumulation=1)
    model = made._model
    if in_backward:  # as `_setup_optimizer` does
        optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}
        training.register_optim_in_bwd_hooks(model=model, optim_dict=optimizers)
        made._optimizer_in_bwd = True
    before = model.table.weight.detach().clone()
    made.train()
    moved.append(float((model.table.weight.detach() - before).norm()))
print(f"without: {moved[0]:.5f}; with optimizer_in_bwd: {moved[1]:.5f}, {moved[1] / moved[0]:.2f} times as far")
sys.exit(abs(moved[1] / moved[0] - 1) > 0.01)
