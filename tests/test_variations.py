"""The variations: what they ask, what they leave alone, and that a failure says under which one it was found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.trial.functions import draw
from sftspec.properties import REGISTRY, load
from sftspec.properties.variations import VARIATIONS, Changed, NotAsked, both, form, leaves_alone, same, tensor
from sftspec.selection import best_of_n

NAN = math.nan
load("best_of_n")


def variation(seam: str, name: str):
    (found,) = [item for item in VARIATIONS[seam] if item.name == name]
    return found


def note_of(mutant: str, identifier: str) -> str:
    """What the counterexample of a property says on a planted bug."""
    (planted,) = [item for item in load_mutants() if item.name == mutant]
    item = REGISTRY[identifier]
    return draw(item, planted.make().parts[item.seam], 100).counterexample["note"]


@pytest.mark.parametrize(
    ("mutant", "identifier", "way"),
    [
        ("float32-arrays-ranked-in-float16", "the-winner-has-the-largest-reward", "as an array of float32"),
        ("half-precision-centred", "the-winner-has-the-largest-reward", "as a tensor of float16"),
        ("k-best-of-one-row-unsorted", "the-k-best-are-the-k-largest", "each row alone"),
        ("last-tensor-block-left-out", "the-winner-has-the-largest-reward", "among 40 prompts, as a tensor"),
        ("last-of-equals-in-unequal-rows", "the-first-of-equals-wins", "beside a prompt of one candidate"),
        ("missing-rewards-overwritten", "selecting-leaves-the-rewards-as-they-are", "as an array of float64"),
    ],
)
def test_a_failure_says_under_which_variation(mutant, identifier, way):
    assert note_of(f"best_of_n/{mutant}", f"best_of_n/{identifier}").startswith(way)


def test_a_plain_failure_names_no_variation():
    note = note_of("best_of_n/worst-first", "best_of_n/the-winner-has-the-largest-reward")
    assert note.startswith("expected ")


def test_what_is_drawn_is_asked_plainly_and_dealt_out_among_the_variations():
    """What is drawn is asked plainly and in one other way, an explicit example in every way into which it goes."""
    item, asked = REGISTRY["best_of_n/the-winner-has-the-largest-reward"], []

    def counted(rewards):
        asked.append(type(rewards).__name__)
        return best_of_n(rewards)

    assert draw(item, counted, 100).counterexample is None
    ways, examples = len(VARIATIONS["best_of_n"]), len(item.examples)
    assert asked[: examples + 100] == ["list"] * (examples + 100)
    # A way may ask several times (each row alone, after another call), but not each of what was drawn in every way.
    assert len(asked) < (examples + 100) + 20 * examples * ways and {"ndarray", "Tensor", "tuple"} <= {*asked}


def test_a_form_that_is_refused_is_not_asked_and_no_law_takes_it_for_a_refusal():
    def lists_only(rewards):
        if not isinstance(rewards, list):
            raise TypeError("lists, please")
        return best_of_n(rewards)

    with pytest.raises(NotAsked):
        variation("best_of_n", "as a tensor of float32").of(lists_only)([[1.0, 2.0]])
    assert not issubclass(NotAsked, Exception)
    item = REGISTRY["best_of_n/a-nan-never-wins"]
    assert draw(item, lists_only, 100).counterexample is None


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[2**53, 2**53 + 1]], "float64"),
        ([[2**53 + 1], [0.5]], "float64"),
        ([[1.0, 1 + 2.0**-23]], "float16"),
        ([[1.0, NAN]], "int64"),
        ([[1.5, 2.0]], "bool"),
        ([[-1, 2]], "uint8"),
    ],
)
def test_a_type_that_does_not_hold_every_value_is_no_form(values, dtype):
    with pytest.raises(ValueError, match="does not hold"):
        tensor(values, dtype)


def test_a_type_that_holds_every_value_is_one():
    assert tensor([[1.0, NAN, -math.inf]], "float16").dtype == torch.float16
    assert tensor([[2.0, 0.0]], "int8").tolist() == [[2, 0]]
    assert tensor([[2**53, 2**53 + 1]], "int64").tolist() == [[2**53, 2**53 + 1]]


def test_same_is_equal_in_type_and_value():
    assert same([NAN, 1.0], [NAN, 1.0]) and same(torch.tensor([NAN]), torch.tensor([NAN]))
    assert same(np.array([1, None], dtype=object), np.array([1, None], dtype=object))
    assert not same(np.array([1.0, NAN]), np.array([1.0, 2.0]))
    assert not same(torch.tensor([NAN]), torch.tensor([1.0])) and not same(torch.tensor([1.0]), torch.tensor([NAN]))
    assert not same(np.float32([1]), np.float64([1])) and not same([1.0], [1.0, 2.0])


def test_a_call_that_changes_its_arguments_fails_one_law_and_is_not_asked_in_the_others():
    def sorts(rewards):
        winners = best_of_n(rewards)
        if isinstance(rewards, np.ndarray):
            rewards.sort()
        return winners

    as_array = variation("best_of_n", "as an array of float64").of(sorts)
    with pytest.raises(Changed):
        as_array([[2.0, 1.0]])
    _, holds, note = leaves_alone(as_array, [[2.0, 1.0]])
    assert not holds and note.startswith("given as an array of float64: [array([[2., 1.]])]")
    assert leaves_alone(best_of_n, [[2.0, 1.0]])[1] and leaves_alone(as_array, [[1.0, 2.0]])[1]
    held = draw(REGISTRY["best_of_n/the-winner-has-the-largest-reward"], sorts, 100)
    assert held.counterexample is None


def test_two_ways_at_once():
    way = both(form("negated", lambda x: [-x], lambda x: -x), form("halved", lambda x: [x / 2], lambda x: 2 * x))
    assert way.name == "negated, halved" and way.of(lambda x: x)(3.0) == 3.0
    assert way.of(abs)(3.0) == -3.0


def test_every_seam_of_an_area_that_has_variations_names_them_once():
    for seam, ways in VARIATIONS.items():
        names = [way.name for way in ways]
        assert len(names) == len(set(names)), seam
