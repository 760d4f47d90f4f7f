"""mlx-lm 0.32.2: its command does not sort the samples by their length: it counts the fields of a sample.

Run in an environment with mlx-lm 0.32.2. Eight conversations, of which every other one is long, in the dataset that
`mlx_lm.lora` makes, in batches of two: prints the lengths of each batch; exits 1 if a batch is padded to ten times its
shortest row.
"""

import sys

from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import iterate_batches
from newline_tokenizer import make

rows = [{"messages": [{"role": "user", "content": "A" * (5 if number % 2 else 900)}]} for number in range(8)]
dataset = CacheDataset(ChatDataset(rows, make()))
print("lengths that the samples are sorted by:", [dataset.itemlen(number) for number in range(8)])
batches = [lengths[:, 1].tolist() for _, lengths in iterate_batches(dataset, 2, 2048)]
print("lengths of the rows of each batch:", batches)
sys.exit(any(max(batch) > 10 * min(batch) for batch in batches))
