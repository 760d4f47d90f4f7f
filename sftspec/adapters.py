"""Low-rank adapters: how what trains enters the weights that compute, and how a gradient comes back to it.

    W = W0 + s B A                          LoRA (Hu et al. 2021, arXiv:2106.09685, equation 3), s = alpha / r
    s = alpha / sqrt(r)                     rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)
    W = m V / |V|, V = W0 + s B A           DoRA (Liu et al. 2024, arXiv:2402.09353, equation 5), |V| of each output
                                            row, held constant on the way back (section 4.3)

Expected gradients are pulled back from those of W: dB = s dW A^T, dA = s B^T dW.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Adapter:
    """One adapter of one matrix.

    target           name of W0, (out, in); of an embedding or a Conv1D (in, out), which is `transposed`
    a, b, magnitude  names of A (r, in), B (out, r) and, with DoRA, of m (out,)
    rank, alpha      as they were declared
    scaling          s, as the module holds it
    rank_stabilized  rsLoRA was declared
    dropout          rate of dropout before A
    """

    target: str
    a: str
    b: str
    rank: int
    alpha: float
    scaling: float
    rank_stabilized: bool = False
    transposed: bool = False
    dropout: float = 0.0
    magnitude: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what it trains."""
        return (self.a, self.b, *filter(None, [self.magnitude]))

    @property
    def declared_scaling(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    def applied(self, weight: Any, tensors: Mapping[str, Any]) -> Any:
        """W of W0, a tensor of its shape."""
        weight = weight.T if self.transposed else weight
        weight = weight + self.scaling * (tensors[self.b] @ tensors[self.a])
        if self.magnitude:
            weight = weight * (tensors[self.magnitude] / weight.norm(dim=1).detach())[:, None]
        return weight.T if self.transposed else weight


def computing(adapters: Iterable[Adapter], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that compute, by name: those with adapters in place of their bases.

    >>> import torch
    >>> adapter = Adapter("w", "a", "b", rank=1, alpha=2.0, scaling=2.0)
    >>> tensors = {"w": torch.zeros(1, 1), "a": torch.tensor([[3.0]]), "b": torch.tensor([[5.0]])}
    >>> computing([adapter], tensors)["w"]
    tensor([[30.]])
    """
    weights = dict(tensors)
    for adapter in adapters:
        weights[adapter.target] = adapter.applied(weights[adapter.target], tensors)
    return weights


def gains_of(adapters: Iterable[Adapter], tensors: Mapping[str, Any]) -> dict[str, float]:
    """By how much an error in dW is larger in the gradient of each factor: s |A| in that of B, s |B| in that of A.

    >>> import torch
    >>> adapter = Adapter("w", "a", "b", rank=1, alpha=2.0, scaling=2.0)
    >>> gains_of([adapter], {"a": torch.tensor([[3.0]]), "b": torch.tensor([[5.0]])})
    {'a': 10.0, 'b': 6.0}
    """
    size = {name: float(tensors[name].double().norm()) for item in adapters for name in (item.a, item.b)}
    return {
        one: abs(item.scaling) * size[two] for item in adapters for one, two in ((item.a, item.b), (item.b, item.a))
    }


def pulled_back(
    adapters: Iterable[Adapter], tensors: Mapping[str, Any], gradients: Mapping[str, Any]
) -> dict[str, Any]:
    """The gradients of what the adapters train, given those of the weights that compute; all in one dtype.

    >>> import torch
    >>> adapter = Adapter("w", "a", "b", rank=1, alpha=2.0, scaling=2.0)
    >>> tensors = {"w": torch.zeros(1, 1), "a": torch.tensor([[3.0]]), "b": torch.tensor([[5.0]])}
    >>> pulled_back([adapter], tensors, {"w": torch.ones(1, 1)})
    {'a': tensor([[10.]]), 'b': tensor([[6.]])}
    """
    import torch

    chosen = [adapter for adapter in adapters if adapter.target in gradients]
    names = [name for adapter in chosen for name in adapter.parameters]
    if not names:
        return {}
    leaves = {name: tensors[name].detach().clone().requires_grad_() for name in names}
    with torch.enable_grad():
        weights = computing(chosen, {**tensors, **leaves})
    targets = list(dict.fromkeys(adapter.target for adapter in chosen))
    found = torch.autograd.grad(
        [weights[name] for name in targets], list(leaves.values()), [gradients[name] for name in targets]
    )
    return {name: gradient for name, gradient in zip(leaves, found, strict=True)}
