"""mlx-lm 0.32.2: of N samples the last N mod batch_size are never trained, in no epoch; where they are sorted by their
length, the longest.

Run in an environment with mlx-lm 0.32.2. Six samples of 6 to 1 tokens in batches of 4, 30 batches, as a list, which is
sorted, and in the CacheDataset of its command, which is not: prints the lengths that were seen; exits 1 if some were
not.
"""

import itertools
import sys

from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import iterate_batches


class Rows(list):
    def __getitem__(self, number):
        return {"messages": super().__getitem__(number)}

    def process(self, row):
        return row["messages"]


samples = [([7] * length, 0) for length in range(6, 0, -1)]
missing = 0
for name, rows in (("list", samples), ("CacheDataset", CacheDataset(Rows(samples)))):
    seen = set()
    for _, lengths in itertools.islice(iterate_batches(rows, 4, 2048, loop=True), 30):
        seen |= set(lengths[:, 1].tolist())
    missing += len(samples) - len(seen)
    print(f"{name}: lengths {[len(ids) for ids, _ in samples]}, seen in 30 batches: {sorted(seen)}")
sys.exit(missing > 0)
