"""Tunix 0.1.7: micro-batches after the last full step are computed and thrown away.

Run in an environment with google-tunix 0.1.7. A model of one bias, three rows that want token 1, 2 and 3, with
gradient_accumulation_steps=2: prints the bias of each; exits 1 if the last row moved nothing.
"""

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig


class Bias(nnx.Module):
    def __init__(self):
        self.bias = nnx.Param(jnp.zeros(8))

    def __call__(self, input_tokens, positions, cache, attention_mask):
        return jnp.broadcast_to(self.bias[...], (*input_tokens.shape, 8)), None


def batch(token):
    tokens = np.array([[0, token, token]], np.int32)
    return {"input_tokens": tokens, "input_mask": np.array([[0, 1, 1]]), "positions": tokens, "attention_mask": tokens}


model = Bias()
config = TrainingConfig(eval_every_n_steps=1000, gradient_accumulation_steps=2)
trainer = PeftTrainer(model, optax.sgd(1.0), config)
trainer.train([batch(1), batch(2), batch(3)])
bias = model.bias[...]
print(f"steps: {trainer.train_steps}; bias of token 1: {bias[1]:+.3f}, of 2: {bias[2]:+.3f}, of 3: {bias[3]:+.3f}")
sys.exit(bool(bias[3] <= 0))
