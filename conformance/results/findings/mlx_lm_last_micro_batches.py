"""mlx-lm 0.32.2: micro-batches after the last full step are lost.

Run in an environment with mlx-lm 0.32.2. A tiny random Llama, grad_accumulation_steps of two: prints whether three
iterations leave the model elsewhere than two, which share their rows; exits 1 if they do not.
"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, train


class Rows(list):
    """Rows that are tokenized already."""

    def process(self, row):
        return row


def head(iters):
    """The head after so many iterations, each on one row."""
    mx.random.seed(0)
    np.random.seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Model(ModelArgs("llama", rms_norm_eps=1e-6, vocab_size=32, tie_word_embeddings=False, **sizes))
    rows = CacheDataset(Rows([([1, 2, 3], 1), ([4, 5, 6], 1), ([7, 8, 9], 1)]))
    given = {"batch_size": 1, "iters": iters, "grad_accumulation_steps": 2}
    folder = Path(tempfile.mkdtemp())
    train(model, optim.SGD(1.0), rows, args=TrainingArgs(**given, adapter_file=str(folder / "a.safetensors")))
    return mx.array(model.lm_head.weight)


one, two, three, four = (head(iters) for iters in (1, 2, 3, 4))
moved = [mx.max(mx.abs(more - less)).item() for less, more in ((one, two), (two, three), (three, four))]
print("the head moves from 1 to 2, to 3, to 4 iterations by", *(f"{far:.4f}" for far in moved))
sys.exit(moved[1] == 0)
