"""Rejection sampling: from prompts to a fine-tuning set, one prompt at a time.

The policy here is a function of prompt and seed whose completions say which prompt they answer, and the reward reads a
number off the completion, so that every pairing and every loss shows in the conversations that come out.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st

from sftspec.properties import must
from sftspec.rejection_sampling import rejection_sample  # noqa: F401 (the judge binds the seam)


def numbered_prompts(count: int, prefill: str) -> list[list[dict]]:
    """Prompts with a system message and an earlier turn; every third repeats the first one's words."""
    prompts = []
    for index in range(count):
        words = f"question {0 if index % 3 == 2 else index}"
        prompt = [{"role": "system", "content": "rules"}, {"role": "user", "content": words}]
        prompts.append(prompt + ([{"role": "assistant", "content": prefill}] if prefill else []))
    return prompts


def sample_numbers(prompt, n, seed):
    """n completions that carry the prompt they answer and a number drawn from the seed."""
    draw = random.Random(seed)
    return [f"re: {prompt[1]['content']} #{draw.randrange(10**6)}" for _ in range(n)]


def last_number(conversation) -> float | None:
    """The number a completion carries; a multiple of 5 has no reward."""
    number = int(conversation[-1]["content"].rsplit("#", 1)[1])
    return None if number % 5 == 0 else float(number)


jobs = {
    "count": st.integers(1, 7),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 99),
    "prefill": st.sampled_from(["", "<think>"]),
}
job_examples = [{"count": 3, "n": 3, "seed": 0, "prefill": "<think>"}, {"count": 6, "n": 1, "seed": 1, "prefill": ""}]


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, given=jobs, examples=job_examples)
def each_prompt_trains_its_own_best_completion(run_round, count, n, seed, prefill):
    """One conversation for each prompt that has a rewarded completion: the whole prompt, then its best completion.

    Completions paired with another prompt (R1-V#67), one prompt for the whole group (trl#6072), training on all n,
    prompts that vanish without being counted; and a reward function that is not given the whole candidate: without its
    context (ms-swift#10205), or without the start that was prefilled (trl#6966).
    """
    prompts = numbered_prompts(count, prefill)
    seen = []

    def watched(conversation) -> float | None:
        seen.append(list(conversation))
        return last_number(conversation)

    selections = list(run_round(prompts, sample_numbers, watched, n, seed))
    yield prompts, len(selections) == count, f"{len(selections)} selections for {count} prompts"
    for prompt, selection in zip(prompts, selections, strict=False):
        numbers = {candidate[-1]["content"]: last_number(candidate) for candidate in selection.candidates}
        rewarded = {text: number for text, number in numbers.items() if number is not None}
        best = max(rewarded, key=rewarded.__getitem__, default=None)
        trained = selection.conversation
        yield prompt, bool(selection.skipped) == (best is None), f"rewards {numbers}, skipped: {selection.skipped!r}"
        if best is not None:
            whole = [*prompt[:2], {"role": "assistant", "content": best}]
            yield prompt, trained is not None and list(trained) == whole, f"expected {whole}, trained {trained}"
            yield prompt, best.startswith(f"{prefill}re: {prompt[1]['content']} #"), f"answers another prompt: {best}"
    candidates = [list(candidate) for selection in selections for candidate in selection.candidates]
    for conversation in seen:
        yield prompts, conversation in candidates, f"the reward function saw {conversation}, which is no candidate"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, given=jobs, examples=job_examples)
def a_prompt_does_not_depend_on_the_others(run_round, count, n, seed, prefill):
    """Stopped after any prompt and resumed, with other prompts before it, a run yields what it would have yielded.

    Two prompts with the same words still draw different samples, and so do the n samples of one prompt: one seed
    for all is no selection (s1#97, mlx-vlm#1844).
    """
    prompts = numbered_prompts(count, prefill)
    whole = list(run_round(prompts, sample_numbers, last_number, n, seed))
    other = [[{"role": "system", "content": ""}, {"role": "user", "content": "other"}]] * count
    for start in range(count):
        changed = [*other[:start], *prompts[start:]]
        resumed = list(run_round(changed, sample_numbers, last_number, n, seed, start))
        yield (prompts, start), resumed == whole[start:], f"prompts from {start} on differ after resuming"
    texts = [candidate[-1]["content"] for selection in whole for candidate in selection.candidates]
    yield prompts, len(set(texts)) == len(texts), f"samples repeat: {texts}"
