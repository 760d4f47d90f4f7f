"""LLaMA-Factory 0.9.5: with use_dft_loss or use_eaft_loss a batch without a target ends the run.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Both losses of labels that are all -100: prints
what backward does; exits 1 if it raises.
"""

import sys

import torch
from llamafactory.train.trainer_utils import dft_loss_func, eaft_loss_func

broken = 0
for name, function in (("dft", dft_loss_func), ("eaft", eaft_loss_func)):
    logits = torch.zeros(1, 4, 30, requires_grad=True)
    loss = function({"logits": logits}, torch.full((1, 4), -100), torch.tensor(5))
    try:
        loss.backward()
        print(f"{name}: a gradient of {float(logits.grad.abs().sum())}")
    except RuntimeError as error:
        broken += 1
        print(f"{name}: {error}")
sys.exit(broken > 0)
