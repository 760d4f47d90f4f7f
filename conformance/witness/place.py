"""A model is put where it is to compute, before the trainer gets it: on which device, by which attention.

What is asked for and is not there is an error, never another place in silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# One of the kernels behind scaled_dot_product_attention, and no other: their names in torch.nn.attention.SDPBackend.
KERNELS = {
    "sdpa:math": "MATH",
    "sdpa:flash": "FLASH_ATTENTION",
    "sdpa:efficient": "EFFICIENT_ATTENTION",
    "sdpa:cudnn": "CUDNN_ATTENTION",
}


class PlaceError(RuntimeError):
    """A device or an attention that is not to be had here; says what is."""


def require_device(name: str) -> None:
    """Raise PlaceError for a device that is not there."""
    try:
        torch.ones(1, device=name).item()  # of "meta", which holds no numbers, there is none
    except (RuntimeError, AssertionError) as error:
        here = "cpu" + (f", {torch.cuda.device_count()} of cuda" if torch.cuda.is_available() else "")
        said = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise PlaceError(f"no device {name!r} here ({said}); there is {here}") from None


def place(job: Any) -> None:
    """Put job.model on job.device, and give it job.attention. Raises PlaceError."""
    require_device(job.device)
    job.model.to(job.device)
    family, colon, _ = job.attention.partition(":")
    if colon and job.attention not in KERNELS:
        raise PlaceError(f"no attention {job.attention!r}; known beside those of transformers: {', '.join(KERNELS)}")
    if family:
        try:
            job.model.set_attn_implementation(family)
        except (ValueError, ImportError) as error:
            raise PlaceError(f"no attention {job.attention!r} here: {error}") from None
    if colon or (family == "flex_attention" and job.device.startswith("cpu")):
        require_kernel(job)


def require_kernel(job: Any) -> None:
    """Raise PlaceError for a kernel that this device does not have, or not in this arithmetic, or not on the way back:
    before its compiler takes minutes to find out.
    """
    from torch.nn.functional import scaled_dot_product_attention

    dtype = getattr(torch, job.autocast) if job.autocast else job.model.dtype
    some = torch.zeros(1, 1, 8, 16, device=job.device, dtype=dtype, requires_grad=True)
    try:
        if job.attention in KERNELS:
            with kernel(job.attention):
                scaled_dot_product_attention(some, some, some, is_causal=True)
        else:
            from torch.nn.attention.flex_attention import flex_attention

            flex_attention(some, some, some)
    except RuntimeError as error:
        said = str(error).partition(". ")[0]
        raise PlaceError(f"no attention {job.attention!r} on {job.device} in {dtype}: {said}") from None


@contextlib.contextmanager
def kernel(attention: str) -> Iterator[None]:
    """Attention goes through this kernel of scaled_dot_product_attention, where one is named."""
    if attention not in KERNELS:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(getattr(SDPBackend, KERNELS[attention])):
        yield
