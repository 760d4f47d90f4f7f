"""Loops that feed ids[:-1] and train on ids[1:]: the last token of a row is a target and no input."""

from __future__ import annotations

import pytest
from torch.nn.functional import cross_entropy

from sftspec.tests.loops import Loop
from sftspec.tests.on_trial import not_passed, trial_of


class Shifted(Loop):
    """Every token is trained, so that the last one of the longest row is."""

    policy = "every-token"

    def tokenize(self, job, conversation):
        ids, _ = super().tokenize(job, conversation)
        return ids, list(ids)

    def logits(self, job, model, ids, mask):
        return model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits

    def loss(self, logits, labels, count):
        return cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / count


class CutOneShorter(Shifted):
    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        short = len(ids) - (len(ids) == job.max_length)
        return ids[:short], labels[:short]


class LastTargetIsTheFirst(Shifted):
    def pad(self, job, rows):
        ids, mask, labels = super().pad(job, rows)
        labels[:, -1] = labels[:, -1].where(labels[:, -1] == -100, labels[:, 0])
        return ids, mask, labels


CUT, NEXT = "masking/a-cut-example-is-a-prefix", "masking/each-target-is-the-next-token"


@pytest.mark.parametrize(
    ("trainer", "fails"),
    [(Shifted, set()), (CutOneShorter, {CUT}), (LastTargetIsTheFirst, {NEXT})],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_last_target_that_is_no_input_is_judged_as_any_other(trainer, fails):
    failed = not_passed(trial_of(trainer(), "truncation", "masking"))
    assert failed.keys() >= fails and bool(failed) == bool(fails), failed
