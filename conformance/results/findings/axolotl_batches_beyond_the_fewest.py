"""axolotl 0.19.0: with sample_packing an epoch ends after as many batches as the fewest of four orders have; what is
packed beyond them is not trained.

Run in an environment with axolotl 0.19.0. Samples of 20 to 60 tokens in rows of 64, shuffled, by the sampler as
`AxolotlTrainer` makes it: prints how many of the samples the epochs leave out; exits 1 if one leaves out a full batch.
"""

import os
import sys

os.environ.update({"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})

import numpy as np
import torch
from axolotl.utils.samplers import MultipackBatchSampler
from torch.utils.data import RandomSampler

if __name__ == "__main__":
    lengths = np.random.default_rng(0).integers(20, 60, 60)
    order = RandomSampler(lengths, generator=torch.Generator().manual_seed(0))
    asked = {"batch_size": 1, "batch_max_len": 64, "lengths": lengths, "bin_size": 200, "drop_last": True}
    sampler = MultipackBatchSampler(order, num_processes=1, **asked)
    planned, lost = len(sampler), []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        trained = sum(len(row) for batch in sampler for row in batch)
        lost.append(len(lengths) - trained)
    print(f"samples: {len(lengths)}; batches of an epoch: {planned}; samples that five epochs leave out: {lost}")
    sys.exit(any(lost))
