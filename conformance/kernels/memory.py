"""The most that tensors take at once while something runs, as the allocators of torch tell it.

On a CPU the allocator is heard through torch's profiler. The process's own size would not do: what was freed before is
still counted in it, and is used again unseen. What is no tensor of torch's (numpy, in triton's interpreter) is not
counted.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


class Peak:
    """How many MiB are added at the peak within.

    >>> with Peak("cpu") as peak:
    ...     held = torch.zeros(2**20), torch.zeros(2**20)
    >>> round(peak.megabytes)
    8
    """

    def __init__(self, device: str):
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> Peak:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints that it begins and ends
            self.heard = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.heard.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.startswith("cuda"):
            self.megabytes = (torch.cuda.max_memory_allocated(self.device) - self.before) / MIB
            return
        self.heard.__exit__(None, None, None)
        heard: Any = self.heard.profiler
        events = heard.kineto_results.events()
        changes = sorted((item.start_ns(), item.nbytes()) for item in events if item.name() == "[memory]")
        self.megabytes = max(accumulate((size for _, size in changes), initial=0)) / MIB
