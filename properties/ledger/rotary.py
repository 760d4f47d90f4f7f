"""Rotary angles in float64, for the model that says how large rounding is.

transformers takes frequencies and angles in float32 even where a model is in float64. At position p an angle is then
off by up to p times half a unit of its frequency, which in a long row is more than all other rounding. A trainer whose
frequencies are rounded elsewhere, or not at all, is as right.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


def with_exact_angles(model: Any) -> Any:
    """The model, which from now on takes its rotary angles in float64 where it computes in float64.

    Plain frequencies alone, theta^(-2i/d) (Su et al. 2021, arXiv:2104.09864, section 3.2.2); scaled ones stay as they
    are.
    """
    theta: float = (getattr(model.config, "rope_parameters", None) or {}).get("rope_theta", 0.0)
    for module in model.modules() if theta else ():
        kept = getattr(module, "inv_freq", None)
        if isinstance(kept, Tensor):
            exact = theta ** (-torch.arange(len(kept), dtype=torch.float64) / len(kept))
            if torch.allclose(kept.double().cpu(), exact, rtol=1e-6, atol=0.0):
                module.register_forward_hook(functools.partial(_exactly, exact), with_kwargs=True)
    return model


def _exactly(frequencies: Tensor, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """(cos, sin) of shape (B, T, d) in place of those that the module gave, if these are in float64."""
    position_ids = kwargs.get("position_ids", args[-1] if args else None)
    if not (isinstance(output, tuple) and output[0].dtype == torch.float64 and isinstance(position_ids, Tensor)):
        return None
    angles = position_ids[..., None].double().cpu() * frequencies
    angles = torch.cat((angles, angles), -1)
    if angles.shape != output[0].shape:  # laid out in another way
        return None
    return angles.cos() * module.attention_scaling, angles.sin() * module.attention_scaling
