"""Every property of distillation holds for ours; the mutants break each of them."""

from __future__ import annotations

import pytest

from sftspec.tests.seam_verdict import evidence, properties_of, reference

PROPERTIES = properties_of("distillation")


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.check.__name__)
def test_the_property_holds_for_ours(item):
    assert evidence(item, reference(item), max_examples=100) >= item.floor
