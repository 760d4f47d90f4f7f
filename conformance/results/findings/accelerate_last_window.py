"""accelerate 1.15.0: `accumulate` divides the last, shorter window of an epoch by the whole number of its steps.

Run in an environment with accelerate 1.15.0. Three batches of one row that are alike, gradient_accumulation_steps=2, in
the loop of the quick tour: prints how far each of the two steps goes; exits 1 if the second goes less far.
"""

import sys

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = torch.nn.Linear(1, 1, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loader = torch.utils.data.DataLoader(torch.ones(3, 1), batch_size=1)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
weight, moved = model.weight.detach().clone(), []
for batch in loader:
    with accelerator.accumulate(model):
        accelerator.backward(model(batch).mean())
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.sync_gradients:
        moved.append(float((weight - model.weight.detach()).abs()))
        weight = model.weight.detach().clone()
print(f"steps over 2 and 1 batches that are alike go {moved[0]:.2f} and {moved[1]:.2f} far")
sys.exit(moved[1] < moved[0])
