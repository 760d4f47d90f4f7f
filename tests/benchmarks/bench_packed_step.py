"""A training step on packed rows beside one on padded rows of the same examples: tokens of examples per second.

    python tests/benchmarks/bench_packed_step.py                                    # small, on a CPU
    python tests/benchmarks/bench_packed_step.py --device cuda --dtype bfloat16 --size 1b --lengths lengths.npy

Forward, `sftspec.sft_loss`, backward; a Llama with random weights. Lengths are drawn from a file (.npy) or, without
one, from a lognormal (median 250) as of chats. Padded: batches of rows as long as their longest. Packed: rows of
`--capacity`, by sftspec.pack, through `sftspec_packed`, and through FlexAttention with a block mask that is made once a
batch and compiled once. Tokens per second of examples alone, padding not counted; and as a share of what the device
multiplies in that dtype, measured here (6 floating-point operations for each weight and token, attention left out).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import sftspec.attention  # noqa: F401  makes its name known to transformers
from sftspec.collation import Batch, collate
from sftspec.packing import pack
from sftspec.step import sft_loss

# hidden, layers, heads, key heads, intermediate, vocabulary; rows of a padded batch; capacity
SIZES = {
    "tiny": ((64, 2, 4, 2, 128, 512), 8, 512),
    "100m": ((768, 10, 12, 4, 2048, 32_000), 16, 4096),
    "1b": ((2048, 18, 32, 8, 6144, 128_256), 16, 8192),
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


def lengths_of(path: Path | None, count: int, most: int) -> list[int]:
    draw = np.random.default_rng(0)
    found = np.load(path) if path else np.exp(draw.normal(5.5, 0.9, size=100_000))
    return [int(item) for item in np.clip(draw.choice(found, count), 8, most)]


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


def speed(model, made: list[Batch], attention: str, device: str, compiled: Callable | None = None) -> float:
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
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--capacity", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    (*_, vocabulary), rows, capacity = SIZES[args.size]
    capacity = args.capacity or capacity
    lengths = lengths_of(args.lengths, args.examples, capacity)
    torch.manual_seed(0)
    model = make_model(args.size, args.device, dtype)
    weights, rate = sum(item.numel() for item in model.parameters()), matrix_rate(args.device, dtype)
    print(f"{weights / 1e6:.0f} million weights, {args.dtype}, {rate / 1e12:.2f}e12 operations a second in one product")
    found: dict[str, float] = {}
    for name, packed, attention in (
        ("padded", False, "sdpa"), ("packed", True, "sftspec_packed"), ("packed, flex", True, "flex_attention"),
    ):  # fmt: skip
        made = list(batches(lengths, vocabulary, packed, rows, capacity, args.device))
        share = sum(int((item.segment_ids >= 0).sum()) for item in made) / sum(item.input_ids.numel() for item in made)
        try:
            found[name] = speed(model, made, attention, args.device)
        except (RuntimeError, NotImplementedError, ValueError, ImportError) as error:
            print(f"{name:14} not measured: {str(error).splitlines()[0][:120]}")
            continue
        used = 6 * weights * found[name] / rate
        said = f"{share:4.0%} of positions are tokens, {used:.0%} of the product's rate"
        print(f"{name:14} {found[name]:12,.0f} tokens/s  {said}", flush=True)
    if {"padded", "packed"} <= found.keys():
        ratios = [found["packed"] / found["padded"], max(found.values()) / found["padded"]]
        print(f"packed ÷ padded {ratios[0]:.2f}, the best way ÷ padded {ratios[1]:.2f}")
    if args.json:
        device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
        record = {"device": device, "size": args.size, "dtype": args.dtype, "rate": rate, "weights": weights}
        args.json.write_text(json.dumps({**record, "tokens per second": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
