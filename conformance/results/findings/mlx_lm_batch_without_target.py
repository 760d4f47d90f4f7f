"""mlx-lm 0.32.2: with mask_prompt a batch whose answers were all cut off makes every trained parameter NaN.

Run in an environment with mlx-lm 0.32.2. One row of 20 tokens, a prompt of 15 and max_seq_length=10, one step of SGD:
prints how many parameters are NaN; exits 1 if any is.
"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, train


class Rows(list):
    def process(self, row):
        return row


mx.random.seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = Model(ModelArgs("llama", rms_norm_eps=1e-6, vocab_size=32, tie_word_embeddings=False, **sizes))
given = {"batch_size": 1, "iters": 1, "max_seq_length": 10}
place = str(Path(tempfile.mkdtemp()) / "a.safetensors")
rows = CacheDataset(Rows([(list(range(1, 21)), 15)]))
train(model, optim.SGD(0.1), rows, args=TrainingArgs(**given, adapter_file=place))
broken = sum(int(mx.isnan(value).sum()) for _, value in tree_flatten(model.parameters()))
print(f"parameters that are NaN after one step: {broken}")
sys.exit(broken > 0)
