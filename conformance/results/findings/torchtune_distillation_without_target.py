"""torchtune 0.6.1: its reverse and symmetric divergences in chunks make NaN of a batch without a target.

Run in an environment with torchtune 0.6.1. The chunked losses of labels that are all -100: prints each loss and whether
its gradient is finite; exits 1 if one is not.
"""

import sys

import torch
from torchtune.modules import loss

labels, broken = torch.full((1, 4), -100), 0
for name in ("ForwardKL", "ReverseKL", "SymmetricKL"):
    student = torch.zeros(1, 4, 8, requires_grad=True)
    value = getattr(loss, f"{name}WithChunkedOutputLoss")(2)(
        list(student.chunk(2, 1)), list(torch.zeros(1, 4, 8).chunk(2, 1)), labels
    )
    if value.requires_grad:
        value.backward()
    finite = bool(value.isfinite()) and (student.grad is None or bool(student.grad.isfinite().all()))
    broken += not finite
    print(f"{name}WithChunkedOutputLoss: {float(value.detach())}, {'finite' if finite else 'not finite'}")
sys.exit(broken > 0)
