"""Tunix 0.1.7: its Llama 3 rotates with base 1,000,000, whatever `ModelConfig.rope_theta` says; Llama 3 has 500,000.

Run in an environment with google-tunix 0.1.7. Two models that differ in `rope_theta` alone are given the same weights
and tokens; exits 1 if their logits are the same, bit for bit.
"""

import dataclasses
import sys

import jax.numpy as jnp
from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig

sizes = {"num_layers": 1, "vocab_size": 16, "embed_dim": 16, "hidden_dim": 16, "norm_eps": 1e-6}
heads = {"num_heads": 2, "head_dim": 8, "num_kv_heads": 2}
published = ModelConfig(rope_theta=ModelConfig.llama3p2_1b().rope_theta, **sizes, **heads)
other = dataclasses.replace(published, rope_theta=10)
ids, places = jnp.arange(12)[None], jnp.arange(12)[None]
mask = jnp.tril(jnp.ones((1, 12, 12), bool))
logits = [Llama3(config, rngs=nnx.Rngs(0))(ids, places, None, mask)[0] for config in (published, other)]
same = bool((logits[0] == logits[1]).all())
print(f"rope_theta {published.rope_theta} and {other.rope_theta} give the same logits: {same}")
sys.exit(same)
