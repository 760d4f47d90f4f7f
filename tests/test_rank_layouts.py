"""FSDP2 with a mixed precision policy or offloaded to the CPU, clipping over shards, a loss over a split vocabulary:
layouts over ranks that change nothing, and what goes wrong in them.
"""

import pytest
import torch

from sftspec import properties
from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel, sharded
from sftspec.conformance.trial.corpora import few_conversations
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import Scenario
from sftspec.tests.on_trial import found, not_passed, trial_of
from sftspec.tests.vocabulary_parallel import VocabularyParallel


def in_16_bits(model):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    return fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))


def offloaded(model):
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    return fully_shard(model, offload_policy=CPUOffloadPolicy(pin_memory=False))


@pytest.mark.parametrize("wrap", [sharded, in_16_bits, offloaded], ids=lambda item: item.__name__)
def test_sharded_parameters_are_clipped_by_the_norm_of_all_of_them(wrap):
    trial = trial_of(DataParallel(wrap=wrap), "clipping", "step")
    assert not_passed(trial) == {}
    assert {"step/clipping-is-by-the-norm-of-the-whole-gradient", "step/every-parameter-gets-its-gradient"} <= found(
        trial, "pass"
    )


def trial_by_vocabulary(wrong=""):
    few = Scenario("few", frozenset(), few_conversations, {}, {"batch_size": 1}, areas=frozenset({"step"}))
    chosen = [item for item in properties.load("step") if item.area == "step" and item.seam == "run"]
    trial = put_on_trial(VocabularyParallel(wrong), chosen, 0, [few])
    assert [run.error for run in trial.runs] == [""]
    return trial


def test_a_loss_over_a_vocabulary_that_ranks_share_changes_nothing():
    trial = trial_by_vocabulary()
    assert not_passed(trial) == {}
    assert found(trial, "pass") >= {
        "step/the-denominator-is-the-number-of-targets", "step/every-parameter-gets-its-gradient",
        "step/every-rank-holds-the-same-parameters",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["own shard", "not summed"])
def test_a_loss_that_knows_its_own_shard_alone_fails(wrong):
    assert "step/the-loss-is-cross-entropy" in found(trial_by_vocabulary(wrong), "fail", "ambiguous")
