"""The witness: a tiny real model that remembers what it was trained on.

A trainer is judged where nothing can be hidden, at the model. One place is tapped: the last hidden state h (positions x
H) that enters the output head W (V x H). The head is made so that W has full row rank and orthogonal rows; then the
gradient at h, g = u W with u = dL/dlogits, gives u back: u = g pinv(W). No logits have to exist, so fused, chunked and
sliced losses are read like any other. What h and g say is turned into rows of the ledger by `recovery`.
"""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import torch

from sftspec.conformance.witness.shrink import make_shrunk
from sftspec.golden import small_tokenizer
from sftspec.job import weights_in

END_OF_TURN = "<|im_end|>"
LOGIT_SCALE = 1.5
KINDS = ("rope", "learned")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(pad_is_end_of_turn: bool = False):
    """The small tokenizer as a fast Hugging Face tokenizer with the ChatML template (assistant turns marked)."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer.build(),
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN if pad_is_end_of_turn else "<|pad|>",
        chat_template=CHATML,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(
    kind: str = "rope",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    size: int = small_tokenizer.SIZE,
    config: dict[str, Any] | None = None,
):
    """A causal LM of two layers: "rope" is a Llama, "learned" a GPT-2 (absolute positions). V = size, and H = V, or up
    to three more for its four heads.

    Rotary positions are relative: a model that has them cannot show positions that do not restart (trap H2), so the
    second kind is not optional. With a config (the content of a config.json) it is a small model of that architecture
    instead, see `shrink`.
    """
    return copy.deepcopy(_made(kind, seed, dtype, dropout, size, json.dumps(config)))


@functools.lru_cache(maxsize=16)
def _made(kind: str, seed: int, dtype: torch.dtype, dropout: float, size: int, config: str):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    width = -(-size // 4) * 4
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model: Any
    common: dict[str, Any] = {"vocab_size": size, "tie_word_embeddings": False, "bos_token_id": None}
    if (asked := json.loads(config)) is not None:
        model = make_shrunk(asked, size)
    elif kind == "rope":
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, attention_dropout=dropout,
                initializer_range=0.15, **common,
            )
        )  # fmt: skip
    elif kind == "learned":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=width, n_inner=64, n_layer=2, n_head=4, n_positions=1024, attn_pdrop=dropout,
                resid_pdrop=dropout, embd_pdrop=dropout, initializer_range=0.15, eos_token_id=None,
                **common,
            )
        )  # fmt: skip
    else:
        raise ValueError(f"unknown model kind {kind!r}; known: {', '.join(KINDS)}")
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        torch.nn.init.orthogonal_(head)
        head.mul_(LOGIT_SCALE)
    torch.set_rng_state(state)
    model.generation_config.pad_token_id = model.config.pad_token_id
    return weights_in(model, dtype).eval()  # as from_pretrained gives it: whoever trains says so
