"""mlx-lm 0.32.2: with grad_accumulation_steps each micro-batch of a step weighs the same, however few targets it holds.

Run in an environment with mlx-lm 0.32.2. A tiny random Llama, two rows of 3 and 21 tokens, one step of SGD: prints
how far the head goes from the mean over all targets, and from the mean of the two means; exits 1 if it is the second.
"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, iterate_batches, train


class Rows(list):
    def process(self, row):
        return row


mx.random.seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = Model(ModelArgs("llama", rms_norm_eps=1e-6, vocab_size=32, tie_word_embeddings=False, **sizes))
rows = CacheDataset(Rows([([1, 2, 3], 1), ([1, *range(4, 24)], 1)]))
found = []
for batch, lengths in iterate_batches(rows, 1, 2048):
    (_, targets), gradient = nn.value_and_grad(model, default_loss)(model, batch, lengths)
    found.append((targets.item(), mx.array(gradient["lm_head"]["weight"])))
before = mx.array(model.lm_head.weight)
given = {"batch_size": 1, "iters": 2, "grad_accumulation_steps": 2}
folder = Path(tempfile.mkdtemp())
train(model, optim.SGD(1.0), rows, args=TrainingArgs(**given, adapter_file=str(folder / "a.safetensors")))
moved = before - model.lm_head.weight
total = sum(targets for targets, _ in found)


def distance(expected):
    return (mx.linalg.norm(moved - expected) / mx.linalg.norm(expected)).item()


far = distance(sum(gradient * (targets / total) for targets, gradient in found))
near = distance(sum(gradient / 2 for _, gradient in found))
print(f"from the mean over {total} targets: {far:.2%}; from the mean of two means: {near:.2%}")
sys.exit(far > near)
