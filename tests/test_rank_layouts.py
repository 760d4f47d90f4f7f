"""FSDP2 with a mixed precision policy or offloaded to the CPU, clipping over shards, a loss over a split vocabulary,
matrices that ranks share: layouts over ranks that change nothing, and what goes wrong in them.
"""

import pytest
import torch
import torch.distributed as ranks

from sftspec import properties
from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel, sharded
from sftspec.conformance.trial.corpora import few_conversations
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import Scenario
from sftspec.tests.loops import Loop
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


def trial_of_few(trainer):
    few = Scenario("few", frozenset(), few_conversations, {}, {"batch_size": 1}, areas=frozenset({"step"}))
    chosen = [item for item in properties.load("step") if item.area == "step" and item.seam == "run"]
    trial = put_on_trial(trainer, chosen, 0, [few])
    assert [run.error for run in trial.runs] == [""]
    return trial


def test_a_loss_over_a_vocabulary_that_ranks_share_changes_nothing():
    trial = trial_of_few(VocabularyParallel())
    assert not_passed(trial) == {}
    assert found(trial, "pass") >= {
        "step/the-denominator-is-the-number-of-targets", "step/every-parameter-gets-its-gradient",
        "step/every-rank-holds-the-same-parameters",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["own shard", "not summed"])
def test_a_loss_that_knows_its_own_shard_alone_fails(wrong):
    assert "step/the-loss-is-cross-entropy" in found(trial_of_few(VocabularyParallel(wrong)), "fail", "ambiguous")


class TensorParallel(Loop):
    """Every rank is given each row whole, and holds half of each matrix between norms (Shoeybi et al. 2019,
    arXiv:1909.08053, section 3). wrong: the halves of the gradient that comes back are not summed.
    """

    claims, processes = frozenset({"padding", "processes", "sequence-parallel", "no-learned-positions"}), 2

    def __init__(self, wrong: bool = False):
        self.wrong = wrong

    def prepare(self, job):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        ranks.init_process_group("gloo")
        plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        for layer in job.model.model.layers:
            parallelize_module(layer.mlp, init_device_mesh("cpu", (2,)), plan)
        if self.wrong:
            for layer in job.model.model.layers:
                layer.mlp.register_full_backward_pre_hook(lambda module, gradient: (gradient[0] * ranks.get_rank(),))
        return job.model

    def finish(self, job, model):
        ranks.destroy_process_group()


def test_ranks_that_share_matrices_are_one_trainer():
    trial = trial_of_few(TensorParallel())
    assert not_passed(trial) == {}
    assert "step/every-parameter-gets-its-gradient" in found(trial, "pass")


def test_a_gradient_that_is_not_that_of_all_shares_fails():
    assert "step/every-parameter-gets-its-gradient" in found(trial_of_few(TensorParallel(wrong=True)), "fail")
