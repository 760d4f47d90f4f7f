"""verl 0.9.1: a run resumed from the checkpoint of an epoch's end skips the whole next epoch.

Run in an environment with verl 0.9.1. `SFTTrainer._build_dataloader`, taken out of its module, which imports a server's
packages, and the epochs as `fit` counts them: three of eight samples in batches of two, stopped after a step and
resumed. Prints how many batches each epoch has then; exits 1 if one of them lacks.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

from omegaconf import OmegaConf
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

origin = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "sft_trainer.py"
tree = ast.parse(origin.read_text())
(method,) = [node for node in ast.walk(tree) if getattr(node, "name", "") == "_build_dataloader"]
names = {
    "DistributedSampler": DistributedSampler, "StatefulDataLoader": StatefulDataLoader,
    "SFTTensorCollator": lambda pad_mode: lambda rows: rows, "get_device_name": lambda: "cpu",
}  # fmt: skip
exec(compile(ast.Module([method], []), str(origin), "exec"), names)


def run(step, state, stop=None):
    """Batches of each epoch from a step on, with the loader's state; those and the state at the step to stop at."""
    data = {"train_batch_size": 2, "pad_mode": "no_padding", "num_workers": 0}
    engine = SimpleNamespace(get_data_parallel_rank=lambda: 0, get_data_parallel_size=lambda: 1)
    made = SimpleNamespace(
        config=OmegaConf.create({"data": data}), train_dataset=list(range(8)), val_dataset=None, engine=engine
    )
    names["_build_dataloader"](made)
    loader, batches = made.train_dataloader, {}
    if state:
        loader.load_state_dict(state)  # as `CheckpointHandler._load_dataloader_state` does
    for epoch in range(step // len(loader), 3):  # `start_epoch` of `fit`
        made.train_sampler.set_epoch(epoch)
        batches[epoch] = 0
        for _ in loader:
            step, batches[epoch] = step + 1, batches[epoch] + 1
            if step == stop:
                return batches, loader.state_dict()
    return batches, None


lost = False
for stop in (3, 4):
    first, state = run(0, None, stop)
    second, _ = run(stop, state)
    print(f"stopped after step {stop}: {first}, resumed: {second}")
    lost |= sum(first.values()) + sum(second.values()) < 12
sys.exit(lost)
