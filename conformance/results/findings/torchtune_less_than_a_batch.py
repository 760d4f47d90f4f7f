"""torchtune 0.6.1: what does not fill a batch is dropped (drop_last=True); a corpus smaller than one batch trains
nothing, and nothing is said.

Run in an environment with torchtune 0.6.1. Exits 1 if the loader of 3 samples at batch_size 4 is empty.
"""

import sys
from types import SimpleNamespace

from omegaconf import OmegaConf
from torchtune_recipe import recipe


def samples(tokenizer):
    return [{"tokens": [1, 2, 3], "labels": [-100, 2, 3]} for _ in range(3)]


made = recipe(list, epochs=1, accumulation=1)
made._tokenizer = SimpleNamespace(pad_id=0)
dataset = OmegaConf.create({"_component_": f"{__name__}.samples"})
loader = made._setup_data(dataset, shuffle=True, batch_size=4, collate_fn="torchtune.data.padded_collate_sft")
print(f"3 samples, batch_size 4: {len(loader)} batches")
sys.exit(len(loader) == 0)
