"""Distillation losses that went wrong: another divergence, another temperature, another scale."""

from __future__ import annotations

import torch

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.distilling import Distiller, right, scored, with_soft
from sftspec.distillation import distillation_loss
from sftspec.divergences import forward_kl
from sftspec.step import sft_loss


@killed_by(
    "the-soft-gradient-is-t-times-the-gap-of-probabilities "
    "at-high-temperature-the-gradient-is-the-gap-of-logits "
    "the-soft-loss-is-the-mean-kl-from-teacher-to-student "
    "at-high-temperature-the-loss-is-the-square-of-the-gap"
)
@seen_in("D-01: IntelLabs/distiller#122")
@effect("the teacher falls silent as T grows", fix="multiply by T**2")
def t_squared_missing():
    """The softened divergence is not multiplied by T**2."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, n) / temperature**2)


@killed_by(
    "no-temperature-inflates-the-gradient no-temperature-inflates-the-loss-itself "
    "at-high-temperature-the-gradient-is-the-gap-of-logits"
)
@seen_in("D-01: subtle form of IntelLabs/distiller#122, the fix made twice")
@effect("the label is never heard", fix="multiply in one place")
def t_squared_twice():
    """The softened divergence is multiplied by T**4."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, n) * temperature**2)


@killed_by("alpha-mixes-the-soft-and-the-hard-loss")
@seen_in("D-01: subtle form of IntelLabs/distiller#122, the fix that overshoots")
@effect("alpha means another mixture", fix="T**2 belongs to the soft loss alone")
def t_squared_on_the_cross_entropy():
    """The cross-entropy is multiplied by T**2 as well."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        value = distillation_loss(student, teacher, labels, temperature, alpha, num_targets=num_targets)
        return value + (1 - alpha) * (temperature**2 - 1) * sft_loss(student, labels, num_targets)

    return Distiller(loss=loss)


@killed_by("alpha-mixes-the-soft-and-the-hard-loss")
@seen_in("no report known: recipes where alpha weighs the label")
@effect("learns from the other source", fix="say what alpha weighs")
def alpha_weighs_the_label():
    """alpha weighs the cross-entropy and 1 - alpha the teacher, away from the ends."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        weight = 1 - alpha if 0 < alpha < 1 else alpha
        return distillation_loss(student, teacher, labels, temperature, weight, num_targets=num_targets)

    return Distiller(loss=loss)


@killed_by(
    "the-soft-loss-is-the-mean-kl-from-teacher-to-student a-missed-token-pulls-at-full-strength "
    "the-declared-divergence-is-distilled"
)
@seen_in("D-02: paiml/aprender#2153, huggingface/trl#3043")
@effect("never learns what it never says", fix="KL(teacher || student)")
def kl_reversed():
    """KL(student || teacher) is trained for KL(teacher || student)."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, n, divergence="reverse_kl"))


@killed_by("the-soft-loss-is-the-mean-kl-from-teacher-to-student")
@seen_in("D-02: subtle form of paiml/aprender#2153, a path for T = 1 with its own argument order")
@effect("never learns what it never says, at T = 1", fix="one divergence for every path")
def kl_reversed_at_temperature_one():
    """KL is reversed at T = 1 only."""
    return with_soft(
        lambda s, t, y, temperature, n: right(
            s, t, y, temperature, n, divergence="reverse_kl" if temperature == 1 else "forward_kl"
        )
    )


@killed_by(
    "the-soft-loss-is-the-mean-kl-from-teacher-to-student padding-columns-carry-no-mass "
    "the-weights-of-pure-distillation-add-up-to-one"
)
@seen_in("D-05: huggingface/trl#4105")
@effect("the teacher is hardly heard", fix="sum over the vocabulary")
def mean_over_the_vocabulary():
    """The reduction "mean" divides by the vocabulary as well."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t, y, temperature, n) / s.shape[-1])


@killed_by("equal-models-have-nothing-to-learn a-constant-on-all-logits-changes-nothing")
@seen_in("logit matching (Ba and Caruana 2014) in the place of KL")
@effect("learns constants that mean nothing", fix="compare distributions")
def logits_compared():
    """Raw logits are compared, by the mean of their squared differences."""
    return with_soft(
        lambda s, t, y, temperature, n: (scored(s, y) - scored(t.detach(), y)).square().sum() / (2 * n * s.shape[-1])
    )


@killed_by(
    "the-soft-gradient-is-t-times-the-gap-of-probabilities a-missed-token-pulls-at-full-strength "
    "the-declared-divergence-is-distilled"
)
@seen_in("D-13: labmlai/annotated_deep_learning_paper_implementations#66")
@effect("distils nothing", fix="read the arguments again")
def student_compared_with_itself():
    """The student's logits stand on both sides: a loss of zero."""
    return with_soft(lambda s, t, y, temperature, n: right(s, s, y, temperature, n))


@killed_by(
    "the-loss-of-low-precision-logits-is-reduced-in-float32 the-gradient-of-low-precision-logits-is-reduced-in-float32"
)
@seen_in("D-18: modelscope/ms-swift#10156, erfanzar/EasyDeL#267")
@effect("losses below zero, coarse gradients", fix="log-softmax in float32")
def reduced_in_its_own_dtype():
    """The log-softmax of bfloat16 logits is taken in bfloat16."""

    def soft(s, t, y, temperature, n):
        log_s, log_t = ((scored(z, y) / temperature).log_softmax(-1) for z in (s, t.detach()))
        return temperature**2 * forward_kl(log_s, log_t).sum() / n

    return with_soft(soft)


@killed_by(
    "the-loss-of-low-precision-logits-is-reduced-in-float32 the-gradient-of-low-precision-logits-is-reduced-in-float32"
)
@seen_in("D-18: subtle form of modelscope/ms-swift#10156, raised one line too late")
@effect("coarse targets at every T but a power of two", fix="raise, then divide")
def divided_before_it_is_raised():
    """Logits are divided by T in bfloat16, and raised to float32 afterwards."""

    def soft(s, t, y, temperature, n):
        low = {torch.bfloat16, torch.float16} & {s.dtype, t.dtype}
        s, t = [(z / temperature).float() for z in (s, t)] if low else [z / temperature for z in (s, t)]
        return temperature**2 * right(s, t, y, 1.0, n)

    return with_soft(soft)


@killed_by(
    "the-soft-gradient-is-t-times-the-gap-of-probabilities equal-models-have-nothing-to-learn "
    "the-declared-divergence-is-distilled"
)
@seen_in("D-19: NousResearch/atropos#456")
@effect("trains plain cross-entropy", fix="fail where the teacher's field is missing")
def teacher_lost_on_the_way():
    """The teacher's logits are lost in the batch, and cross-entropy takes their place."""
    return with_soft(lambda s, t, y, temperature, n: sft_loss(s, y, n))


@killed_by(
    "the-soft-loss-is-the-mean-kl-from-teacher-to-student equal-models-have-nothing-to-learn "
    "at-temperature-one-it-is-cross-entropy-with-soft-labels"
)
@seen_in("D-20: jongwooko/distillm#7")
@effect("curves of two teachers cannot be compared", fix="subtract the teacher's entropy, or call it cross-entropy")
def entropy_left_out():
    """A cross-entropy with soft labels is called KL: the same gradient, another value."""

    def soft(s, t, y, temperature, n):
        log_t = (scored(t.detach(), y).double() / temperature).log_softmax(-1)
        terms = torch.where(log_t > float("-inf"), log_t.exp() * log_t, 0.0)
        return right(s, t, y, temperature, n) - temperature**2 * terms.sum() / n

    return with_soft(soft)


@killed_by("the-declared-cross-entropy-stands-beside-it")
@seen_in("D-21: modelscope/ms-swift#6857")
@effect("trains on its own samples as if on labels", fix="no cross-entropy where none was asked for")
def cross_entropy_added_in_the_step():
    """The step adds half of the cross-entropy to the loss that it was given."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        value = distillation_loss(student, teacher, labels, temperature, alpha, num_targets=num_targets)
        return value if num_targets is None else value + 0.5 * sft_loss(student, labels, num_targets)

    return Distiller(loss=loss)


@killed_by(
    "equal-models-have-nothing-to-learn no-temperature-inflates-the-gradient "
    "no-temperature-inflates-the-loss-itself the-declared-divergence-is-distilled"
)
@seen_in("D-23: THUDM/slime#2085, volcengine/verl#7769")
@effect("is taught to be softer than its teacher", fix="divide both models' logits by T")
def student_softened_alone():
    """The student is softened, the teacher is not."""
    return with_soft(lambda s, t, y, temperature, n: right(s, t * temperature, y, temperature, n))


@killed_by("alpha-mixes-the-soft-and-the-hard-loss")
@seen_in("D-23: subtle form of THUDM/slime#2085, the path that mixes")
@effect("T changes nothing", fix="pass T on, on every path")
def temperature_lost_beside_the_label():
    """T is 1 as soon as the cross-entropy has a weight."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        temperature = temperature if alpha in (0, 1) else 1.0
        return distillation_loss(student, teacher, labels, temperature, alpha, num_targets=num_targets)

    return Distiller(loss=loss)


@killed_by("the-declared-divergence-is-distilled")
@seen_in("D-23: huggingface/trl#5731, a chunked path")
@effect("T changes nothing", fix="pass T on, on every path")
def temperature_lost_when_accumulating():
    """T is 1 in a step of several micro-batches."""

    def loss(student, teacher, labels, temperature=1.0, alpha=0.5, num_targets=None):
        alone = num_targets is None or num_targets == int((labels[:, 1:] != -100).sum())
        return distillation_loss(
            student, teacher, labels, temperature if alone else 1.0, alpha, num_targets=num_targets
        )

    return Distiller(loss=loss)
