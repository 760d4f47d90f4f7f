"""What some models do with z = W h before it is their logits: a scale, and a cap.

    logits = c tanh(s z / c)      c: Gemma 2 (arXiv:2408.00118, section 2)
                                  s: Cohere's logit_scale, one over Granite's logits_scaling

A gradient at the logits reaches z times the slope s (1 - tanh^2): where logits stand at their cap, nothing is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Squash:
    """cap: None caps nothing."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, z: Any) -> Any:
        """The logits of z, a tensor of any shape.

        >>> Squash()(2.0)
        2.0
        """
        scaled = z * self.scale if self.scale != 1.0 else z
        return scaled if self.cap is None else self.cap * (scaled / self.cap).tanh()

    def slope(self, z: Any) -> Any:
        """d logits / d z."""
        if self.cap is None:
            return self.scale
        return self.scale * (1 - (z * self.scale / self.cap).tanh() ** 2)


def squash_of(config: Any) -> Squash:
    """What a Hugging Face model of this configuration does with its logits.

    >>> from types import SimpleNamespace
    >>> squash_of(SimpleNamespace(final_logit_softcapping=30.0))
    Squash(scale=1.0, cap=30.0)
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Squash(scale, getattr(config, "final_logit_softcapping", None))
