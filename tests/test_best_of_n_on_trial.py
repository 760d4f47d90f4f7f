"""Two real selectors on trial: TRL's BestOfNSampler (0.11.4) and OpenRLHF's rejection sampling (0.8.11).

The test says which properties fail, exactly. The modules come from the registry, by sha256; without it tests skip.
"""

from __future__ import annotations

import pytest

from sftspec.conformance.adapters.best_of_n import SELECTORS, SelectorUnavailable
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of

# Both compare with a NaN as if it were a number: topk puts it first, and no reward is > a NaN that came first.
NAN_WINS = {
    "a_nan_never_wins",
    "a_prompt_without_rewards_has_no_winner",
    "missing_rewards_move_no_other_prompt",
}
# torch.tensor(list of floats) is float32: rewards beyond 3e38 or closer than 1e-7 tie, and topk is not stable in ties.
FLOAT32_TIES = {
    "the_winner_has_the_largest_reward",
    "the_first_of_equals_wins",
    "an_infinite_reward_ranks_above_every_finite_one",
    "more_candidates_never_make_the_winner_worse",
    "selection_does_not_depend_on_sharding",
}
# float(reward) is float64, in which integers beyond 2**53 tie.
FLOAT64_TIES = {"integers_are_compared_as_integers", "no_reward_rounds_another"}
# Neither has the option to skip a prompt.
NOT_ASKED = {"a_skipped_prompt_is_marked_in_its_place"}
FAILS = {"trl-0.11": NAN_WINS | FLOAT32_TIES, "openrlhf-0.8": NAN_WINS | FLOAT64_TIES}


@pytest.fixture
def select(request):
    try:
        return SELECTORS[request.param]()
    except SelectorUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("select", "name"), [(name, name) for name in FAILS], indirect=["select"])
def test_exactly_these_properties_fail(select, name):
    failed = set()
    for item in properties_of("best_of_n", "best_of_n"):
        try:
            asked = item.check.__name__ not in NOT_ASKED
            assert evidence(item, select, 100) >= item.floor * asked
        except DoesNotHold:
            failed.add(item.check.__name__)
    assert failed == FAILS[name]


@pytest.mark.parametrize(
    ("select", "row", "winner"),
    [
        ("trl-0.11", [0.0, float("nan"), 1.0], 1),  # by hand: topk of (0, nan, 1) is the NaN
        ("openrlhf-0.8", [float("nan"), 0.0, 1.0], 0),  # by hand: 0 > nan and 1 > nan are false
        ("openrlhf-0.8", [0.0, float("nan"), 1.0], 2),
        ("trl-0.11", [16777216.0, 16777217.0], 0),  # 2**24 + 1 is no float32
        ("openrlhf-0.8", [16777216.0, 16777217.0], 1),
    ],
    indirect=["select"],
)
def test_choices_worked_out_by_hand(select, row, winner):
    assert select([row]) == [winner]
