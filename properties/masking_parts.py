"""Masking, in the functions: what the loss ignores, and where `encode` puts the labels.

A run shows what one trainer did with a few hundred conversations. Here hypothesis draws arguments for the function
itself: thousands of masks, extreme logits under the mask, every length of truncation.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.properties.step_cases import FIRST_LABELLED, UNEQUAL, Problem, loss_bound, problems
from sftspec.step import IGNORE


@must(seam="loss", laws=("MK-IGNVAL", "MK-USERPERM"), floor=50, given={"problem": problems},
      examples=[{"problem": UNEQUAL}, {"problem": FIRST_LABELLED}])  # fmt: skip
def ignored_positions_cannot_touch_the_loss(loss, problem):
    """Logits that are not scored may be anything, also inf and NaN: loss and gradient stay bitwise the same.

    Masking by multiplication turns 0 * NaN into NaN (Megatron-Bridge#3117); a mean over all rows moves with them.
    """
    results = []
    for filling in (0.0, 1e30, float("inf"), float("nan")):
        logits = torch.full_like(problem.logits, filling)
        for place in problem.scored:
            logits[place] = problem.logits[place]
        leaf = logits.requires_grad_(True)
        value = loss(leaf, problem.labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.detach(), torch.stack([gradient[place] for place in problem.scored])))
    for value, gradient in results[1:]:
        yield problem, torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


@must(seam="loss", laws=("MK-SHIFT", "MK-LABEL"), floor=50, given={"problem": problems},
      examples=[{"problem": UNEQUAL}, {"problem": FIRST_LABELLED}])  # fmt: skip
def logits_are_scored_against_the_next_label(loss, problem):
    """Logits that are sure of the next label cost (V - 1) exp(-C) at most; no other alignment does.

    Shifted twice or not at all, random logits give the same loss (4.596, 4.573, 4.581; trap H7): sure ones do not.
    """
    sure, vocabulary = 30.0, problem.logits.shape[-1]
    logits = torch.zeros_like(problem.logits)
    for place in problem.scored:
        logits[place][problem.target(place)] = sure
    bound = (vocabulary - 1) * 2.718281828459045**-sure + loss_bound(Problem(logits, problem.labels))
    yield (
        problem,
        float(loss(logits, problem.labels)) <= bound,
        f"the loss is {float(loss(logits, problem.labels)):.3g}",
    )


@must(seam="loss", laws=("MK-FIRST", "MK-ZERO"), floor=50, given={"problem": problems},
      examples=[{"problem": FIRST_LABELLED}])  # fmt: skip
def rows_without_a_target_have_no_gradient(loss, problem):
    """Where nothing is scored dL/dlogits is exactly zero: under the mask, and at the last position always.

    A soft mask of 1e-8, or a roll instead of a slice that wraps the first label around to the last row.
    """
    leaf = problem.leaf()
    loss(leaf, problem.labels).backward()
    scored = set(problem.scored)
    for b in range(leaf.shape[0]):
        for t in range(leaf.shape[1]):
            if (b, t) not in scored:
                yield (b, t), bool((leaf.grad[b, t] == 0).all())


@must(seam="loss", laws=("MK-NONEMPTY",), floor=3, given={"shape": st.tuples(st.integers(1, 3), st.integers(1, 5))})
def a_batch_without_targets_is_refused(loss, shape):
    """No target and no denominator: a clear error, not 0/0. torch's mean is NaN here (trl#6668, nanochat#590)."""
    logits = torch.zeros(*shape, 5)
    for labels in (torch.full(shape, IGNORE), torch.full(shape, IGNORE).index_fill(1, torch.tensor([0]), 2)):
        try:
            value = loss(logits, labels)
        except ValueError:
            yield shape, True
        else:
            yield shape, False, f"the loss is {float(value)}"


@must(seam="loss", laws=("MK-COUNT", "MK-WEIGHT"), floor=50, given={"problem": problems, "seed": st.integers(0, 2**20)})
def weights_replace_the_count(loss, problem, seed):
    """With weights w the loss is sum(w l) / sum(w); weights of 0 and 1 are a mask.

    Divided by the number of targets instead, the scale of the weights becomes a learning rate.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 3, problem.labels.shape, generator=generator).double()
    used = [float(weights[b, t + 1]) for b, t in problem.scored]
    if sum(used) == 0:
        return
    expected = sum(w * value for w, value in zip(used, problem.losses(), strict=True)) / sum(used)
    got = float(loss(problem.logits, problem.labels, weights=weights))
    yield problem, abs(got - expected) <= 2 * loss_bound(problem), f"expected {expected:.12g}, saw {got:.12g}"
    mask = (weights > 0).double()
    masked = torch.where(weights > 0, problem.labels, IGNORE)
    same = float(loss(problem.logits, problem.labels, weights=mask)) - float(loss(problem.logits, masked))
    yield problem, abs(same) <= 2 * loss_bound(problem), "weights of 0 and 1 are not the mask"


def _talk(turns: int, length: int) -> list[dict]:
    text = "ABC DEF\nGHI "[: length % 12] * (1 + length // 12)
    return [{"role": role, "content": text[: length + turn]} for turn in range(turns) for role in ("user", "assistant")]


@must(seam="encode", laws=("MK-TRUNC", "MK-LABEL", "MK-TRUNCDROP"), floor=50,
      given={"turns": st.integers(1, 4), "length": st.integers(0, 20), "cut": st.integers(1, 90)})  # fmt: skip
def truncation_cuts_ids_and_labels_together(encode, turns, length, cut):
    """max_length keeps the first tokens with their labels and puts nothing in place of the rest; the loss is counted.

    Ids cut without labels, or an end-of-turn token appended to a sentence that was broken off.
    """
    from sftspec.golden.small_tokenizer import load

    whole = encode(_talk(turns, length), tokenizer=load())
    short = encode(_talk(turns, length), tokenizer=load(), max_length=cut)
    yield cut, short.input_ids == whole.input_ids[:cut]
    yield cut, short.labels == whole.labels[:cut]
    yield cut, all(label in (IGNORE, token) for token, label in zip(short.input_ids, short.labels, strict=True))
    yield cut, short.truncated == max(0, len(whole.input_ids) - cut)


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50,
      given={"turns": st.integers(1, 5), "length": st.integers(0, 20), "policy": st.sampled_from(["all", "last"])},
      examples=[{"turns": 3, "length": 0, "policy": "all"}])  # fmt: skip
def targets_spell_the_assistants_turns(encode, turns, length, policy):
    """Decoded, the targets are the trained answers, each with its end-of-turn token, and nothing besides.

    Counted by another route than the spans: text in, text out (FastChat#2996 drifts by one token a turn).
    """
    from sftspec.golden.small_tokenizer import load

    talk = _talk(turns, length)
    example = encode(talk, tokenizer=load(), policy=policy)
    answers = [message["content"] + "<|im_end|>" for message in talk if message["role"] == "assistant"]
    targets = [label for label in example.labels if label != IGNORE]
    text = load().decode(targets, skip_special_tokens=False)
    expected = "".join(answers if policy == "all" else answers[-1:])
    # The newline of the header may merge with one that opens the answer; nothing here opens with a newline.
    yield talk, text == expected, f"expected {expected!r}, saw {text!r}"
