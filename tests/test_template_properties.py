"""Every template property holds for our functions, with enough evidence, and every law of templates has one."""

from __future__ import annotations

import pytest

from sftspec import encode, render
from sftspec.properties import laws
from sftspec.tests.seam_verdict import evidence, properties_of

PROPERTIES = properties_of("template")
OURS = {"render": render, "encode": encode}


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.id)
def test_it_holds_for_ours_with_enough_evidence(item):
    assert evidence(item, OURS[item.seam]) >= item.floor


def test_every_law_of_templates_has_a_property():
    wanted = {law for law in laws.laws() if law.startswith("TP-")}
    assert wanted == {law for item in PROPERTIES for law in item.laws if law.startswith("TP-")}
