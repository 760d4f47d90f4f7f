"""Tunix 0.1.7: with gradient_accumulation_steps each micro-batch of a step weighs the same, however few targets it has.

Run in an environment with google-tunix 0.1.7. A model of one bias, two rows of 2 and 20 targets, one step of SGD:
prints how far it goes from the mean over 22 targets, and from the mean of the two means; exits 1 if it is the second.
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


def batch(ids):
    tokens = np.array([ids + [0] * (21 - len(ids))], np.int32)
    mask = np.array([[0] + [1] * (len(ids) - 1) + [0] * (21 - len(ids))])
    return {"input_tokens": tokens, "input_mask": mask, "positions": tokens, "attention_mask": tokens}


model = Bias()
config = TrainingConfig(eval_every_n_steps=1000, gradient_accumulation_steps=2)
PeftTrainer(model, optax.sgd(1.0), config).train([batch([1, 2, 2]), batch([1, *[3] * 20])])


def step(shares):
    """SGD at rate 1 from zero logits: of each target its share less 1/8."""
    return np.array([shares.get(token, 0.0) - 1 / 8 for token in range(8)])


far = abs(model.bias[...] - step({2: 2 / 22, 3: 20 / 22})).max()
near = abs(model.bias[...] - step({2: 1 / 2, 3: 1 / 2})).max()
print(f"from the mean over 22 targets: {far:.3f}; from the mean of two means: {near:.3f}")
sys.exit(bool(far > near))
