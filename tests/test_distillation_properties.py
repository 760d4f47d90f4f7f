"""Every property of distillation holds for ours and fails for a loss with the bug it names."""

from __future__ import annotations

import pytest

from sftspec.properties.distillation.loss import loss as distillation
from sftspec.tests.broken_distillation import LOSSES
from sftspec.tests.broken_distillation_options import OPTIONS
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of, reference

PROPERTIES = properties_of("distillation")

# The laws of distillation, all of them; what no function shows stands in NOT_OBSERVABLE with its reason.
LAWS = {"KD-VAL", "KD-GRAD", "KD-LIM", "KD-BOUND", "KD-T2", "KD-ZERO", "KD-SHIFT", "KD-DIR", "KD-NOTEACH", "KD-MASK"}
LAWS |= {"KD-RED", "KD-MIX", "KD-CE", "KD-HARD", "KD-ACC", "KD-JSD", "KD-TOPK", "KD-VOCAB", "KD-SEQ"}


BROKEN = {**LOSSES, **OPTIONS}


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.check.__name__)
def test_the_property_holds_for_ours(item):
    assert evidence(item, reference(item), max_examples=100) >= item.floor


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.check.__name__)
def test_the_property_fails_for_each_broken_function(item):
    for function in BROKEN[item.check.__name__]:
        with pytest.raises(DoesNotHold):
            evidence(item, function)


def test_every_law_is_enforced_or_has_a_reason():
    enforced = {law for item in PROPERTIES for law in item.laws}
    assert enforced | set(distillation.NOT_OBSERVABLE) == LAWS
    assert all(distillation.NOT_OBSERVABLE.values()) and not enforced & set(distillation.NOT_OBSERVABLE)
