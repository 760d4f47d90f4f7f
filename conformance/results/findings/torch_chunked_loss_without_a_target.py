"""torch 2.13.0: linear_cross_entropy in chunks gives NaN gradients for a batch without a target; its plain way gives 0.

Run in an environment with torch 2.13. Exits 1 if a gradient is NaN in one of the two ways and not in the other.
"""

import sys

import torch
from torch.nn.functional import linear_cross_entropy

labels = torch.full((4,), -100)
found = {}
for name, options in (("plain", None), ("chunks", torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2))):
    torch.manual_seed(0)
    hidden, head = torch.randn(4, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True)
    linear_cross_entropy(hidden, head, labels, ignore_index=-100, options=options).backward()
    found[name] = bool(hidden.grad.isnan().any() or head.grad.isnan().any())
    print(f"{name}: {'NaN' if found[name] else 'finite'} gradients")
sys.exit(found["plain"] != found["chunks"])
