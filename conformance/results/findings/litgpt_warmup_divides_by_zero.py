"""LitGPT 0.5.13: no warm-up, and as many steps of warm-up as there are steps, both end in ZeroDivisionError.

Run in an environment with litgpt 0.5.13. Exits 1 if either raises.
"""

import sys

import torch
from litgpt.finetune.full import get_lr_scheduler

raised = 0
for warmup, steps in ((0, 10), (10, 10)):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    try:
        schedule = get_lr_scheduler(optimizer, warmup_steps=warmup, max_steps=steps)
        for _ in range(steps):
            optimizer.step()
            schedule.step()
        print(f"lr_warmup_steps={warmup} of {steps} steps: works")
    except ZeroDivisionError as error:
        raised += 1
        print(f"lr_warmup_steps={warmup} of {steps} steps: ZeroDivisionError: {error}")
sys.exit(raised > 0)
