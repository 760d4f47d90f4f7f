"""axolotl 0.19.0: with sample_packing in real batches (under sdpa, or multipack_real_batches) the last batch is dropped
where it is not full, whatever is set.

Run in an environment with axolotl 0.19.0. Three samples, of which each fills a row, in batches of two rows, by the
sampler with the `drop_last` that `AxolotlTrainer._create_multipack_sampler` gives it: prints the batches; exits 1 if
one sample is missing.
"""

import inspect
import os
import sys

os.environ.update({"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})

import numpy as np
from axolotl.core.trainers.base import AxolotlTrainer
from axolotl.utils.samplers import MultipackBatchSampler
from torch.utils.data import SequentialSampler

if __name__ == "__main__":
    source = inspect.getsource(AxolotlTrainer._create_multipack_sampler)
    print("drop_last is", "always true" if "drop_last=True" in source else "what it was set to")
    lengths = np.array([60, 60, 60])
    asked = {
        "batch_size": 2,
        "batch_max_len": 64,
        "lengths": lengths,
        "bin_size": 200,
        "drop_last": True,
        "sequential": True,
    }
    batches = list(MultipackBatchSampler(SequentialSampler(lengths), num_processes=1, **asked))
    print("batches of rows of samples:", batches)
    sys.exit(sum(len(row) for batch in batches for row in batch) < len(lengths))
