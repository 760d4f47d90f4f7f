"""A plain training loop in JAX on a small Llama of its own: fused queries, keys and values, matrices (in, out)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from array_rows import CLAIMS, IGNORE, steps_of


def from_hf(config, weights):
    """Hugging Face's names -> the tree of parameters."""

    def take(name):
        return weights[f"{name}.weight"]

    layers = []
    for number in range(config["num_hidden_layers"]):
        place = f"model.layers.{number}"
        qkv = [take(f"{place}.self_attn.{part}_proj").T for part in "qkv"]
        layers.append(
            {
                "before": take(f"{place}.input_layernorm"),
                "qkv": jnp.concatenate(qkv, 1),
                "out": take(f"{place}.self_attn.o_proj").T,
                "between": take(f"{place}.post_attention_layernorm"),
                **{name: take(f"{place}.mlp.{name}_proj").T for name in ("gate", "up", "down")},
            }
        )
    names = {"table": "model.embed_tokens", "last": "model.norm", "head": "lm_head"}
    return {"layers": layers} | {own: take(name) for own, name in names.items()}


def to_hf(config, params):
    """The way back, for parameters and for gradients."""
    found = {"model.embed_tokens": params["table"], "model.norm": params["last"], "lm_head": params["head"]}
    size = config["head_dim"]
    cuts = [
        config["num_attention_heads"] * size,
        (config["num_attention_heads"] + config["num_key_value_heads"]) * size,
    ]
    for number, layer in enumerate(params["layers"]):
        place = f"model.layers.{number}"
        q, k, v = layer["qkv"][:, : cuts[0]], layer["qkv"][:, cuts[0] : cuts[1]], layer["qkv"][:, cuts[1] :]
        found |= {
            f"{place}.self_attn.{part}_proj": item.T for part, item in zip("qkvo", (q, k, v, layer["out"]), strict=True)
        }
        found |= {f"{place}.mlp.{name}_proj": layer[name].T for name in ("gate", "up", "down")}
        found |= {
            f"{place}.input_layernorm": layer["before"],
            f"{place}.post_attention_layernorm": layer["between"],
        }
    return {f"{name}.weight": item for name, item in found.items()}


def norm(gain, x, eps):
    return gain * (x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps))


def rotated(x, angles):
    """Rotary positions, halves rotated (Su et al. 2021, arXiv:2104.09864). x: (B, T, heads, D)."""
    one, two = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


def llama(config, params, input_ids, position_ids, segment_ids, attention_mask):
    """(B, T) -> the last hidden states (B, T, H)."""
    size, eps = config["head_dim"], config["rms_norm_eps"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    rates = config["rope_parameters"]["rope_theta"] ** (-jnp.arange(0, size, 2) / size)
    angles = position_ids[..., None] * rates
    same = segment_ids[:, :, None] == segment_ids[:, None]
    seen = jnp.tril(same & (attention_mask[:, None] | ~attention_mask[:, :, None]))[:, None, None]
    x = params["table"][input_ids]
    rows, length, _ = x.shape
    for layer in params["layers"]:
        parts = (norm(layer["before"], x, eps) @ layer["qkv"]).reshape(rows, length, -1, size)
        q, k, v = jnp.split(parts, [heads, heads + groups], 2)
        q = rotated(q, angles).reshape(rows, length, groups, heads // groups, size)
        scores = jnp.einsum("bqgrd,bkgd->bgrqk", q, rotated(k, angles)) / size**0.5
        mixed = jnp.einsum("bgrqk,bkgd->bqgrd", jax.nn.softmax(jnp.where(seen, scores, -1e30)), v)
        x = x + mixed.reshape(rows, length, -1) @ layer["out"]
        inner = norm(layer["between"], x, eps)
        x = x + (jax.nn.silu(inner @ layer["gate"]) * (inner @ layer["up"])) @ layer["down"]
    return norm(params["last"], x, eps)


class JaxLoop:
    name, version, framework, claims = "JAX loop", "1", "jax", CLAIMS

    def __init__(self, bug: str = ""):
        self.bug = bug

    def train(self, job):
        config, rate = job.model.config, job.learning_rate
        model, params = functools.partial(llama, config), from_hf(config, job.model.weights)
        adamw = optax.adamw(rate, weight_decay=job.weight_decay)
        inner = adamw if job.optimizer == "adamw" else optax.sgd(rate)
        heard = job.recorder.optimizer(inner, functools.partial(to_hf, config), rate)
        clip = optax.identity() if job.max_grad_norm is None else optax.clip_by_global_norm(job.max_grad_norm)
        optimizer = optax.chain(clip, heard)
        state, losses = optimizer.init(params), []

        @jax.value_and_grad
        def loss(params, batch, count):
            named = {name: batch[name] for name in ("input_ids", "position_ids", "segment_ids")}
            hidden = job.recorder.hidden(model, params, attention_mask=batch["segment_ids"] > 0, **named)
            logp = jax.nn.log_softmax(hidden[:, :-1] @ params["head"].T)
            labels = batch["labels"][:, 1:]
            picked = jnp.take_along_axis(logp, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
            return -jnp.where(labels == IGNORE, 0.0, picked).sum() / count

        backward = jax.jit(loss)

        @jax.jit
        def step(gradients, state, params):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        for window in steps_of(job, self.bug):
            found = [backward(params, batch, float(count)) for batch, count in window]
            gradients = jax.tree.map(lambda *items: sum(items), *[item for _, item in found])
            params, state = step(gradients, state, params)
            losses.append(sum(float(value) for value, _ in found))
        job.recorder.trained(params)
        job.report(losses=losses)
