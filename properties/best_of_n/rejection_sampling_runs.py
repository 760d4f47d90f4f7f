"""Rejection sampling as a run: it can stop and resume, its samples are its own, and an error is no bad answer."""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, should
from sftspec.properties.cases.prompts import number_of, numbered_prompts, reward_of, sample_numbers
from sftspec.properties.variations import leaves_alone

jobs = {
    "count": st.integers(1, 7),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 99),
    "prefill": st.sampled_from(["", "<think>"]),
}
examples = [{"count": 3, "n": 3, "seed": 0, "prefill": "<think>"}, {"count": 6, "n": 1, "seed": 1, "prefill": ""}]
many = {"count": 10, "n": 10, "seed": 0, "prefill": ""}  # more than a batch of prompts or of samples holds
ERRORS = (RuntimeError, ValueError, TimeoutError)  # out of memory, a text that does not parse, a server


def texts_of(run_round, prompts, n, seed) -> list[str]:
    selections = run_round(prompts, sample_numbers, reward_of, n, seed)
    return [candidate[-1]["content"] for selection in selections for candidate in selection.candidates]


@must(seam="rejection_sample", laws="BN-SFT", floor=60, given=jobs, examples=[*examples, many])
def a_resumed_run_goes_on_as_if_it_had_not_stopped(run_round, count, n, seed, prefill):
    """Stopped after any prompt and resumed, with other prompts before it, a run yields what it would have yielded."""
    prompts = numbered_prompts(count, prefill)
    whole = list(run_round(prompts, sample_numbers, reward_of, n, seed))
    other = [[*prompts[0][:4], {"role": "user", "content": "other"}]] * count
    for start in range(0, count, 1 + count // 8):
        changed = [*other[:start], *prompts[start:]]
        resumed = list(run_round(changed, sample_numbers, reward_of, n, seed, start))
        yield (prompts, start), resumed == whole[start:], f"prompts from {start} on differ"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, given=jobs, examples=[*examples, many])
def every_sample_is_drawn_for_itself(run_round, count, n, seed, prefill):
    """No two of a run's samples are one draw, be they of one prompt or of two with the same words.

    One seed for all is no selection (s1#97, mlx-vlm#1844), nor is one for all batches.
    """
    prompts = numbered_prompts(count, prefill)
    texts = texts_of(run_round, prompts, n, seed)
    yield prompts, len(set(texts)) == len(texts), f"samples repeat: {texts}"


@must(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=examples)
def a_prompt_that_stands_twice_is_answered_twice(run_round, count, n, seed, prefill):
    """A prompt that stands twice, the same to the letter, is sampled anew each time.

    It stands twice in order to be answered twice: a seed, or a cache, by the text of a prompt makes copies.
    """
    prompt = numbered_prompts(count, prefill)[0]
    numbers = [number_of(text) for text in texts_of(run_round, [prompt] * 2, n, seed)]
    yield prompt, sorted(numbers[:n]) != sorted(numbers[n:]), f"given {numbers}"


@must(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=examples)
def another_seed_draws_other_samples(run_round, count, n, seed, prefill):
    """A run with another seed draws other samples."""
    prompts = numbered_prompts(count, prefill)
    one, other = (texts_of(run_round, prompts, n, each) for each in (seed, seed + 1))
    yield prompts, set(one) != set(other), f"another seed, the same samples: {other}"


@must(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=examples)
def a_round_leaves_the_prompts_as_they_are(run_round, count, n, seed, prefill):
    """A round does not change the prompts that it is given."""
    asked = lambda prompts: list(run_round(prompts, sample_numbers, reward_of, n, seed))  # noqa: E731
    yield leaves_alone(asked, numbered_prompts(count, prefill))


@should(
    seam="rejection_sample",
    laws="BN-SFT",
    floor=20,
    given={**jobs, "error": st.sampled_from(ERRORS)},
    examples=[{**job, "error": error} for job in examples for error in ERRORS],
)
def an_error_of_the_sampler_or_the_reward_is_raised(run_round, count, n, seed, prefill, error):
    """An exception that the sampler or the reward function raises on the last prompt reaches whoever asks for its
    selection.

    A server that is down has given no bad answer: taken for a missing completion or reward, it leaves prompts out that
    nobody will sample again.
    """
    prompts, raised = numbered_prompts(count, prefill), []

    def failing(function):
        def fails(talk, *rest):
            if talk[0] == prompts[-1][0]:
                raised.append(function)
                raise error("the server is down")
            return function(talk, *rest)

        return fails

    for sample, reward in ((failing(sample_numbers), reward_of), (sample_numbers, failing(reward_of))):
        try:
            selections = list(run_round(prompts, sample, reward, n, seed))
        except Exception as seen:
            yield (prompts, error), True, f"raised {seen!r}"
        else:
            yield (prompts, error), not raised, f"{raised} raised, and {selections[-1:]} came of it"
        raised.clear()


@should(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=examples)
def a_selection_comes_before_the_next_prompt_is_sampled(run_round, count, n, seed, prefill):
    """Each selection comes before the next prompt is sampled, so that a run that is stopped loses one prompt and not
    all."""
    asked = []

    def sample(prompt, number, its_seed):
        asked.append(prompt)
        return sample_numbers(prompt, number, its_seed)

    prompts = numbered_prompts(count, prefill)
    for done, selection in enumerate(run_round(prompts, sample, reward_of, n, seed), 1):
        sampled = [prompt for number, prompt in enumerate(asked) if prompt not in asked[:number]]
        yield (
            (prompts, selection.index),
            len(sampled) <= done,
            f"{counted(len(sampled), 'prompt')} sampled, {done} selected",
        )
