"""AdamW for weights of 16 bits: the rule runs on float32 copies, and the weights are those copies, rounded.

At a usual rate an update is far below half a rounding of a 16-bit weight: added to the weight it is lost, each time. In
a float32 copy updates add up until they are large enough to be seen. Zamirai et al. 2020, arXiv:2010.06192.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) on float32 copies of its parameters.

    params: parameters of any float dtype; copies and moments are float32 and part of state_dict().

    >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    >>> optimizer = MasterAdamW([weight], lr=1e-3)
    >>> for _ in range(8):
    ...     weight.grad = torch.ones_like(weight)
    ...     _ = optimizer.step()
    >>> weight.item(), round(optimizer.state[weight]["master"].item(), 4)
    (0.9921875, 0.992)
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient. Returns the loss of the closure that makes them."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad.float()
                if not state:
                    state["master"], state["step"] = parameter.detach().float().clone(), 0
                    state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
                state["step"] += 1
                # ST-ADAMW: decay is apart from the gradient.
                master = state["master"].mul_(1 - group["lr"] * group["weight_decay"])
                first = state["first"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
                second = state["second"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2 ** state["step"])
                master.sub_(group["lr"] * first / (second.sqrt() + group["eps"]))
                # ST-SMALL: rounded from the copy, which keeps what was too small to be seen.
                parameter.copy_(master)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What state_dict() gave, in float32: torch's own would round it to the parameters' dtype."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, kept in state_dict["state"].items():
            self.state[parameters[index]] = {
                name: value.clone() if isinstance(value, Tensor) else value for name, value in kept.items()
            }
