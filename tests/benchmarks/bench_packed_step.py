"""A training step on packed rows beside one on padded rows of the same examples: tokens of examples per second.

    python tests/benchmarks/bench_packed_step.py                                    # small, on a CPU
    python tests/benchmarks/bench_packed_step.py --device cuda --dtype bfloat16 --size 1b --json packed-step.json

Forward, `sftspec.sft_loss`, backward; a Llama with random weights and checkpointed activations. Lengths are drawn as
real data has them (LENGTHS). Padded: rows as long as the longest of their batch, in the order of the data. Packed:
rows of `--capacity`, by sftspec.pack, through `sftspec_packed`, and through FlexAttention with a block mask that is
made once a batch and compiled once. Tokens per second of examples alone, padding not counted; and as a share of what
the device multiplies in that dtype, measured here: 6 floating-point operations for each token and weight but those of
the embedding, which multiplies nothing; attention, and what checkpoints compute again, left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import sftspec.attention  # noqa: F401  makes its name known to transformers
from sftspec.collation import Batch, collate
from sftspec.packing import pack
from sftspec.step import sft_loss

# hidden, layers, heads, key heads, intermediate, vocabulary; examples; rows of a padded batch; capacity
SIZES = {
    "tiny": ((64, 2, 4, 2, 128, 512), 16, 8, 512),
    "100m": ((768, 10, 12, 4, 2048, 32_000), 48, 8, 4096),
    "1b": ((2048, 18, 32, 8, 6144, 128_256), 400, 8, 8192),
}
# Tokens of a conversation in ChatML by Qwen's tokenizer, at these percentiles of all: single turns (T0 of
# yizhongw/self-instruct, 55,185) and dialogues of 18 messages (dstc8-schema-guided-dialogue, 17,193).
PERCENTILES = (*range(0, 100, 5), 99, 99.9, 100)
LENGTHS = {
    "single turns": (19, 40, 47, 55, 61, 68, 74, 82, 92, 106, 127, 157, 189, 224, 268, 354, 465, 497, 530, 611, 1483,
                     4159, 6020),
    "dialogues": (48, 151, 181, 203, 224, 241, 258, 274, 289, 303, 317, 333, 348, 364, 382, 402, 423, 449, 482, 537,
                  654, 800, 1052),
}  # fmt: skip
WAYS = {
    "padded": (False, "sdpa"),
    "packed": (True, "sftspec_packed"),
    "packed, flex": (True, "flex_attention"),
}


def make_model(size: str, device: str, dtype: torch.dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, key_heads, inner, vocabulary = SIZES[size][0]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_heads,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=65_536,
    )  # fmt: skip
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    model.gradient_checkpointing_enable()
    return model.train()


def lengths_of(kind: str, count: int, most: int) -> list[int]:
    drawn = np.interp(np.random.default_rng(0).uniform(0, 100, count), PERCENTILES, LENGTHS[kind])
    return [int(item) for item in np.clip(drawn, 8, most)]


def batches(
    lengths: list[int], vocabulary: int, packed: bool, rows: int, capacity: int, device: str
) -> Iterator[Batch]:
    """Batches of about rows * the mean length tokens: padded rows in the order of the data, or packs."""
    draw = torch.Generator().manual_seed(0)
    examples = []
    for length in lengths:
        ids = torch.randint(vocabulary, (length,), generator=draw)
        labels = ids.clone()
        labels[: length // 3] = -100
        examples.append(SimpleNamespace(input_ids=ids, labels=labels))
    if packed:
        for items in pack(lengths, capacity):
            yield collate(examples, [list(items)], pad_token_id=0, capacity=capacity).to(device)
    else:
        for start in range(0, len(examples), rows):
            yield collate(examples[start : start + rows], pad_token_id=0).to(device)


def inputs_of(batch: Batch, attention: str) -> dict:
    if attention != "flex_attention":
        return batch.model_inputs()
    return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": batch.flex_mask()}


def speed(model, made: list[Batch], attention: str, device: str) -> float:
    """Tokens of examples a second, after one batch to warm up."""
    model.set_attn_implementation(attention)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    tokens, began = 0, 0.0
    for number, batch in enumerate(made):
        if number == 1:
            wait()
            tokens, began = 0, time.perf_counter()
        logits = model(**inputs_of(batch, attention), use_cache=False).logits
        sft_loss(logits, batch.labels).backward()
        model.zero_grad(set_to_none=True)
        tokens += int((batch.segment_ids >= 0).sum())
    wait()
    return tokens / (time.perf_counter() - began)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large product, the best of five."""
    side = 8192 if device.startswith("cuda") else 1024
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    best = 0.0
    for _ in range(5):
        wait()
        began = time.perf_counter()
        one @ other
        wait()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--capacity", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    (*_, vocabulary), examples, rows, capacity = SIZES[args.size]
    capacity = args.capacity or capacity
    torch.manual_seed(0)
    model = make_model(args.size, args.device, dtype)
    weights, rate = sum(item.numel() for item in model.parameters()), matrix_rate(args.device, dtype)
    multiplied = weights - model.get_input_embeddings().weight.numel()
    print(f"{weights / 1e6:.0f} million weights, {args.dtype}, {rate / 1e12:.2f}e12 operations a second in one product")
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    record = {"device": device, "size": args.size, "dtype": args.dtype, "rate": rate, "weights": weights}
    found: dict[str, dict[str, float]] = {kind: {} for kind in LENGTHS}
    for kind, (name, (packed, attention)) in itertools.product(LENGTHS, WAYS.items()):
        lengths = lengths_of(kind, args.examples or examples, capacity)
        made = list(batches(lengths, vocabulary, packed, rows, capacity, args.device))
        share = sum(int((item.segment_ids >= 0).sum()) for item in made) / sum(item.input_ids.numel() for item in made)
        try:
            found[kind][name] = speed(model, made, attention, args.device)
        except Exception as error:  # a kernel that is not here, or no memory: the others are measured all the same
            print(f"{kind}, {name}: not measured: {type(error).__name__}: {str(error).partition(chr(10))[0][:120]}")
            model.zero_grad(set_to_none=True)
            continue
        used = 6 * multiplied * found[kind][name] / rate
        said = f"{share:4.0%} of positions are tokens, {used:.0%} of the product's rate"
        if name != "padded" and "padded" in found[kind]:
            said += f", {found[kind][name] / found[kind]['padded']:.2f} x padded"
        print(f"{kind + ', ' + name:28} {found[kind][name]:12,.0f} tokens/s  {said}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({**record, "tokens per second": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
