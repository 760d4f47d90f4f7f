"""A plain training loop in MLX on a small Llama of its own: fused queries, keys and values, gate and up in one."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from array_rows import CLAIMS, IGNORE, steps_of
from mlx.utils import tree_map


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.size = config["hidden_size"], config["head_dim"]
        self.heads, self.groups = config["num_attention_heads"], config["num_key_value_heads"]
        self.base = config["rope_parameters"]["rope_theta"]
        self.before, self.between = (nn.RMSNorm(width, config["rms_norm_eps"]) for _ in range(2))
        self.qkv = nn.Linear(width, (self.heads + 2 * self.groups) * self.size, bias=False)
        self.out = nn.Linear(self.heads * self.size, width, bias=False)
        self.wide = nn.Linear(width, 2 * config["intermediate_size"], bias=False)
        self.narrow = nn.Linear(config["intermediate_size"], width, bias=False)

    def rotated(self, x, places):
        """Rotary positions, halves rotated (Su et al. 2021, arXiv:2104.09864). x: (B, heads, T, D)."""
        angles = places[:, None, :, None] * self.base ** (-mx.arange(0, self.size, 2) / self.size)
        one, two = mx.split(x, 2, -1)
        cos, sin = mx.cos(angles), mx.sin(angles)
        return mx.concatenate([one * cos - two * sin, two * cos + one * sin], -1)

    def __call__(self, x, places, seen):
        rows, length, _ = x.shape
        parts = self.qkv(self.before(x)).reshape(rows, length, -1, self.size).transpose(0, 2, 1, 3)
        q, k, v = mx.split(parts, [self.heads, self.heads + self.groups], 1)
        q, k = self.rotated(q, places), self.rotated(k, places)
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.size**-0.5, mask=seen[:, None])
        x = x + self.out(mixed.transpose(0, 2, 1, 3).reshape(rows, length, -1))
        gate, up = mx.split(self.wide(self.between(x)), 2, -1)
        return x + self.narrow(nn.silu(gate) * up)


class Llama(nn.Module):
    """(B, T) tokens, their positions and their example's number in the row (0: padding) -> logits."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.blocks = [Block(config) for _ in range(config["num_hidden_layers"])]
        self.last = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.unembed = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def __call__(self, tokens, places, segments, mask):
        same = (segments[:, :, None] == segments[:, None]) & (mask[:, None] | ~mask[:, :, None])
        seen = same & mx.tril(mx.ones(same.shape[1:], dtype=mx.bool_))
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x, places, seen)
        return self.unembed(self.last(x))


def from_hf(config, weights):
    """Hugging Face's names -> this model's."""
    found = {"table.weight": weights["model.embed_tokens.weight"], "last.weight": weights["model.norm.weight"]}
    found["unembed.weight"] = weights["lm_head.weight"]

    def joined(number, names):
        return mx.concatenate([weights[f"model.layers.{number}.{name}.weight"] for name in names.split()])

    for number in range(config["num_hidden_layers"]):
        found |= {
            f"blocks.{number}.{own}.weight": joined(number, names)
            for own, names in {
                "before": "input_layernorm", "between": "post_attention_layernorm", "out": "self_attn.o_proj",
                "qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj", "wide": "mlp.gate_proj mlp.up_proj",
                "narrow": "mlp.down_proj",
            }.items()
        }  # fmt: skip
    return found


def to_hf(config, state):
    """The way back, for parameters and for gradients."""
    size = config["head_dim"]
    cuts = [
        config["num_attention_heads"] * size,
        (config["num_attention_heads"] + config["num_key_value_heads"]) * size,
    ]
    found = {"model.embed_tokens": state["table.weight"], "model.norm": state["last.weight"]}
    found["lm_head"] = state["unembed.weight"]
    for number in range(config["num_hidden_layers"]):
        place, own = f"model.layers.{number}", f"blocks.{number}"
        q, k, v = mx.split(state[f"{own}.qkv.weight"], cuts)
        gate, up = mx.split(state[f"{own}.wide.weight"], 2)
        found |= {f"{place}.self_attn.{part}_proj": item for part, item in zip("qkv", (q, k, v), strict=True)}
        found |= {f"{place}.mlp.gate_proj": gate, f"{place}.mlp.up_proj": up}
        for name, mine in {
            "self_attn.o_proj": "out", "mlp.down_proj": "narrow", "input_layernorm": "before",
            "post_attention_layernorm": "between",
        }.items():  # fmt: skip
            found[f"{place}.{name}"] = state[f"{own}.{mine}.weight"]
    return {f"{name}.weight": item for name, item in found.items()}


class MlxLoop:
    name, version, framework, claims = "MLX loop", "1", "mlx", CLAIMS

    def __init__(self, bug: str = ""):
        self.bug = bug

    def train(self, job):
        model = Llama(job.model.config)
        model.load_weights(list(from_hf(job.model.config, job.model.weights).items()))
        names = {"input_ids": "tokens", "position_ids": "places", "attention_mask": "mask"}
        job.listen_to(model, hidden="last", weights=functools.partial(to_hf, job.model.config), arguments=names)
        adamw = optim.AdamW(job.learning_rate, weight_decay=job.weight_decay, bias_correction=True)
        optimizer, losses = (adamw if job.optimizer == "adamw" else optim.SGD(job.learning_rate)), []

        def loss(batch, count):
            ids, places, segments, labels = (
                mx.array(batch[name]) for name in ("input_ids", "position_ids", "segment_ids", "labels")
            )
            logits, labels = model(ids, places, segments, segments > 0)[:, :-1], labels[:, 1:]
            each = nn.losses.cross_entropy(logits, mx.maximum(labels, 0))
            return mx.where(labels == IGNORE, 0.0, each).sum() / count

        backward = nn.value_and_grad(model, loss)
        for window in steps_of(job, self.bug):
            found = [backward(batch, count) for batch, count in window]
            gradients = tree_map(lambda *items: sum(items), *[item for _, item in found])
            if job.max_grad_norm is not None:
                gradients, _ = optim.clip_grad_norm(gradients, job.max_grad_norm)
            optimizer.update(model, gradients)
            mx.eval(model.parameters(), optimizer.state)
            losses.append(sum(value.item() for value, _ in found))
        job.report(losses=losses)
