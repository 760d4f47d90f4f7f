"""Other people's distillation losses on trial: TRL's, torch's, liger-kernel's and torchtune's.

They agree with ours where the conventions agree; where a property fails, the test says which ones, exactly.
liger-kernel and torchtune are no dependency of the project: their tests run where they are installed.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from sftspec.distillation import distillation_loss
from sftspec.properties import REGISTRY
from sftspec.properties.cases.distillation import UNEVEN, random_case, soft_bound
from sftspec.step import sft_loss
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of


def as_a_part(kl):
    """kl(student rows aligned with labels, teacher, labels, T) as a loss: the shift, T**2, detach and CE are ours.

    Those are conventions of the parts below: their callers shift, run the teacher without gradient, mix in CE, and
    GKD scales by no T**2.
    """

    def loss(s, t, y, temperature=1.0, alpha=0.5):
        if not 0 <= alpha <= 1:
            raise ValueError(alpha)
        total = 0.0
        if alpha > 0:
            total = total + alpha * temperature**2 * kl(s[:, :-1], t.detach()[:, :-1], y[:, 1:], temperature)
        return total + (1 - alpha) * sft_loss(s, y) if alpha < 1 else total

    return loss


def torch_kl_div(s, t, y, temperature):
    log_s, log_t = ((z[y != -100] / temperature).log_softmax(-1) for z in (s, t))
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


@pytest.fixture(scope="module")
def trl():
    """TRL 1.16's divergences: three trainers' generalized_jsd_loss, self-distillation, the fused kernel's CPU path."""
    pytest.importorskip("trl", minversion="1.16")
    pytest.MonkeyPatch().setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer
    from trl.experimental.gold.gold_trainer import GOLDTrainer
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer
    from trl.experimental.sdpo import loss_utils
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    trainers = {"gkd": GKDTrainer, "gold": GOLDTrainer, "iw_opd": IWOPDTrainer}
    jsd = {name: trainer.generalized_jsd_loss for name, trainer in trainers.items()}
    return {"jsd": jsd, "sdpo": loss_utils, "kernel": ChunkedDivergenceFunction}


def failing(kl) -> set[str]:
    failed = set()
    for item in properties_of("distillation", "distillation_loss"):
        try:
            evidence(item, as_a_part(kl), max_examples=15)
        except DoesNotHold:
            failed.add(item.check.__name__)
    return failed


# Each forms exp(log p) * (log p - log q), which is 0 * (-inf) at a column that is excluded; none upcasts
# itself, and none refuses a temperature below 0.
NAN_DTYPE_AND_RANGE = {
    "a_sure_teacher_is_a_label",
    "padding_columns_carry_no_mass",
    "the_loss_of_low_precision_logits_is_reduced_in_float32",
    "the_gradient_of_low_precision_logits_is_reduced_in_float32",
    "an_option_out_of_range_is_refused",
}


@pytest.mark.parametrize("name", ["gkd", "gold", "iw_opd"])
def test_trl_generalized_jsd_loss_on_trial(trl, name):
    """All properties of the forward KL and of the JSD hold but those on excluded columns, bfloat16, and a T below 0."""
    jsd = trl["jsd"][name]
    assert failing(lambda s, t, y, T: jsd(s, t, y, beta=0, temperature=T)) == NAN_DTYPE_AND_RANGE
    for item in properties_of("distillation", "generalised_jsd"):
        part = lambda s, t, beta: jsd(s, t, beta=beta, reduction="none").sum(-1)  # noqa: E731
        if item.check.__name__ in ("an_excluded_token_makes_no_nan", "at_its_ends_the_jsd_is_a_kl"):
            with pytest.raises(DoesNotHold, match="nan"):
                evidence(item, part)
        else:
            assert evidence(item, part, max_examples=100) >= item.floor


def test_torch_kl_div_on_trial():
    """ "batchmean" over selected rows: no upcast, NaN at excluded columns, and 0/0 for a batch without targets."""
    assert failing(torch_kl_div) == NAN_DTYPE_AND_RANGE | {"a_batch_without_targets_trains_nothing"}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_trl(trl, seed, temperature):
    """Values and gradients of three divergences, and of the top k with a tail bucket, within rounding (float64).

    The fused kernel works in float32: its bound is that of float32.
    """
    case = random_case(seed, 2, 5, 9, "random")
    student, teacher, labels = case.tensors()
    scored = labels[:, 1:] != -100
    rows, targets = student[:, :-1], labels[:, 1:]
    bound, single = soft_bound(case, temperature), soft_bound(case, temperature, unit=2.0**-24)
    sdpo, identity = trl["sdpo"], torch.eye(9)
    for beta in (0.0, 0.25, 0.5, 0.75, 1.0):
        ours = distillation_loss(student, teacher, labels, temperature, 1.0, divergence="jsd", beta=beta)
        (gradient,) = torch.autograd.grad(ours, student)
        selected = [z[:, :-1][scored] / temperature for z in (student, teacher.detach())]
        theirs = [
            jsd(rows, teacher[:, :-1].detach(), targets, beta=beta, temperature=temperature)
            for jsd in trl["jsd"].values()
        ]
        theirs.append(sdpo.compute_full_logit_self_distillation_loss(*selected, distillation_alpha=beta).mean())
        for value in theirs:
            (their_gradient,) = torch.autograd.grad(value, student)
            assert abs(ours - temperature**2 * value) <= bound
            assert (gradient - temperature**2 * their_gradient).abs().max() <= bound
        hidden = [z[:, :-1][scored].float() for z in (student, teacher.detach())]
        per_token, _ = trl["kernel"].apply(hidden[0], identity, None, hidden[1], identity, None, beta, temperature)
        (their_gradient,) = torch.autograd.grad(per_token.mean(), student)
        assert abs(ours - temperature**2 * per_token.mean()) <= single
        assert (gradient - temperature**2 * their_gradient).abs().max() <= single
    for k in (1, 3):
        ours = distillation_loss(student, teacher, labels, temperature, 1.0, top_k=k)
        options = {"beta": 0, "temperature": temperature, "top_k": k, "add_tail": True}
        value = trl["jsd"]["iw_opd"](rows, teacher[:, :-1].detach(), targets, **options)
        assert abs(ours - temperature**2 * value) <= max(bound, 1e-6 * float(ours.detach()))


def test_agreement_with_trl_on_the_denominator_of_the_step(trl):
    student, teacher, labels = UNEVEN.tensors()
    ours = distillation_loss(student, teacher, labels, 1.0, 1.0, num_targets=40)
    for jsd in trl["jsd"].values():
        value = jsd(student[:, :-1], teacher[:, :-1], labels[:, 1:], beta=0, num_items_in_batch=40)
        assert abs(ours - value) <= soft_bound(UNEVEN, 1.0) / 10


def test_trl_tail_bucket_sums_to_more_than_one_without_a_tail(trl):
    """add_tail_bucket clamps the kept mass at exp(-1e-7): at k = V the bucket holds 1e-7 that is not there."""
    item = REGISTRY["distillation/k-tokens-and-the-rest-sum-to-one"]
    with pytest.raises(DoesNotHold, match=r"sums to 1\.0000000999"):
        evidence(item, lambda log_probs, kept: trl["sdpo"].add_tail_bucket(log_probs.gather(-1, kept)))


def test_liger_pads_a_narrow_student_with_zero_logits():
    """liger-kernel's distillation equals ours on equal vocabularies (float32), and not when the teacher is wider."""
    liger = pytest.importorskip("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDFunction

    def loss(s, t, y, temperature):
        heads = torch.eye(s.shape[-1], dtype=s.dtype), torch.eye(t.shape[-1], dtype=t.dtype)
        rows = s.flatten(0, 1), heads[0], t.flatten(0, 1), heads[1], y.flatten()
        return liger.apply(*rows, None, None, 0.0, 1.0, 0.0, -100, temperature, False)

    student, teacher, labels = random_case(0, 2, 5, 9, "random").tensors(torch.float32)
    ours, theirs = (
        distillation_loss(student, teacher, labels, 2.0, 1.0),
        as_a_part(loss)(student, teacher, labels, 2.0, 1.0),
    )
    assert abs(ours - theirs) <= soft_bound(random_case(0, 2, 5, 9, "random"), 2.0, unit=2.0**-24)
    with pytest.raises(DoesNotHold):
        evidence(REGISTRY["distillation/a-wider-teacher-is-refused-or-cut"], as_a_part(loss))


def test_torchtune_calls_a_cross_entropy_forward_kl():
    """torchtune's ForwardKLLoss is ours plus the teacher's entropy (the same gradient); its ReverseKLLoss is ours.

    Its losses work in float32, and their caller shifts.
    """
    folder = importlib.util.find_spec("torchtune")
    if folder is None:
        pytest.skip("torchtune is not installed")
    path = f"{folder.submodule_search_locations[0]}/modules/loss/kd_losses.py"
    spec = importlib.util.spec_from_file_location("kd_losses", path)  # torchtune itself imports torchao
    losses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(losses)
    case = random_case(0, 2, 5, 9, "random")
    student, teacher, labels = case.tensors()
    rows, targets = (student[:, :-1], teacher[:, :-1].detach()), labels[:, 1:]
    scored = rows[1][targets != -100].log_softmax(-1)
    entropy = -(scored.exp() * scored).sum(-1).mean()
    bound = soft_bound(case, 1.0, unit=2.0**-24)
    for kind, theirs in (("forward_kl", losses.ForwardKLLoss()), ("reverse_kl", losses.ReverseKLLoss())):
        ours = distillation_loss(student, teacher, labels, 1.0, 1.0, divergence=kind)
        value = theirs(*rows, targets)
        assert abs(value - (entropy if kind == "forward_kl" else 0) - ours) <= bound
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (ours, value)]
        assert (gradients[0] - gradients[1]).abs().max() <= bound
