"""verl 0.9.1: what is less than a batch is dropped in each epoch, and a corpus of less than a batch is not trained.

Run in an environment with verl 0.9.1. `SFTTrainer._build_dataloader`, taken out of its module, which imports a server's
packages: prints how many batches it makes of five samples in batches of two, and of one; exits 1 if samples are lost.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

from omegaconf import OmegaConf
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.utils.dataset.dataset_utils import SFTTensorCollator

origin = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "sft_trainer.py"
tree = ast.parse(origin.read_text())
(method,) = [node for node in ast.walk(tree) if getattr(node, "name", "") == "_build_dataloader"]
names = {
    "DistributedSampler": DistributedSampler, "StatefulDataLoader": StatefulDataLoader,
    "SFTTensorCollator": SFTTensorCollator, "get_device_name": lambda: "cpu",
}  # fmt: skip
exec(compile(ast.Module([method], []), str(origin), "exec"), names)


def batches(samples, batch_size):
    """How many batches it makes, on one rank."""
    data = {"train_batch_size": batch_size, "pad_mode": "no_padding", "num_workers": 0}
    engine = SimpleNamespace(get_data_parallel_rank=lambda: 0, get_data_parallel_size=lambda: 1)
    made = SimpleNamespace(
        config=OmegaConf.create({"data": data}), train_dataset=list(range(samples)), val_dataset=None, engine=engine
    )
    names["_build_dataloader"](made)
    return len(made.train_dataloader)


five, one = batches(5, 2), batches(1, 2)
print(f"5 samples in batches of 2: {five} batches; 1 sample: {one}")
sys.exit(five < 3 or one < 1)
