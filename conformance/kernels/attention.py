"""Packed attention, by every kernel: a token sees the tokens of its own example up to itself, and no other.

    o_i = sum over j in S(i) of softmax_j(q_i . k_j / sqrt(D)) v_j      (Vaswani et al. 2017, equation 1, masked)
    S(i) = { j <= i, example(j) = example(i), i - j < window }

Three things are asked. Other examples move no bit of an example, forwards and backwards (PK-INDEP, PK-JAC); a kernel
that is not the same twice is told apart first, and then compared within rounding. Outputs and gradients equal those of
each example alone in float64 (PK-LOGITS, BOUND-SELF). Left padding is not attended, and gives no NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sftspec.attention import segmented_attention
from sftspec.conformance.kernels.outcome import AbsentError, Found, Outcome, beyond, distance, outcomes, said


@dataclass(frozen=True)
class Way:
    """How attention is used: heads and heads of keys, lengths of the examples of a row, and a window.

    padding  so many positions on the left belong to no example
    """

    name: str
    heads: int = 4
    key_heads: int = 4
    lengths: tuple[int, ...] = (37, 64, 5, 150)
    window: int = 0
    padding: int = 0
    width: int = 64

    @property
    def columns(self) -> int:
        return self.padding + sum(self.lengths)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each example begins and ends."""
        return list(pairwise(accumulate(self.lengths, initial=self.padding)))

    def allowed(self, device: str) -> Tensor:
        """(T, T) bool: position i (dim 0) may see j (dim 1). Padding sees itself, so that no row is empty."""
        owner = torch.full((self.columns,), -1, device=device)
        for number, (start, end) in enumerate(self.bounds):
            owner[start:end] = number
        place = torch.arange(self.columns, device=device)
        seen = (owner[:, None] == owner[None]) & (place[None] <= place[:, None]) & (owner[:, None] >= 0)
        if self.window:
            seen &= place[:, None] - place[None] < self.window
        return seen | torch.eye(self.columns, dtype=torch.bool, device=device)


WAYS = (
    Way("packed"),
    Way("one example", lengths=(256,)),
    Way("grouped heads", key_heads=2),
    Way("sliding window", window=16),
    Way("left padding", lengths=(120,), padding=31),
)
Kernel = Callable[[Tensor, Tensor, Tensor, Way], Tensor]


def repeated(way: Way, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(item.repeat_interleave(way.heads // way.key_heads, dim=1) for item in tensors)


def plain(query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """Scores, a mask, softmax in float32 or above, values: what "eager" is in transformers."""
    key, value = repeated(way, key, value)
    scores = (query @ key.transpose(-1, -2)) * way.width**-0.5
    scores = scores.masked_fill(~way.allowed(str(query.device)), float("-inf"))
    wide = torch.promote_types(query.dtype, torch.float32)
    return torch.softmax(scores, -1, dtype=wide).to(query.dtype) @ value


def dense(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """One kernel of scaled_dot_product_attention, with a mask (T, T); without one where it is causal and no more, since
    CUDA's flash kernel takes none.
    """
    alone = way.lengths == (way.columns,) and not way.window
    seen: dict[str, Any] = {"is_causal": True} if alone else {"attn_mask": way.allowed(str(query.device))}
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(query, key, value, enable_gqa=way.heads != way.key_heads, **seen)


def segmented(query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """The reference: each example through causal attention alone."""
    if way.window:
        raise AbsentError("it has no window")
    starts = torch.zeros(1, way.columns, dtype=torch.bool, device=query.device)
    starts[0, [0, *(start for start, _ in way.bounds)]] = True
    return segmented_attention(query, key, value, starts).transpose(1, 2)


def flex(compiled: bool, query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """FlexAttention with a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    allowed, size = way.allowed(str(query.device)), way.columns
    mask = create_block_mask(lambda b, h, i, j: allowed[i, j], None, None, size, size, device=str(query.device))
    return flex_function(compiled)(query, key, value, block_mask=mask, enable_gqa=way.heads != way.key_heads)


@cache
def flex_function(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def variable_length(query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """torch.nn.attention.varlen, by cu_seqlens."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = cu_seqlens(way, str(query.device))
    window = (way.window - 1, 0) if way.window else (-1, 0)
    q, k, v = (item[0].transpose(0, 1) for item in (query, *repeated(way, key, value)))
    out = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=window)
    assert isinstance(out, Tensor)  # a pair only where more is asked for
    return out.transpose(0, 1)[None]


def flash(query: Tensor, key: Tensor, value: Tensor, way: Way) -> Tensor:
    """flash-attention's varlen function, by cu_seqlens."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        raise AbsentError("flash-attn is not installed") from None
    starts, longest = cu_seqlens(way, str(query.device))
    window = (way.window - 1, 0) if way.window else (-1, -1)
    flat = (item[0].transpose(0, 1) for item in (query, key, value))
    out = flash_attn_varlen_func(*flat, starts, starts, longest, longest, causal=True, window_size=window)
    return out.transpose(0, 1)[None]


def cu_seqlens(way: Way, device: str) -> tuple[Tensor, int]:
    """Where examples start; padding before them is one of its own."""
    lengths = (*([way.padding] if way.padding else ()), *way.lengths)
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths)


def kernels() -> dict[str, Kernel]:
    """Every kernel by name; whether this machine has it turns out when it is called."""
    return {
        "eager": plain,
        "sdpa:math": partial(dense, SDPBackend.MATH),
        "sdpa:flash": partial(dense, SDPBackend.FLASH_ATTENTION),
        "sdpa:efficient": partial(dense, SDPBackend.EFFICIENT_ATTENTION),
        "sdpa:cudnn": partial(dense, SDPBackend.CUDNN_ATTENTION),
        "sftspec_packed": segmented,
        "flex_attention": partial(flex, False),
        "flex_attention, compiled": partial(flex, True),
        "torch varlen": variable_length,
        "flash-attn varlen": flash,
    }


def inputs(way: Way, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """Query (1, H, T, D), key and value (1, K, T, D) that every dtype holds exactly, and a gradient of the output.

    Keys are large enough for attention to be sure here and there, as in trained models.
    """
    draw = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, way.columns, way.width) for heads in (way.heads, way.key_heads, way.key_heads, way.heads)]
    drawn = [torch.randn(shape, generator=draw).mul(2 if index == 1 else 1) for index, shape in enumerate(shapes)]
    return [item.bfloat16().to(device, dtype) for item in drawn]


def both_ways(kernel: Kernel, tensors: Sequence[Tensor], way: Way, backwards: bool = True) -> list[Tensor]:
    """The output, and the gradients of query, key and value; padding's output gets no gradient."""
    leaves = [item.detach().clone().requires_grad_(backwards) for item in tensors[:3]]
    query, key, value = leaves
    out = kernel(query, key, value, way)
    gradient = tensors[3].clone()
    gradient[:, :, : way.padding] = 0
    found = torch.autograd.grad(out, leaves, gradient.to(out.dtype)) if backwards else ()
    return [item.detach()[:, :, way.padding :] for item in (out, *found)]


NAMES = ("output", "gradient of query", "gradient of key", "gradient of value")


def judge(kernel: Kernel, way: Way, dtype: torch.dtype, device: str) -> Found:
    """What fails of a kernel, and its figures; of one that has no way back, forwards alone."""
    tensors = inputs(way, dtype, device)
    try:
        return judge_on(kernel, way, tensors, True)
    except NotImplementedError as error:
        found = judge_on(kernel, way, tensors, False)
        return replace(found, reason=f"forwards alone ({said(error)})")


def judge_on(kernel: Kernel, way: Way, tensors: Sequence[Tensor], backwards: bool) -> Found:
    exact = both_ways(plain, [item.double().cpu() for item in tensors], way, backwards)
    own = distance(both_ways(plain, tensors, way, backwards), exact)
    first, second = (both_ways(kernel, tensors, way, backwards) for _ in range(2))
    steady = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    errors = distance(first, exact)
    dtype = tensors[0].dtype
    failures = beyond(NAMES[: len(errors)], errors, own, dtype, way.columns)
    # Of a kernel that is not the same twice, what is moved by no more than rounding has not moved.
    allowed = 0.0 if steady else 4 * own[0] + 8 * torch.finfo(dtype).eps
    failures += leaks(kernel, way, tensors, first, allowed, backwards)
    return Found(failures, {"error": max(errors), "own": max(own), "bitwise": float(steady)})


def leaks(
    kernel: Kernel, way: Way, tensors: Sequence[Tensor], before: Sequence[Tensor], allowed: float, backwards: bool
) -> Iterator[str]:
    """Change everything outside an example, the gradient that comes back to it too: nothing within may move.

    allowed: by so much of its largest entry.
    """
    other = inputs(way, tensors[0].dtype, str(tensors[0].device), seed=1)
    if len(way.bounds) == 1 and not way.padding:
        return
    for number, (start, end) in enumerate(way.bounds):
        mixed = [theirs.clone() for theirs in other]
        for mine, theirs in zip(tensors, mixed, strict=True):
            theirs[:, :, start:end] = mine[:, :, start:end]
        inner = slice(start - way.padding, end - way.padding)
        for name, one, two in zip(NAMES, before, both_ways(kernel, mixed, way, backwards), strict=False):
            moved = float((one[:, :, inner].double() - two[:, :, inner].double()).abs().max())
            if not moved <= allowed * float(one[:, :, inner].double().abs().max()):
                yield f"{name} of example {number} moved by {moved:.2e} when others were changed"
                break


def attention_on_trial(
    dtypes: Sequence[torch.dtype], device: str, named: dict[str, Kernel] | None = None
) -> Iterator[Outcome]:
    """The outcome of each kernel in each way and dtype."""
    return outcomes(named or kernels(), {way.name: way for way in WAYS}, dtypes, partial(judge, device=device))
