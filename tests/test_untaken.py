"""What a trainer does with conversations that it does not take has four words, and only the silent ones fail."""

from __future__ import annotations

import pytest

from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.fates import fates
from sftspec.tests.loops import Loop
from sftspec.tests.on_trial import found, not_passed, trial_of

SEEN = "masking/every-conversation-with-a-target-is-trained"


def is_taken(conversation) -> bool:
    return all(message["role"] != "tool" for message in conversation)


class Drops(Loop):
    """Conversations with a turn of a tool are not trained; `says` what is told of it."""

    says = False

    def train(self, job):
        kept = [talk for talk in job.conversations if is_taken(talk)]
        dropped, job.conversations[:] = len(job.conversations) - len(kept), kept
        super().train(job)
        if self.says:
            job.report(examples_dropped=dropped)


class Counts(Drops):
    says = True


class Refuses(Loop):
    def accepts(self, conversation):
        return is_taken(conversation)

    def train(self, job):
        if not all(map(is_taken, job.conversations)):
            raise ValueError("no tools")
        super().train(job)


class Rewrites(Loop):
    """The turns of tools are taken out, and the rest is trained."""

    def tokenize(self, job, conversation):
        return super().tokenize(job, [message for message in conversation if message["role"] != "tool"])


def words_of(trial) -> dict[str, str]:
    return fates(make_document(trial, identify(trial.trainer, {}), "sftspec check", 0))


@pytest.mark.parametrize(
    ("trainer", "word", "fails"),
    [
        (Refuses(), "refused", False),
        (Counts(), "dropped, counted", False),
        (Drops(), "dropped in silence", True),
        (Rewrites(), "rewritten", True),
    ],
    ids=lambda item: type(item).__name__,
)
def test_the_report_says_what_became_of_which_conversations(trainer, word, fails):
    trial = trial_of(trainer, "odd turns", "masking")
    said = words_of(trial)
    assert list(said) == [word]
    assert (
        said[word].startswith(("4 of ", "5 of "))
        and "all of them, and no other, have a turn of role 'tool'" in said[word]
    )
    assert bool(not_passed(trial)) == fails
    if word == "dropped in silence":
        assert SEEN in not_passed(trial)


def test_a_count_that_is_another_is_no_count():
    class Miscounts(Drops):
        def train(self, job):
            super().train(job)
            job.report(examples_dropped=1)

    trial = trial_of(Miscounts(), "odd turns", "masking")
    assert SEEN in found(trial, "fail") and list(words_of(trial)) == ["dropped in silence"]


def test_what_the_cut_leaves_without_a_target_is_shown_where_it_is_kept():
    trial = trial_of(Loop(), "truncation", "masking")
    assert not_passed(trial) == {}
    assert list(words_of(trial)) == ["kept without a target"]
