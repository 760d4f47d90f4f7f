"""The packer against an independent best-fit decreasing, exhaustive optima and TRL."""

from __future__ import annotations

import gc
import itertools
import json
import random
from bisect import bisect_left, insort
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch

from sftspec.conformance.trial.judge import judge
from sftspec.packing import Bins, PackingError, efficiency, fit, lower_bound, pack
from sftspec.properties.packing.packer import TIGHT, optimum
from sftspec.trainer import Pipeline
from tests.seam_verdict import properties_of

PROPERTIES = {item.id.split("/")[1]: item for item in properties_of("packing", "pack")}


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """Tokens of each pack, ascending: the definition, one example at a time."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        best = bisect_left(spaces, length)
        space = spaces.pop(best) if best < len(spaces) else capacity
        insort(spaces, space - length)
    return sorted(capacity - space for space in spaces)


def random_problem(seed: int) -> tuple[list[int], int]:
    draw = random.Random(seed)
    capacity = draw.randint(1, 64)
    longest = draw.randint(1, capacity)
    return [draw.randint(1, longest) for _ in range(draw.randint(0, 60))], capacity


def test_packs_are_filled_as_by_best_fit_over_examples():
    for seed in range(2000):
        lengths, capacity = random_problem(seed)
        ours = sorted(sum(lengths[index] for index in one) for one in pack(lengths, capacity))
        assert ours == best_fit_decreasing(lengths, capacity), (lengths, capacity)


@pytest.mark.parametrize("capacity", [1000, 4096, 70_000])
def test_large_inputs_are_packed_as_by_best_fit_over_examples(capacity):
    lengths = np.random.default_rng(1).lognormal(5.8, 1.0, 20_000).astype(np.int64).clip(1, 1000)
    bins = pack(lengths, capacity)
    assert np.array_equal(np.sort(bins.order), np.arange(len(lengths)))
    ours = np.sort(np.add.reduceat(lengths[bins.order], bins.offsets[:-1]))
    assert ours.tolist() == best_fit_decreasing(lengths.tolist(), capacity)
    assert len(bins) >= lower_bound(lengths, capacity)


@pytest.mark.parametrize("capacity", [255, 257, 2048])
def test_trl_needs_as_many_packs(capacity):
    pyarrow = pytest.importorskip("pyarrow")
    data_utils = pytest.importorskip("trl.data_utils")
    lengths = np.random.default_rng(2).lognormal(4.5, 1.0, 3000).astype(np.int64).clip(1, capacity)
    offsets = pyarrow.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
    table = pyarrow.table({"tokens": pyarrow.ListArray.from_arrays(offsets, pyarrow.nulls(int(lengths.sum())))})
    assert len(data_utils._pack_bfd(table, capacity)) == len(pack(lengths, capacity))


def test_equal_lengths_keep_their_order():
    assert list(pack([4, 4, 2, 4, 2, 2], 8)) == [[0, 1], [3, 2, 4], [5]]


def test_of_packs_with_one_free_space_the_first_is_filled_first():
    assert list(pack([5, 5, 3], 8)) == [[0, 2], [1]]
    assert list(pack([3, 3, 3, 3, 3, 3, 2, 2], 8)) == [[0, 1, 6], [2, 3, 7], [4, 5]]


def test_a_listing_leaves_the_garbage_collector_as_it_was():
    bins = pack([5, 3, 4], 8)
    try:
        for switch, state in ((gc.disable, False), (gc.enable, True)):
            switch()
            assert list(bins) == [[0, 1], [2]] and gc.isenabled() is state
    finally:
        gc.enable()


def test_bins_are_lists_and_arrays():
    bins = pack([5, 3, 4, 2, 2], 8)
    assert len(bins) == 2 and bins[0] == [0, 1] and bins[-1] == [2, 3, 4] and bins[:1] == [[0, 1]]
    assert all(type(index) is int for one in bins for index in one)
    assert bins.order.dtype == bins.offsets.dtype == np.int64
    assert bins.order.tolist() == [0, 1, 2, 3, 4] and bins.offsets.tolist() == [0, 2, 5]
    with pytest.raises(IndexError):
        bins[2]


def test_nothing_packs_into_nothing():
    bins = pack([], 8)
    assert isinstance(bins, Bins) and len(bins) == 0 and list(bins) == []
    assert lower_bound([], 8) == 0 and efficiency([], bins, 8) == 1.0


@pytest.mark.parametrize("lengths", [np.array([3, 4, 1], np.int32), torch.tensor([3, 4, 1]), (3, 4, 1)])
def test_arrays_tensors_and_tuples_are_lengths_too(lengths):
    assert list(pack(lengths, 8)) == [[1, 0, 2]]


@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        ([3, 0, 2], 8, r"example 1 has length 0"),
        ([3, -2], 8, r"example 1 has length -2"),
        ([3, 2.5], 8, r"length 2\.5 of example 1 is no integer"),
        (np.array([3.0, 2.0]), 8, r"example 0 is no integer"),
        ([True, False], 8, r"example 0 is no integer"),
        ([[3, 2]], 8, r"shape \(1, 2\)"),
        (3, 8, r"shape \(\)"),
        ([3], 0, r"capacity 0"),
        ([3], 8.0, r"capacity 8\.0"),
        ([3, 9, 12], 8, r"example 1 has 9 tokens, the capacity is 8 \(2 such.*overlong='truncate' or 'drop'"),
    ],
)
def test_bad_input_is_named(lengths, capacity, message):
    with pytest.raises(PackingError, match=message):
        pack(lengths, capacity)


def test_every_overlong_policy_counts_what_it_costs():
    lengths = [9, 3, 20, 8]
    policies = json.loads('["truncate", "drop"]')  # as read from a file: other objects than the source's
    cut, left = (fit(lengths, 8, overlong=policy) for policy in policies)
    assert (cut.kept.tolist(), cut.lengths.tolist()) == ([0, 1, 2, 3], [8, 3, 8, 8])
    assert (cut.truncated, cut.dropped, cut.tokens_lost) == (2, 0, 1 + 12)
    assert (left.kept.tolist(), left.lengths.tolist()) == ([1, 3], [3, 8])
    assert (left.truncated, left.dropped, left.tokens_lost) == (0, 2, 29)
    whole = fit([3, 8], 8)
    assert (whole.kept.tolist(), whole.truncated, whole.dropped, whole.tokens_lost) == ([0, 1], 0, 0, 0)
    with pytest.raises(PackingError, match="'split' is no policy"):
        fit(lengths, 8, overlong="split")
    with pytest.raises(FrozenInstanceError):
        left.dropped = 0  # type: ignore[misc]


def martello_toth(lengths: list[int], capacity: int) -> int:
    """L2 by its definition, threshold by threshold, in exact fractions."""
    bound = 0
    for threshold in range(capacity // 2 + 1):
        first = [n for n in lengths if n > capacity - threshold]
        second = [n for n in lengths if capacity - threshold >= n > Fraction(capacity, 2)]
        third = [n for n in lengths if Fraction(capacity, 2) >= n >= threshold]
        rest = Fraction(sum(third) - (len(second) * capacity - sum(second)), capacity)
        bound = max(bound, len(first) + len(second) + max(0, -(-rest.numerator // rest.denominator)))
    return bound


@pytest.mark.filterwarnings("error")  # numpy's, of a division by zero
def test_the_lower_bound_is_martello_and_toths():
    for seed in range(1000):
        lengths, capacity = random_problem(seed)
        assert lower_bound(lengths, capacity) == martello_toth(lengths, capacity), (lengths, capacity)


def test_the_exhaustive_optimum_is_that_of_all_partitions():
    for seed in range(100):
        lengths, capacity = random_problem(seed)
        lengths = lengths[:5]
        fewest = min(
            len(set(places))
            for places in itertools.product(range(len(lengths)), repeat=len(lengths))
            if all(sum(n for n, at in zip(lengths, places, strict=True) if at == k) <= capacity for k in set(places))
        )
        assert optimum(lengths, capacity) == fewest, (lengths, capacity)
        assert lower_bound(lengths, capacity) <= fewest


def test_the_tight_instance_needs_nine_packs_and_gets_eleven():
    assert sum(TIGHT.lengths) == 9 * TIGHT.capacity
    assert optimum(*TIGHT) == 9
    assert len(pack(*TIGHT)) == 11 == (11 * 9 + 6) // 9


def test_efficiency_counts_tokens():
    assert efficiency([5, 3, 4], [[0, 1], [2]], 8) == 12 / 16
    assert efficiency([5, 3, 4], pack([5, 3, 4], 8), 8) == 12 / 16


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_property_holds_for_the_reference(name):
    verdict = judge(PROPERTIES[name], Pipeline(pack=pack), [], max_examples=300)
    assert verdict.status == "pass", (verdict.counterexample, verdict.reason)


def test_a_packer_that_drops_as_it_declares_passes():
    def drops(lengths, capacity):
        kept = fit(lengths, capacity, overlong="drop")
        return [kept.kept[one].tolist() for one in pack(kept.lengths, capacity)]

    drops.overlong = "drop"
    assert all(judge(item, Pipeline(pack=drops), []).status == "pass" for item in PROPERTIES.values())


def test_a_packer_of_lists_alone_passes():
    def packs_lists(lengths, capacity):
        if not isinstance(lengths, list):
            raise TypeError("lengths is no list")
        return pack(lengths, capacity)

    assert all(judge(item, Pipeline(pack=packs_lists), []).status == "pass" for item in PROPERTIES.values())
