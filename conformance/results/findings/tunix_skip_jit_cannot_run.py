"""Tunix 0.1.7: `PeftTrainer.train(skip_jit=True)` ends at its first step with a TypeError.

Run in an environment with google-tunix 0.1.7. A model of one bias and one row, with and without skip_jit: prints the
steps that are taken, or the error; exits 1 if there is one.
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


tokens = np.array([[0, 1, 1]], np.int32)
row = {"input_tokens": tokens, "input_mask": np.array([[0, 1, 1]]), "positions": tokens, "attention_mask": tokens}
errors = 0
for skip_jit in (False, True):
    trainer = PeftTrainer(Bias(), optax.sgd(1.0), TrainingConfig(eval_every_n_steps=1000))
    try:
        trainer.train([row], skip_jit=skip_jit)
        print(f"skip_jit={skip_jit}: {trainer.train_steps} step")
    except TypeError as error:
        print(f"skip_jit={skip_jit}: TypeError: {error}")
        errors += 1
sys.exit(bool(errors))
