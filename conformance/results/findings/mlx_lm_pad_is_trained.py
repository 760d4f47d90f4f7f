"""mlx-lm 0.32.2: each row that is filled up is trained on one pad token more than it has.

Run in an environment with mlx-lm 0.32.2. A row of 3 tokens, of which the last 2 are targets, in a batch of 33 columns:
prints how many targets `default_loss` counts, and whether the pad's logit moves its value; exits 1 if it counts 3.
"""

import sys

import mlx.core as mx
from mlx_lm.tuner.trainer import default_loss, iterate_batches

batch, lengths = next(iterate_batches([([5, 6, 7], 1)], 1, 2048))
logits = mx.zeros((1, batch.shape[1] - 1, 16))
unsure = mx.where(mx.arange(16) == 0, -9.0, 0.0)  # a model that does not expect the pad, 0, after the last token
loss, targets = default_loss(lambda inputs: logits, batch, lengths)
other, _ = default_loss(
    lambda inputs: mx.where((mx.arange(batch.shape[1] - 1) == 2)[:, None], unsure, logits), batch, lengths
)
print(f"row of {lengths[0, 1].item()} tokens, prompt of {lengths[0, 0].item()}: {targets.item()} targets")
print(f"loss {loss.item():.3f}, and {other.item():.3f} where the pad is not expected")
sys.exit(targets.item() != 2)
