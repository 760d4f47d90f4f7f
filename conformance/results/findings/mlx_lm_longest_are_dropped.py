"""mlx-lm 0.32.2: of N samples the N mod batch_size longest ones are never trained, in no epoch.

Run in an environment with mlx-lm 0.32.2. Six samples of 1 to 6 tokens in batches of 4, 30 batches: prints the lengths
that were seen; exits 1 if some were not.
"""

import itertools
import sys

from mlx_lm.tuner.trainer import iterate_batches

samples = [([7] * length, 0) for length in range(1, 7)]
seen = set()
for _, lengths in itertools.islice(iterate_batches(samples, 4, 2048, loop=True), 30):
    seen |= set(lengths[:, 1].tolist())
print(f"lengths {[len(ids) for ids, _ in samples]}, seen in 30 batches: {sorted(seen)}")
sys.exit(len(seen) < len(samples))
