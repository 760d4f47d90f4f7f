"""A copy of job.model as it was given, that calls upon nobody: what makes calls again where the model is sharded.

The layers of a sharded model gather their weights from all ranks whenever they are called, and ranks make unlike
numbers of calls again. The copy has the first weights, the trainer's configuration and its arguments: who sees whom is
the same.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from sftspec.conformance.witness.ear import Ear
from sftspec.job import weights_in

ROUNDINGS = 256  # by which the copy's states may be off the trainer's, at the first call


class BareEar(Ear):
    """Hears such a copy."""

    def __init__(self, model: Any):
        super().__init__(copy.deepcopy(model))

    def like(self, ear: Ear, hidden: Tensor) -> BareEar:
        """As the trainer has set its model by now: configuration, mode, and the dtype that computes."""
        self.model.config.__dict__.update(copy.deepcopy(ear.model.config).__dict__)
        weights_in(self.model.to(hidden.device), hidden.dtype).train(ear.model.training)
        return self


def are_alike(again: Tensor, hidden: Tensor) -> bool:
    """Are these the same states, within rounding? Else the trainer put something into the model."""
    eps = 2.0**-23 if hidden.element_size() > 2 else 2.0**-8
    return bool((again - hidden).abs().max() <= ROUNDINGS * eps * hidden.abs().max())
