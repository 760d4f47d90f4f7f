"""Rejection sampling: from prompts to a fine-tuning set, one prompt at a time.

Every pairing and every loss shows in the conversations that come out: `cases/prompts` has the prompts, the policy
and the reward.
"""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.properties import must, should
from sftspec.properties.cases.prompts import INF, number_of, numbered_prompts, reward_of, sample_numbers

jobs = {
    "count": st.integers(1, 7),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 99),
    "prefill": st.sampled_from(["", "<think>"]),
}
ERRORS = (RuntimeError, ValueError, TimeoutError)  # out of memory, a text that does not parse, a server
job_examples = [{"count": 3, "n": 3, "seed": 0, "prefill": "<think>"}, {"count": 6, "n": 1, "seed": 1, "prefill": ""}]


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, given={**jobs, "lost": st.integers(0, 3)},
      examples=[{**job, "lost": lost} for job in job_examples for lost in (0, 2)])  # fmt: skip
def each_prompt_trains_its_own_best_completion(run_round, count, n, seed, prefill, lost):
    """One selection for each prompt, in order, with all of its n completions to the letter and their rewards; where one
    has a reward, the whole prompt and then its best completion is trained, and where none has, the prompt is skipped
    and says so. A prompt without a message is refused, or has its place.

    Completions paired with another prompt (R1-V#67), one prompt for the whole group (trl#6072), training on all n,
    prompts that vanish without being counted, a reward of 0 or below, or False, or a scalar of NumPy or PyTorch, taken
    for none; and a reward function that is not given the whole candidate: without its context or its tools
    (ms-swift#10205), without the fields of its messages, or without the start that was prefilled (trl#6966). A long
    prompt or completion is not cut. Of completions that failed (here some, at times all of a prompt's) nothing is made
    up; one that is empty, or ends in a blank or a control token, was sampled so, and is trained so.
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
        said = [None if reward is None or reward != reward else float(reward) for reward in rewards]
        yield prompt, list(selection.rewards) == said, f"rewards {said}, said to be {selection.rewards}"
        best = max((reward for reward in said if reward is not None), default=None)
        trained = selection.conversation
        yield prompt, bool(selection.skipped) == (best is None), f"rewards {said}, skipped: {selection.skipped!r}"
        if best is not None and trained is not None:
            right = trained in selection.candidates and reward_of(trained) == best == selection.reward
            yield prompt, right, f"expected a candidate of reward {best}, trained {trained}"
        context, last = (prompt[:-1], prompt[-1]) if prefill else (prompt, {"role": "assistant"})
        for candidate in selection.candidates:
            whole = [*context, {**last, "content": candidate[-1]["content"]}]
            origin, found = (prompt.source, prompt.tools), (candidate.source, candidate.tools)
            own = list(candidate) == whole and found == origin
            yield prompt, own, f"expected {whole} of {origin}, found {candidate} of {found}"
            text = whole[-1]["content"]
            started = text == prefill or text.startswith(f"{prefill} re: {context[-1]['content']} #")
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

    Two prompts with the same words still draw different samples, be they the same to the letter, and so do the n
    samples of one prompt, and a run with another seed: one seed for all is no selection (s1#97, mlx-vlm#1844), nor is
    one for all batches, and a prompt that stands twice in order to be answered twice is no error of the data.
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
    twice = [sorted(number_of(candidate[-1]["content"]) for candidate in selection.candidates)
             for selection in run_round([prompts[0]] * 2, sample_numbers, reward_of, n, seed)]  # fmt: skip
    yield prompts[0], twice[0] != twice[1], f"a prompt that stands twice was given {twice[0]} both times"
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


@should(seam="rejection_sample", laws="BN-SFT", floor=20, given={**jobs, "error": st.sampled_from(ERRORS)},
        examples=[{**job, "error": error} for job in job_examples for error in ERRORS])  # fmt: skip
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


# Among them those that a sigmoid or a limit takes for equal.
rewards_that_tie = st.lists(
    st.sampled_from([0, 1.0, 1 + 2.0**-40, 18.0, 20.0, 25.0, 1e6, 2e6, INF, -INF]), min_size=1, max_size=6
)


@should(seam="rejection_sample", laws=("BN-SFT", "BN-TIE"), floor=20, given={"row": rewards_that_tie},
        examples=[{"row": [1.0, 1.0, 1.0]}, {"row": [0, INF, 1.0, INF]}, {"row": [1.0, 1 + 2.0**-40]},
                  {"row": [18.0, 40.0, 50.0, 1e6, 2e6]}, {"row": [-50.0, -40.0, -18.0]}])  # fmt: skip
def the_first_of_equal_completions_is_trained(run_round, row):
    """Of completions whose rewards are equal the one that was sampled first is trained; +inf is the largest reward.
    Those that float32, a sigmoid or a limit takes for equal are not, and all are kept as they were given.

    A tie that falls to the longest one, or to the last, is a second reward that nobody chose.
    """
    texts = ["x" * (1 + index) for index in range(len(row))]  # the reward of a completion stands at its length
    reward = lambda conversation: row[len(conversation[-1]["content"]) - 1]  # noqa: E731
    (selection,) = run_round([[{"role": "user", "content": "?"}]], lambda *_: list(texts), reward, len(row), 0)
    trained = selection.conversation and selection.conversation[-1]["content"]
    expected = texts[row.index(max(row))]
    yield row, trained == expected, f"expected {expected!r}, trained {trained!r}"
    yield row, list(selection.rewards) == row, f"rewards {row}, said to be {selection.rewards}"


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
