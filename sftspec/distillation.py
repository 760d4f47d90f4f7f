"""Distillation: at every target token, the student learns the teacher's distribution as well as the token.

The rule. Over the same target positions, with the same shift and the same denominator n as the SFT loss,

    L = alpha * T**2 * (1/n) * sum of D(teacher at T, student at T)  +  (1 - alpha) * (1/n) * sum of CE(student, label)

where "at T" is softmax(z / T) of *both* models and D is, by default, the forward KL(teacher || student). T**2 (Hinton
et al. 2015 §2.1, arXiv:1503.02531) makes the soft gradient T * (p_student - p_teacher) / n, which tends to the
difference of the centred logits over V as T grows: alpha means the same at every high temperature. CE stays at T = 1,
without T**2.

Why trainers get it wrong: `F.kl_div(a, b)` is KL(b || a), its reduction "mean" divides by V as well, "batchmean" by the
first axis only; a missing T**2 shows only at T != 1, a swapped direction only on a pair that is not symmetric, swapped
mixture weights only at beta != 1/2; KL code does not pass through the model's own shift and mask; a head padded to
another size puts mass on tokens that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from sftspec.divergences import forward_kl, generalised_jsd, reverse_kl, with_tail_bucket
from sftspec.row_losses import Places, sum_over_rows
from sftspec.step import IGNORE, NoTargetsError, check_vocabulary, count_targets, cross_entropies, in_eval_mode


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    alpha: float = 0.5,
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    top_k: int | None = None,
    vocab_size: int | None = None,
    num_targets: int | None = None,
) -> Tensor:
    """alpha * T**2 * mean D(teacher, student) + (1 - alpha) * mean CE over the target positions, in nats per target.

    Args:
        student_logits: (B, T, V), any float dtype; reduced in float32 (float64 stays float64).
        teacher_logits: (B, T, V), likewise; no gradient reaches them.
        labels: (B, T) int64, aligned with the input ids; logits[:, t] are scored against labels[:, t + 1], -100 is
            ignored.
        temperature: T > 0 softens both models.
        alpha: 0 (pure cross-entropy) to 1 (pure distillation).
        divergence: "forward_kl" is KL(teacher || student); "reverse_kl" is KL(student || teacher) (MiniLLM,
            arXiv:2306.08543); "jsd" is `generalised_jsd`.
        beta: the teacher's weight in the mixture; only "jsd" reads it.
        top_k: compare only the teacher's k most likely tokens (of equals the smaller ids) and one bucket that holds the
            rest, see `with_tail_bucket`.
        vocab_size: the tokens that both models share, the first columns of each; the columns beyond are padding and
            are cut off before any softmax. None: both models have V columns.
        num_targets: the denominator n. None: the targets of these labels. With gradient accumulation or several ranks:
            the targets of the whole optimizer step.
    Raises:
        NoTargetsError: no label is scored and no num_targets was given.
        ValueError: shapes or vocabularies that do not fit, an option out of range, a label that is no shared token.

    >>> logits, labels = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[-100, 1]])
    >>> distillation_loss(logits, logits, labels, temperature=2.0, alpha=1.0)  # equal models
    tensor(0.)
    >>> distillation_loss(logits, logits, labels, alpha=0.0)  # cross-entropy: log(1 + e**2)
    tensor(2.1269)
    """
    divergences: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": partial(generalised_jsd, beta=beta),
    }
    if divergence not in divergences:
        raise ValueError(f"divergence {divergence!r} is unknown; known are {', '.join(divergences)}")
    if not (0 < temperature < float("inf") and 0 <= alpha <= 1):
        raise ValueError(f"temperature {temperature}, alpha {alpha}: need 0 < temperature < inf and 0 <= alpha <= 1")
    # KD-VOCAB: cut before any softmax.
    student_logits, teacher_logits = shared_vocabulary(student_logits, teacher_logits, vocab_size)
    if student_logits.shape[:-1] != labels.shape:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}")
    if top_k is not None and not 1 <= top_k <= student_logits.shape[-1]:
        raise ValueError(f"top_k {top_k}: need 1 <= top_k <= {student_logits.shape[-1]} tokens")
    check_vocabulary(labels[:, 1:][labels[:, 1:] != IGNORE], student_logits.shape[-1])
    # KD-RED: the denominator is that of the hard loss, not rows, not V.
    n = count_targets(labels) if num_targets is None else num_targets
    if not n > 0:
        raise NoTargetsError("the batch has no target (every label is -100): drop and count it, or skip the step")
    # KD-MASK: the shift and the targets of the hard loss. KD-NOTEACH: no gradient reaches the teacher.
    targets, teacher_logits = labels[:, 1:], teacher_logits.detach()

    def loss(rows: Tensor, places: Places) -> Tensor:
        parts: list[Tensor] = []
        if alpha > 0:  # a term of weight 0 is left out, because 0 * inf would be NaN
            student, teacher = _softened(rows, temperature), _softened(teacher_logits[places], temperature)
            if top_k is not None:
                # KD-TOPK: the teacher chooses, both models are read there, and a bucket holds the rest.
                kept = most_likely(teacher, top_k)
                student, teacher = with_tail_bucket(student, kept), with_tail_bucket(teacher, kept)
            # KD-VAL: T**2 for the soft term alone, whatever the divergence.
            parts.append(alpha * temperature**2 * divergences[divergence](student, teacher))
        if alpha < 1:
            # KD-MIX: the hard term stays at T = 1.
            parts.append((1 - alpha) * cross_entropies(rows, targets[places]))
        return reduce(torch.add, parts)

    return sum_over_rows(loss, student_logits, (targets != IGNORE).nonzero(as_tuple=True)) / n


def shared_vocabulary(student_logits: Tensor, teacher_logits: Tensor, vocab_size: int | None) -> tuple[Tensor, Tensor]:
    """Both (B, T, V) over the same columns: the shared tokens come first, what follows is padding of the head.

    Cutting after the softmax instead would leave the mass of the padding out of both distributions (trl#6252,
    torchtune#2119).

    >>> [tuple(each.shape) for each in shared_vocabulary(torch.zeros(1, 2, 4), torch.zeros(1, 2, 6), 4)]
    [(1, 2, 4), (1, 2, 4)]
    """
    if student_logits.dim() != 3 or student_logits.shape[:2] != teacher_logits.shape[:2]:
        shapes = f"student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}"
        raise ValueError(f"logits of {shapes}: want (B, T, V) with the same B and T for both")
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if vocab_size is None and sizes[0] != sizes[1]:
        raise ValueError(
            f"the student has {sizes[0]} columns, the teacher {sizes[1]}: pass vocab_size=, the number of tokens that"
            " both share with the same ids, if the rest is padding; distinct vocabularies cannot be compared by column"
        )
    if vocab_size is not None and not 1 <= vocab_size <= min(sizes):
        raise ValueError(f"vocab_size {vocab_size}: the student has {sizes[0]} columns, the teacher {sizes[1]}")
    return student_logits[..., :vocab_size], teacher_logits[..., :vocab_size]


def softened(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """log softmax(z / T) of the scored rows only: (n, V), at least float32.

    >>> softened(torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[-100, 1]]), temperature=2.0).exp()
    tensor([[0.7311, 0.2689]])
    """
    return _softened(logits[:, :-1][labels[:, 1:] != IGNORE], temperature)


def _softened(rows: Tensor, temperature: float) -> Tensor:
    # Raised, then divided by T: bfloat16 over 3 is another logit (ST-UPCAST).
    return torch.log_softmax(rows.to(torch.promote_types(rows.dtype, torch.float32)) / temperature, dim=-1)


def most_likely(log_probs: Tensor, k: int) -> Tensor:
    """The k most likely tokens of each row, of equals the smaller ids: (n, V) -> (n, k).

    A search for the k largest gives some of equals, and any. So the rows with equals left over are sorted whole.

    >>> most_likely(torch.tensor([[0.1, 0.4, 0.1, 0.4]]).log(), 1)
    tensor([[1]])
    """
    found = log_probs.topk(k, dim=-1)
    kept, least = found.indices, found.values[..., -1:]
    unsure = ((log_probs >= least).sum(-1) != k).nonzero().squeeze(-1)
    if len(unsure):
        kept[unsure] = log_probs[unsure].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return kept


def frozen_logits(teacher: torch.nn.Module, **inputs) -> Tensor:
    """The teacher's logits (B, T, V): in eval mode, without gradient, every module's mode put back afterwards.

    A teacher with dropout on gives another target at each call (TaCL#11); one that shares modules with the student and
    is left in eval mode switches the student's dropout off.

    >>> from types import SimpleNamespace
    >>> class Teacher(torch.nn.Embedding):
    ...     def forward(self, input_ids):
    ...         return SimpleNamespace(logits=super().forward(input_ids))
    >>> teacher = Teacher(3, 3).train()
    >>> logits = frozen_logits(teacher, input_ids=torch.tensor([[2]]))
    >>> logits.shape, logits.requires_grad, teacher.training
    (torch.Size([1, 1, 3]), False, True)
    """
    # KD-NOTEACH: no dropout, no graph, and the modes put back.
    with in_eval_mode(teacher), torch.no_grad():
        return teacher(**inputs).logits
