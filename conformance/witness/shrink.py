"""A witness of any architecture: a causal LM's own configuration, made small, with a head that can be read.

What makes the architecture is kept: the kinds of layers and their order (two of each), experts and routing, recurrent
state, sliding windows, caps on logits. What makes it large is not: widths, heads, experts, the vocabulary. A window is
shorter than a conversation, so that one that runs over a packed boundary is seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WINDOW = 16
SMALL: dict[str, Any] = {
    # heads and widths, by the names that configurations give them
    "intermediate_size": 64, "ffn_dim": 64, "n_inner": 64, "num_attention_heads": 4, "n_head": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "n_positions": 4096,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "first_k_dense_replace": 1, "decoder_sparse_step": 1,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    # recurrent layers
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "state_size": 16, "time_step_rank": 8, "mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16,
    "sliding_window": WINDOW, "attention_chunk_size": WINDOW,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "initializer_range": 0.15, "quantization_config": None, "use_cache": False,
}  # fmt: skip
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "mlp_only_layers", "no_rope_layers")


class ModelError(ValueError):
    """A configuration that no witness can be made of; says what can."""


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a model: config.json, or a folder that holds it. Raises ModelError."""
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"--model {path}: {getattr(error, 'strerror', None) or error}: give a config.json") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"--model {path}: it has no model_type: give the config.json of a Hugging Face model")
    shrunk(config, 64)  # refused here, before anything runs
    return config


def shrunk(config: dict[str, Any], size: int) -> Any:
    """The configuration of a small model of this architecture, with V = size and a width of at least V.

    >>> shrunk({"model_type": "gemma2", "final_logit_softcapping": 30.0}, 316).final_logit_softcapping
    30.0
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config["model_type"]
    try:
        whole = AutoConfig.for_model(**config).get_text_config(decoder=True)
    except ValueError as error:
        raise ModelError(f"model_type {kind!r}: {str(error).splitlines()[0]}") from None
    if whole.is_encoder_decoder or type(whole) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"a model of type {kind!r} cannot be a witness: give the config of a decoder-only causal LM (llama, mamba,"
            " qwen3_next), whose last hidden states enter one output head"
        )
    stated = whole.to_dict()
    width = -(-size // 16) * 16
    changes = {name: value for name, value in (SMALL | PLAIN).items() if stated.get(name) is not None}
    changes |= {name: width for name in ("hidden_size", "n_embd", "d_model") if name in stated}
    changes |= {"vocab_size": size, "tie_word_embeddings": False}
    if "expand" in stated:  # of a Mamba the inner width follows from the outer one
        changes["intermediate_size"] = int(stated["expand"] * width)
        changes |= {"num_heads": int(stated["expand"] * width) // 16, "head_dim": 16} if "n_groups" in stated else {}
    if stated.get("kv_lora_rank"):  # latent attention has a key and a value for each head
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    layers = _layers(stated)
    changes |= {name: len(layers) for name in DEPTHS if name in stated}
    changes |= {name: _of(stated[name], layers) for name in PER_LAYER if isinstance(stated.get(name), list)}
    if "rope_parameters" in stated:
        changes["rope_parameters"] = _plain_rope(stated["rope_parameters"])
    return type(whole).from_dict({**stated, **changes})


def _layers(stated: dict[str, Any]) -> list[int]:
    """Which layers are kept: the first two of each kind, in their order."""
    kinds = stated.get("layer_types") or stated.get("layers_block_type") or []
    if not kinds:
        return [0, 1]
    return sorted(
        place for kind in dict.fromkeys(kinds) for place in [i for i, own in enumerate(kinds) if own == kind][:2]
    )


def _of(values: list, layers: list[int]) -> list:
    """What is stated of each layer, of those that are kept; a list of something else is left empty."""
    return [values[place] for place in layers] if len(values) > max(layers) else []


def _plain_rope(parameters: Any) -> Any:
    """Rotary frequencies without the scalings that are lists as long as a head was."""
    if isinstance(parameters, dict) and all(isinstance(value, dict) for value in parameters.values()) and parameters:
        return {name: _plain_rope(value) for name, value in parameters.items()}
    kept = {
        name: value for name, value in (parameters or {}).items() if name in ("rope_theta", "partial_rotary_factor")
    }
    return {"rope_type": "default", "rope_theta": 10000.0, **kept}


def make_shrunk(config: dict[str, Any], size: int) -> Any:
    """A small model of this architecture, newly drawn. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(shrunk(config, size))
    except ModelError:
        raise
    except Exception as error:
        kind = config["model_type"]
        raise ModelError(f"no small model of type {kind!r} can be made: {type(error).__name__}: {error}") from error
