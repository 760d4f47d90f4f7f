"""Rejection sampling: from prompts to a fine-tuning set, one prompt at a time.

The policy here is a function of prompt and seed whose completions say which prompt they answer, and the reward reads a
number off the completion, so that every pairing and every loss shows in the conversations that come out.
"""

from __future__ import annotations

import math
import random
import re

from hypothesis import strategies as st

from sftspec.conversation import Conversation
from sftspec.properties import must, should

INF = math.inf
ENDINGS = ("", " \n", "<|im_end|>")  # what a tokenizer or a tidy pipeline may take off a completion


def numbered_prompts(count: int, prefill: str) -> list[Conversation]:
    """Prompts with tools, a system message and an earlier turn that calls one; every other one repeats the first one's
    words. Messages have more than a role and a content."""
    prompts = []
    for index in range(count):
        words, call = f"question {index * (index % 2)}", {"name": f"tool {index}", "arguments": {}}
        prompt = [
            {"role": "system", "content": f"rules {index}"},
            {"role": "user", "content": "before"},
            {"role": "assistant", "content": "then", "train": False, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "so"},
            {"role": "user", "content": words},
        ]
        prompt += [{"role": "assistant", "content": prefill, "reasoning_content": "so far"}] if prefill else []
        prompts.append(Conversation(prompt, tools=[{"name": f"tool {index}"}]))
    return prompts


def sample_numbers(prompt, n, seed, below: int = 10**12):
    """n completions that carry the prompt they answer and a number drawn from the seed; some end in a blank or in a
    control token."""
    draw = random.Random(seed)
    question = next(message["content"] for message in reversed(prompt) if message["role"] == "user")
    numbers = [draw.randrange(below) for _ in range(n)]
    return [f" re: {question} #{number}{ENDINGS[number % 3]}" for number in numbers]


def number_of(text: str) -> int:
    """The number that a completion carries; 9 for an empty one."""
    found = re.search(r"#(\d+)", text)
    return int(found[1]) if found else 9


def reward_of(conversation) -> float | None:
    """From -3 to 3, ties and 0 among them, by the number that a completion carries and the rules of its prompt: a
    float, an int or, where it is 0 or 1, a bool; of five numbers one has None, one NaN and one -inf."""
    number = number_of(conversation[-1]["content"])
    rules = int(conversation[0]["content"].split()[1]) if conversation[0]["role"] == "system" else 0
    missing, reward = {0: None, 1: math.nan, 2: -INF}, (number + rules) % 7 - 3
    kind = (float, int, bool if reward in (0, 1) else int)[number % 3]
    return missing[number % 5] if number % 5 in missing else kind(reward)


jobs = {
    "count": st.integers(1, 7),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 99),
    "prefill": st.sampled_from(["", "<think>"]),
}
job_examples = [{"count": 3, "n": 3, "seed": 0, "prefill": "<think>"}, {"count": 6, "n": 1, "seed": 1, "prefill": ""}]


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, given={**jobs, "lost": st.integers(0, 3)},
      examples=[{**job, "lost": lost} for job in job_examples for lost in (0, 2)])  # fmt: skip
def each_prompt_trains_its_own_best_completion(run_round, count, n, seed, prefill, lost):
    """One selection for each prompt, in order, with all of its n completions to the letter and their rewards; where one
    has a reward, the whole prompt and then its best completion is trained, and where none has, the prompt is skipped
    and says so. A prompt without a message is refused, or has its place.

    Completions paired with another prompt (R1-V#67), one prompt for the whole group (trl#6072), training on all n,
    prompts that vanish without being counted, a reward of 0 or below, or False, taken for none; and a reward function
    that is not given the whole candidate: without its context or its tools (ms-swift#10205), without the fields of its
    messages, or without the start that was prefilled (trl#6966). Of completions that failed (here some, at times all of
    a prompt's) nothing is made up; one that is empty, or ends in a blank or a control token, was sampled so, and is
    trained so.
    """
    prompts = numbered_prompts(count, prefill)
    seen, sampled, asked = [], [], []

    def sample(prompt, number, its_seed):
        texts = sample_numbers(prompt, number, its_seed, below=40)[: max(0, number - lost)]
        found = [text if number_of(text) % 8 else "" for text in texts]
        sampled.extend(prefill + text for text in found)
        asked.append(number)
        return found

    def watched(conversation) -> float | None:
        seen.append((list(conversation), getattr(conversation, "tools", None)))
        return reward_of(conversation)

    selections = list(run_round(prompts, sample, watched, n, seed))
    yield prompts, [selection.index for selection in selections] == list(range(count)), "not one selection for each"
    yield prompts, sum(asked) == n * count, f"asked for {sum(asked)} completions, not for {n} times {count}"
    kept = [candidate[-1]["content"] for selection in selections for candidate in selection.candidates]
    yield prompts, kept == sampled, f"sampled {sampled}, candidates {kept}"
    for prompt, selection in zip(prompts, selections, strict=False):
        rewards = [reward_of(candidate) for candidate in selection.candidates]
        said = [None if reward is None or reward != reward else reward for reward in rewards]
        yield prompt, list(selection.rewards) == said, f"rewards {said}, said to be {selection.rewards}"
        best = max((reward for reward in said if reward is not None), default=None)
        trained = selection.conversation
        yield prompt, bool(selection.skipped) == (best is None), f"rewards {said}, skipped: {selection.skipped!r}"
        if best is not None and trained is not None:
            right = trained in selection.candidates and reward_of(trained) == best == selection.reward
            yield prompt, right, f"expected a candidate of reward {best}, trained {trained}"
        last = prompt[5] if prefill else {"role": "assistant"}
        for candidate in selection.candidates:
            whole = [*prompt[:5], {**last, "content": candidate[-1]["content"]}]
            own = list(candidate) == whole and candidate.tools == prompt.tools
            yield prompt, own, f"expected {whole} with {prompt.tools}, found {candidate} with {candidate.tools}"
            text = whole[-1]["content"]
            started = text == prefill or text.startswith(f"{prefill} re: {prompt[4]['content']} #")
            yield prompt, started, f"answers another prompt: {text}"
    candidates = [(list(candidate), candidate.tools) for selection in selections for candidate in selection.candidates]
    for conversation in seen:
        yield prompts, conversation in candidates, f"the reward function saw {conversation}, which is no candidate"
    try:
        places = [selection.index for selection in run_round([[], *prompts], sample_numbers, reward_of, n, seed)]
    except Exception as error:
        yield [[], *prompts], True, f"refused: {error}"
    else:
        yield [[], *prompts], places == list(range(count + 1)), f"a prompt without a message, selections of {places}"


many = {"count": 20, "n": 20, "seed": 0, "prefill": ""}  # more than a batch of prompts or of samples holds


@must(seam="rejection_sample", laws="BN-SFT", floor=60, given=jobs, examples=[*job_examples, many])
def a_prompt_does_not_depend_on_the_others(run_round, count, n, seed, prefill):
    """Stopped after any prompt and resumed, with other prompts before it, a run yields what it would have yielded; the
    prompts stay as they were.

    Two prompts with the same words still draw different samples, and so do the n samples of one prompt, and a run with
    another seed: one seed for all is no selection (s1#97, mlx-vlm#1844), nor is one for all batches.
    """
    prompts = numbered_prompts(count, prefill)
    whole = list(run_round(prompts, sample_numbers, reward_of, n, seed))
    other = [[*prompts[0][:4], {"role": "user", "content": "other"}]] * count
    for start in range(0, count, 1 + count // 8):
        changed = [*other[:start], *prompts[start:]]
        resumed = list(run_round(changed, sample_numbers, reward_of, n, seed, start))
        yield (prompts, start), resumed == whole[start:], f"prompts from {start} on differ"
    texts = [candidate[-1]["content"] for selection in whole for candidate in selection.candidates]
    yield prompts, len(set(texts)) == len(texts), f"samples repeat: {texts}"
    again = run_round(prompts, sample_numbers, reward_of, n, seed + 1)
    others = [candidate[-1]["content"] for selection in again for candidate in selection.candidates]
    yield prompts, set(texts) != set(others), f"another seed, the same samples: {others}"
    yield prompts, prompts == numbered_prompts(count, prefill), f"the prompts were changed to {prompts}"


@must(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=job_examples)
def more_completions_than_were_asked_for_are_no_candidates(run_round, count, n, seed, prefill):
    """A sampler that returns more than n completions is refused, or cut to n: best of 2n is not best of n."""
    prompts = numbered_prompts(count, prefill)
    try:
        selections = list(run_round(prompts, lambda *asked: sample_numbers(*asked) * 2, reward_of, n, seed))
    except Exception as error:
        yield prompts, True, f"refused: {error}"
        return
    for selection in selections:
        yield prompts, len(selection.candidates) <= n, f"{len(selection.candidates)} candidates, {n} were asked for"


rewards_that_tie = st.lists(st.sampled_from([0, 1.0, INF, -INF]), min_size=1, max_size=6)


@should(seam="rejection_sample", laws=("BN-SFT", "BN-TIE"), floor=20, given={"row": rewards_that_tie},
        examples=[{"row": [1.0, 1.0, 1.0]}, {"row": [0, INF, 1.0, INF]}])  # fmt: skip
def the_first_of_equal_completions_is_trained(run_round, row):
    """Of completions whose rewards are equal the one that was sampled first is trained; +inf is the largest reward.

    A tie that falls to the longest one, or to the last, is a second reward that nobody chose.
    """
    texts = ["x" * (1 + index) for index in range(len(row))]  # the reward of a completion stands at its length
    reward = lambda conversation: row[len(conversation[-1]["content"]) - 1]  # noqa: E731
    (selection,) = run_round([[{"role": "user", "content": "?"}]], lambda *_: list(texts), reward, len(row), 0)
    trained = selection.conversation and selection.conversation[-1]["content"]
    expected = texts[row.index(max(row))]
    yield row, trained == expected, f"expected {expected!r}, trained {trained!r}"


@should(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=job_examples)
def a_selection_comes_before_the_next_prompt_is_sampled(run_round, count, n, seed, prefill):
    """Selections come one at a time, each before the next prompt is sampled, so that a run that is stopped loses one
    prompt and not all."""
    asked = []

    def sample(prompt, number, its_seed):
        asked.append(prompt)
        return sample_numbers(prompt, number, its_seed)

    prompts = numbered_prompts(count, prefill)
    for done, selection in enumerate(run_round(prompts, sample, reward_of, n, seed), 1):
        sampled = [prompt for number, prompt in enumerate(asked) if prompt not in asked[:number]]
        yield (prompts, selection.index), len(sampled) <= done, f"{len(sampled)} prompts sampled, {done} selected"
