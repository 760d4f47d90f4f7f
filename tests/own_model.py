"""A language model of a trainer's own class: other names, other arguments, queries, keys and values in one matrix."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu


def rotated(x, positions, base):
    """Rotary positions on (B, heads, T, D), halves rotated (Su et al. 2021, arXiv:2104.09864)."""
    size = x.shape[-1]
    angles = positions[:, None, :, None] / base ** (torch.arange(0, size, 2) / size)
    one, two = x.chunk(2, -1)
    return torch.cat((one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()), -1)


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.gain * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.groups, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.base = config.rope_parameters["rope_theta"]
        width, inner = config.hidden_size, config.intermediate_size
        self.before, self.between = Norm(width, config.rms_norm_eps), Norm(width, config.rms_norm_eps)
        self.qkv = nn.Linear(width, (self.heads + 2 * self.groups) * self.size, bias=False)
        self.out = nn.Linear(self.heads * self.size, width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x, places, seen):
        rows, length, _ = x.shape
        parts = self.qkv(self.before(x)).view(rows, length, -1, self.size).transpose(1, 2)
        q, k, v = parts.split((self.heads, self.groups, self.groups), 1)
        q, k = rotated(q, places, self.base), rotated(k, places, self.base)
        mixed = scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        gate, up = self.wide(self.between(x)).chunk(2, -1)
        return x + self.narrow(silu(gate) * up)


class OwnModel(nn.Module):
    """forward(idx, where, seen) -> logits; `seen` (B, T, T) bool says who attends to whom."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.last = Norm(config.hidden_size, config.rms_norm_eps)
        self.unembed = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, idx, where=None, seen=None):
        where = torch.arange(idx.shape[1])[None] if where is None else where
        causal = torch.ones(idx.shape[1], idx.shape[1], dtype=torch.bool).tril()
        seen = causal[None, None] if seen is None else (causal & seen)[:, None]
        x = self.table(idx)
        for block in self.blocks:
            x = block(x, where, seen)
        return self.unembed(self.last(x))


class LowRank(nn.Module):
    """A linear layer, and beside it a factor down and a factor up, which begins at zero."""

    def __init__(self, base, rank, scale):
        super().__init__()
        self.weight, self.scale = base.weight, scale
        self.down = nn.Parameter(torch.randn(rank, base.in_features, generator=torch.Generator().manual_seed(0)) / 16)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return x @ self.weight.T + self.scale * (x @ self.down.T @ self.up.T)


NAMES = {
    "before.gain": "input_layernorm.weight",
    "between.gain": "post_attention_layernorm.weight",
    "out.weight": "self_attn.o_proj.weight",
    "narrow.weight": "mlp.down_proj.weight",
}


def to_hugging_face(config):
    """weights(state) -> the same under Hugging Face's names."""

    def weights(state):
        found = {
            "model.embed_tokens.weight": state["table.weight"],
            "model.norm.weight": state["last.gain"],
            "lm_head.weight": state["unembed.weight"],
        }
        size, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        for layer in range(config.num_hidden_layers):
            own, given = f"blocks.{layer}.", f"model.layers.{layer}."
            found |= {given + name: state[own + short] for short, name in NAMES.items()}
            parts = state[f"{own}qkv.weight"].split((heads * size, groups * size, groups * size))
            found |= {f"{given}self_attn.{letter}_proj.weight": part for letter, part in zip("qkv", parts, strict=True)}
            gate, up = state[f"{own}wide.weight"].chunk(2)
            found |= {f"{given}mlp.gate_proj.weight": gate, f"{given}mlp.up_proj.weight": up}
        return found

    return weights


def load(model, state, config):
    """Fill the model from a Hugging Face state: the way back of to_hugging_face."""
    own = {
        "table.weight": "model.embed_tokens.weight",
        "last.gain": "model.norm.weight",
        "unembed.weight": "lm_head.weight",
    }
    filled = {short: state[name] for short, name in own.items()}
    for layer in range(config.num_hidden_layers):
        own, given = f"blocks.{layer}.", f"model.layers.{layer}."
        filled |= {own + short: state[given + name] for short, name in NAMES.items()}
        filled[f"{own}qkv.weight"] = torch.cat([state[f"{given}self_attn.{letter}_proj.weight"] for letter in "qkv"])
        filled[f"{own}wide.weight"] = torch.cat([state[f"{given}mlp.{part}_proj.weight"] for part in ("gate", "up")])
    model.load_state_dict(filled)
    return model
