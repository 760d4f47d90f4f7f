"""Packed attention beside the padded batch of the same examples, and beside a dense mask. Attention alone, on the CPU.

    python tests/benchmarks/bench_attention.py [--rounds N] [--threads N]

One packed row of T = 2048 positions, 8 heads of 64, cut into 8 segments, against 8 padded rows as long as the longest
segment. Forward and backward in float32, medians in milliseconds; the ways of a line run in turn. Inputs have the
layout that a model's projections give them. Exits with 1 if packed takes more than 1.3 times as long as padded.

One thread unless more are asked for: on cores that others use too, a second thread mostly waits for its turn at the end
of each small operation, and the medians measure that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sftspec.attention import segment_starts, segmented_attention

HEADS, COLUMNS, DEPTH = 8, 2048, 64
TARGET = 1.3
LAYOUTS = {
    "equal": [256] * 8,
    "nearly equal": [256, 250, 262, 255, 257, 256, 240, 272],
    "two lengths": [384, 128] * 4,
    "ragged": [100, 500, 30, 700, 200, 218, 44, 256],
    "one long": [1600, 64, 64, 64, 64, 64, 64, 64],
}


def forward_and_backward(attend: Callable[..., Tensor], rows: int, columns: int, key_heads: int) -> Callable[[], None]:
    """A job that attends from fresh leaves (rows, columns, heads, depth), given transposed as in a model."""
    leaves = [torch.randn(rows, columns, heads, DEPTH) for heads in (HEADS, key_heads, key_heads)]
    upstream = torch.randn(rows, columns, HEADS, DEPTH)

    def job() -> None:
        inputs = [leaf.requires_grad_(True) for leaf in leaves]
        attend(*(leaf.transpose(1, 2) for leaf in inputs)).backward(upstream)
        for leaf in leaves:
            leaf.grad = None

    return job


def jobs_for(lengths: list[int], key_heads: int) -> dict[str, Callable[[], None]]:
    segment_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    dense_mask = (segment_ids[:, :, None] == segment_ids[:, None, :]).tril()[:, None]
    grouped = key_heads != HEADS

    def packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return segmented_attention(query, key, value, segment_starts(1, COLUMNS, segment_ids, None))

    def padded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped).transpose(1, 2)

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=dense_mask, enable_gqa=grouped).transpose(1, 2)

    return {
        "packed": forward_and_backward(packed, 1, COLUMNS, key_heads),
        "padded": forward_and_backward(padded, len(lengths), max(lengths), key_heads),
        "dense": forward_and_backward(dense, 1, COLUMNS, key_heads),
    }


def medians(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds, the jobs taking turns; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    titles = ("packed ms", "padded ms", "dense ms", "packed/padded", "dense/packed")
    print(f"{arguments.threads} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'segments':>16} {'key heads':>10}" + "".join(f"{title:>15}" for title in titles))
    slow = []
    for name, lengths in LAYOUTS.items():
        assert sum(lengths) == COLUMNS, name
        for key_heads in (HEADS, HEADS // 4):
            times = medians(jobs_for(lengths, key_heads), arguments.rounds)
            ratio = times["packed"] / times["padded"]
            cells = [f"{times[way]:.1f}" for way in ("packed", "padded", "dense")]
            cells += [f"{ratio:.2f}", f"{times['dense'] / times['packed']:.1f}"]
            print(f"{name:>16} {key_heads:>10}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
            if ratio > TARGET:
                slow.append(f"{name}, {key_heads} key heads: {ratio:.2f} times the padded batch, not {TARGET}")
    print(*(f"MISSED {line}" for line in slow), sep="\n")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
