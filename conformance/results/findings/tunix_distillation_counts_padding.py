"""Tunix 0.1.7: LogitStrategy distils padding and prompts as it does answers, and divides by them.

Run in an environment with google-tunix 0.1.7. Two positions, of which the second is padding (its label is a row of
zeros): where student and teacher agree on the first, nothing is to be learned. Prints the loss; exits 1 if it is not 0.
"""

import sys

import jax.numpy as jnp
from tunix.distillation.strategies.logit import LogitStrategy

strategy = LogitStrategy(None, None, None, temperature=1.0, alpha=1.0)
labels = jnp.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
agrees = jnp.array([1.0, 2.0, 3.0])
student = jnp.stack([agrees, jnp.array([5.0, 0.0, 0.0])])[None]
teacher = jnp.stack([agrees, jnp.array([0.0, 0.0, 5.0])])[None]
loss, _ = strategy.compute_loss(student, teacher, labels)
alone, _ = LogitStrategy(None, None, None, alpha=0.0).compute_loss(student[:, :1], teacher[:, :1], labels[:, :1])
padded, _ = LogitStrategy(None, None, None, alpha=0.0).compute_loss(student, teacher, labels)
print(f"distillation loss of a padded position alone: {float(loss):.3f}, expected 0")
print(f"cross-entropy of one target: {float(alone):.3f}; with one position of padding behind it: {float(padded):.3f}")
sys.exit(float(loss) != 0.0)
