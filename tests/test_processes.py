"""A trainer of several processes: what all of its ranks do is judged as one run, and a rank that is lost is named.

One trial in two processes, as `sftspec check TRAINER --processes 2` holds it; each scenario is another trainer
(`rank_trainers`). The sources of what has to be found are the planted bugs' own entries.
"""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sftspec import properties
from sftspec.conformance.commands.cli import main
from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel
from sftspec.conformance.trial.corpora import few_conversations
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.launch import free_port, running, torchrun
from sftspec.conformance.trial.merging import merged
from sftspec.conformance.trial.process import Limits
from sftspec.conformance.trial.scenarios import SCENARIOS, UNEVEN, Scenario
from sftspec.conformance.trial.two_processes import put_on_trial_apart, stage_of
from sftspec.conformance.witness import groups
from sftspec.conformance.witness.listening import Heard
from sftspec.conformance.witness.shards import Place
from sftspec.conformance.witness.tap import StepRecord
from sftspec.properties.step.epochs import the_same_job_gives_the_same_model
from sftspec.tests.on_trial import found, not_passed, trial_of
from sftspec.tests.sequence_parallel import SequenceParallel

FILE = Path(__file__).with_name("rank_trainers.py")
WRONG = {
    "never reduced": (2, {"step/every-rank-holds-the-same-parameters", "step/the-gradient-is-that-of-the-step"}),
    "own counts": (3, {"step/every-target-of-a-step-weighs-the-same"}),
}
LOST = {
    "an error": (10, "rank 1 of 2: ValueError: no such file: shard 1"),
    "right after an error": (0, ""),
    "an exit": (11, "rank 1 of 2: the trainer ended its process (exit 3)"),
    "no end": (12, "rank 1 was in rank_trainers.py:"),
}
ASKED = {
    "masking/every-conversation-with-a-target-is-trained",
    "packing/examples-do-not-see-each-other",
    "step/every-target-of-a-step-weighs-the-same",
    "step/the-denominator-is-the-number-of-targets",
    "step/the-gradient-is-that-of-the-step",
    "step/every-parameter-gets-its-gradient",
    "step/every-rank-holds-the-same-parameters",
}
RIGHT = {"whole": 0, "sharded": 1}


def scenario(name: str, seed: int) -> Scenario:
    settings = {"seed": seed, "batch_size": 2}
    return Scenario(name, frozenset(), few_conversations, {}, settings, areas=frozenset({"masking", "step"}))


@pytest.fixture(scope="module")
def trial():
    chosen = [item for item in properties.load("masking", "packing", "step") if item.id in ASKED]
    asked = [scenario(name, seed) for name, seed in RIGHT.items()]
    asked += [scenario(name, seed) for name, (seed, _) in (WRONG | LOST).items()]
    with stage_of(f"{FILE}:Several", {}, limits=Limits(seconds=30.0), processes=2) as stage:
        return put_on_trial_apart(stage, stage.trainer(), chosen, asked), stage.said["identity"]


def failed_in(trial, name: str) -> set[str]:
    return {item.property.id for item in trial[0].verdicts if item.failed_in.get(name)}


@pytest.mark.long
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_trainer_passes_on_two_ranks(trial, name):
    assert failed_in(trial, name) == set()
    evidence = {item.property.id: item.evidence.get(name, 0) for item in trial[0].verdicts}
    steps = 2  # 8 examples, 4 of them in a step
    assert evidence["step/every-rank-holds-the-same-parameters"] == steps
    assert evidence["step/every-parameter-gets-its-gradient"] == steps * 21
    assert evidence["packing/examples-do-not-see-each-other"] > 50  # calls were made again, on each rank by itself
    assert evidence["masking/every-conversation-with-a-target-is-trained"] > 50


@pytest.mark.long
@pytest.mark.parametrize("name", WRONG)
def test_a_bug_between_ranks_fails_the_property_that_names_it(trial, name):
    assert WRONG[name][1] <= failed_in(trial, name)


@pytest.mark.long
@pytest.mark.parametrize("name", LOST)
def test_a_rank_that_is_lost_is_named(trial, name):
    errors = {run.scenario: run.error for run in trial[0].runs}
    said = LOST[name][1]
    assert said in errors[name] if said else errors[name] == ""


@pytest.mark.long
def test_the_setting_says_how_many_ranks_there_were(trial):
    identity = trial[1]
    assert identity["setting"]["processes"] == 2
    assert {"processes", "ranks"} <= set(identity["claims"])


def test_what_a_rank_holds_in_parts_is_joined_and_what_two_hold_is_compared():
    whole = torch.arange(6.0).reshape(3, 2)
    upper, lower = whole[:2].clone(), whole[2:].clone()

    def rank(number: int, bias: torch.Tensor) -> Heard:
        part = {"weight": lower if number else upper, "bias": bias}
        place = {"weight": Place((3, 2), (2, 0) if number else (0, 0))}
        return Heard(steps=[StepRecord(0.1, {}, part, after=part)], final=part, places=place)

    same = merged([rank(0, torch.zeros(2)), rank(1, torch.zeros(2))])
    assert torch.equal(same.final["weight"], whole) and same.steps[0].apart == ()
    other = merged([rank(0, torch.zeros(2)), rank(1, torch.tensor([0.0, -0.0]))])
    assert other.steps[0].apart == ((1, "bias"),)
    with pytest.raises(ValueError, match="the shards of weight do not make up the whole: 2 elements missing"):
        merged([rank(0, torch.zeros(2)), Heard()])


def test_ranks_are_told_what_torchrun_tells_them():
    said = torchrun(1, 2, free_port(), {})
    assert {name: said[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")} == {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip


def test_where_a_rank_was_is_a_line_of_the_trainers_own():
    printed = (
        'Thread 0x01 (most recent call first):\n  File "/a/x.py", line 1 in run\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/lib/site-packages/torch/distributed/c.py", line 9 in'
        ' wait\n  File "/home/me/loop.py", line 31 in train\n'
    )
    assert running(printed) == "loop.py:31, train" and running("nothing") == ""


def test_a_number_of_ranks_that_cannot_be_is_refused(capsys):
    for asked in ("0", "x", "65"):
        with pytest.raises(SystemExit):
            main(["check", "reference", "--processes", asked])
        assert f"{asked} is no number of ranks from 1 to 64" in capsys.readouterr().err


SHARED_ROWS = "plain; accumulation; packed"


def test_ranks_that_share_rows_are_heard_as_one():
    trial = trial_of(SequenceParallel(), SHARED_ROWS, "masking", "packing", "step")
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert passed >= {
        "masking/everything-chosen-is-trained", "packing/positions-restart-with-each-example",
        "step/every-target-of-a-step-weighs-the-same",
        "step/every-parameter-gets-its-gradient", "step/every-rank-holds-the-same-parameters",
    }  # fmt: skip
    assert "packing/examples-do-not-see-each-other" in found(trial, "not-measured")


@pytest.mark.parametrize(
    ("wrong", "scenario", "property_"),
    [
        ("shift", "plain", "masking/everything-chosen-is-trained"),
        ("positions", "plain", "packing/positions-restart-with-each-example"),
        ("attention", "plain", "packing/hidden-states-equal-those-alone"),
        ("segments", "packed", "packing/hidden-states-equal-those-alone"),
    ],
)
def test_a_bug_between_the_stretches_of_a_row_fails(wrong, scenario, property_):
    assert property_ in found(trial_of(SequenceParallel(wrong), scenario, "masking", "packing"), "fail")


def test_a_second_run_that_was_lost_breaks_no_property():
    """On a busy machine a rank of it may not come back in time."""
    job = SimpleNamespace(seed=0, resume_at=None)
    lost = SimpleNamespace(job=job, final={}, error="rank 1 of 2 was lost")
    run = SimpleNamespace(job=job, twin=lost, final={"w": torch.zeros(2)})
    assert list(the_same_job_gives_the_same_model(run)) == []


def test_a_group_that_a_trainer_destroys_lives_until_its_job_is_over(monkeypatch):
    for name, value in torchrun(0, 1, port := free_port(), {}).items():
        monkeypatch.setenv(name, value)
    with groups.meeting_at(port):
        torch.distributed.init_process_group("gloo")
        opened = weakref.ref(torch.distributed.group.WORLD)
        groups.hold()
        torch.distributed.destroy_process_group()
        assert opened() is not None  # a DistributedDataParallel model is dropped here
    assert opened() is None


class KeepsPace(DataParallel):
    """A rank that has an example less feeds one of its own again, all of it masked."""

    def step(self, model, window, optimizer, job):
        if len(window[0].input_ids) < job.batch_size:
            given = {
                name: value
                for name, value in vars(window[0]).items()
                if isinstance(value, torch.Tensor) and value.dim() == 2
            }
            longer = {name: torch.cat((value, value[:1])) for name, value in given.items()}
            longer["labels"][-1] = -100
            window = [dataclasses.replace(window[0], **longer), *window[1:]]
        super().step(model, window, optimizer, job)


def test_what_a_rank_is_fed_to_keep_pace_and_all_of_it_masked_is_no_fault():
    chosen = [item for item in properties.load("masking", "step") if item.seam == "run"]
    uneven = next(item for item in SCENARIOS if item.name == UNEVEN)
    trial = put_on_trial(KeepsPace(), chosen, 0, [uneven], max_replays=0)
    assert len(trial.runs[0].dummies) == 2
    assert not [item.property.id for item in trial.verdicts if item.status in ("fail", "ambiguous", "error")]


def test_ranks_that_share_rows_are_given_no_job_for_ranks_that_do_not():
    """`sftspec check … --processes 2` asked them for batches of three ranks, and blamed them."""
    with stage_of(f"{Path(__file__).with_name('sequence_parallel.py')}:SequenceParallel", {}, processes=2) as stage:
        assert "ranks" not in stage.trainer().claims and "processes" in stage.trainer().claims
