"""Every property of distillation holds for ours and fails for a loss with the bug it names."""

from __future__ import annotations

import pytest

from sftspec.tests.broken_distillation import LOSSES
from sftspec.tests.broken_distillation_options import OPTIONS
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of, reference

PROPERTIES = properties_of("distillation")

BROKEN = {**LOSSES, **OPTIONS}


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.check.__name__)
def test_the_property_holds_for_ours(item):
    assert evidence(item, reference(item), max_examples=100) >= item.floor


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.check.__name__)
def test_the_property_fails_for_each_broken_function(item):
    for function in BROKEN[item.check.__name__]:
        with pytest.raises(DoesNotHold):
            evidence(item, function)
