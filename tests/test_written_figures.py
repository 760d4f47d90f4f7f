"""A figure of a log is as exact as it was written: by hand, half a unit of the last decimal, of four at least."""

from __future__ import annotations

import pytest
import torch

from sftspec.properties.step.reports import written
from sftspec.properties.step.updates import _same


def test_a_figure_of_four_decimals_is_half_a_unit_off():
    assert written(4.7494) == pytest.approx(0.5e-4) == written(4.75)
    assert written(4.749451160430908) < 1e-12


def test_parameters_that_are_nan_before_and_after_did_not_change():
    before, other = {"w": torch.tensor([1.0, float("nan")])}, {"w": torch.tensor([2.0, float("nan")])}
    assert _same(before, before, "here")[0] and not _same(before, other, "here")[0]
