"""LitGPT 0.5.13: the finetune scripts take train.min_lr and never read it.

Run in an environment with litgpt 0.5.13. Walks the schedule of each script, and greps its source: prints the lowest
learning rate after the warm-up beside min_lr; exits 1 if it goes below.
"""

import sys
from pathlib import Path

import torch
from litgpt.args import TrainArgs
from litgpt.finetune import adapter, adapter_v2, full, lora

args, steps = TrainArgs(min_lr=1e-4), 10
below = False
for script in (full, lora, adapter, adapter_v2):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = script.get_lr_scheduler(optimizer, warmup_steps=2, max_steps=steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    below |= min(rates[2:]) < args.min_lr
    reads = "min_lr" in Path(script.__file__).read_text()
    print(f"{script.__name__}: lowest {min(rates[2:]):.1e}, min_lr {args.min_lr}, read by the script: {reads}")
sys.exit(below)
