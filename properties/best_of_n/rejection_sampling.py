"""Rejection sampling: from prompts to a fine-tuning set, one prompt at a time.

Every pairing and every loss shows in the conversations that come out: `cases/prompts` has the prompts, the policy
and the reward, and watches a round. What a run does beyond one round stands in `rejection_sampling_runs`.
"""

from __future__ import annotations

from hypothesis import strategies as st

from sftspec.counted import counted
from sftspec.properties import must, should
from sftspec.properties.cases.prompts import INF, known, numbered_prompts, reward_of, sample_numbers, watched_round

jobs = {
    "count": st.integers(1, 7),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 99),
    "prefill": st.sampled_from(["", "<think>"]),
    "lost": st.integers(0, 3),
}
examples = [
    {**job, "lost": lost}
    for job in (
        {"count": 3, "n": 3, "seed": 0, "prefill": "<think>"},
        {"count": 6, "n": 1, "seed": 1, "prefill": ""},
    )
    for lost in (0, 2)
]
rounds = {"given": jobs, "examples": examples}


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, **rounds)
def each_prompt_has_one_selection_in_its_place(run_round, **job):
    """There is one selection for each prompt, in the order of the prompts, also where none of its completions has a
    reward.

    Prompts that vanish without being counted; an entry for each candidate (training on all n).
    """
    done = watched_round(run_round, **job)
    indices = [selection.index for selection in done.selections]
    yield done.prompts, indices == list(range(job["count"])), f"selections of {indices}"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, **rounds)
def n_completions_are_asked_for(run_round, **job):
    """For each prompt n completions are asked for, in however many calls."""
    done = watched_round(run_round, **job)
    yield done.prompts, sum(done.asked) == job["n"] * job["count"], f"asked for {done.asked}"


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, **rounds)
def every_completion_is_a_candidate_to_the_letter(run_round, **job):
    """The candidates end in the completions that were sampled, to the letter, all of them and in their order.

    A long one is not cut; one that is empty, or ends in a blank or a control token, was sampled so, and is trained so.
    Of those that failed nothing is made up.
    """
    done = watched_round(run_round, **job)
    kept = [candidate[-1]["content"] for candidate in done.candidates]
    yield done.prompts, kept == done.sampled, f"sampled {done.sampled}, candidates {kept}"


@must(seam="rejection_sample", laws=("BN-SFT", "BN-ALIGN"), floor=60, **rounds)
def a_candidate_answers_its_own_prompt(run_round, **job):
    """The completion of a candidate was sampled for the prompt whose selection it is in.

    Completions paired with another prompt (R1-V#67), one prompt for the whole group (trl#6072).
    """
    done, prefill = watched_round(run_round, **job), job["prefill"]
    for prompt, selection in zip(done.prompts, done.selections, strict=False):
        question = next(message for message in reversed(prompt) if message["role"] == "user")["content"]
        for candidate in selection.candidates:
            text = candidate[-1]["content"]
            own = text in ("", prefill) or text.startswith(f"{prefill} re: {question} #")
            yield prompt, own, f"answers another prompt: {text}"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, **rounds)
def a_candidate_is_its_whole_prompt_and_a_completion(run_round, **job):
    """A candidate is every message of its prompt as it was, and one by the assistant, with the prompt's source and
    tools.

    Messages made anew from role and content lose calls, thoughts and train flags; a long prompt is not cut.
    """
    done, prefill = watched_round(run_round, **job), job["prefill"]
    for prompt, selection in zip(done.prompts, done.selections, strict=False):
        context, last = (prompt[:-1], prompt[-1]) if prefill else (prompt, {"role": "assistant"})
        for candidate in selection.candidates:
            whole = [*context, {**last, "content": candidate[-1]["content"]}]
            right = list(candidate) == whole and (candidate.source, candidate.tools) == (prompt.source, prompt.tools)
            yield prompt, right, f"expected {whole}, found {candidate} of {candidate.source!r} {candidate.tools}"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, **rounds)
def the_reward_function_is_given_whole_candidates(run_round, **job):
    """What the reward function is given is a candidate: context, tools, prefilled start and completion.

    Without its context or its tools (ms-swift#10205), without the fields of its messages, or without the start that was
    prefilled (trl#6966), something else is judged than is trained.
    """
    done = watched_round(run_round, **job)
    candidates = [(list(candidate), candidate.tools) for candidate in done.candidates]
    for conversation in done.seen:
        yield done.prompts, conversation in candidates, f"the reward function saw {conversation}, no candidate"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, **rounds)
def rewards_are_kept_as_they_were_given(run_round, **job):
    """A selection holds the reward of each of its candidates as it was given; None and NaN are none.

    A reward of 0 or below, or False, or a scalar of NumPy or PyTorch, is one.
    """
    done = watched_round(run_round, **job)
    for prompt, selection in zip(done.prompts, done.selections, strict=False):
        said = [known(reward_of(candidate)) for candidate in selection.candidates]
        yield prompt, list(selection.rewards) == said, f"rewards {said}, said to be {selection.rewards}"


@must(seam="rejection_sample", laws="BN-SFT", floor=60, **rounds)
def the_candidate_with_the_largest_reward_is_trained(run_round, **job):
    """Of each prompt a candidate with the largest reward is trained; where none has a reward the prompt is skipped and
    says so."""
    done = watched_round(run_round, **job)
    for prompt, selection in zip(done.prompts, done.selections, strict=False):
        rewards = [known(reward_of(candidate)) for candidate in selection.candidates]
        best = max((reward for reward in rewards if reward is not None), default=None)
        trained = selection.conversation
        right = bool(selection.skipped) == (best is None) and (trained is None) == (best is None)
        if right and trained is not None:
            right = trained in selection.candidates and reward_of(trained) == best == selection.reward
        yield prompt, right, f"rewards {rewards}, skipped {selection.skipped!r}, trained {trained}"


# Among them those that a sigmoid or a limit takes for equal.
rewards_that_tie = st.lists(
    st.sampled_from([0, 1.0, 1 + 2.0**-40, 18.0, 20.0, 25.0, 1e6, 2e6, INF, -INF]), min_size=1, max_size=6
)


@should(
    seam="rejection_sample",
    laws=("BN-SFT", "BN-TIE"),
    floor=20,
    given={"row": rewards_that_tie},
    examples=[
        {"row": [1.0, 1.0, 1.0]},
        {"row": [0, INF, 1.0, INF]},
        {"row": [1.0, 1 + 2.0**-40]},
        {"row": [18.0, 40.0, 50.0, 1e6, 2e6]},
        {"row": [-50.0, -40.0, -18.0]},
    ],
)
def the_first_of_the_best_completions_is_trained(run_round, row):
    """Of the completions whose reward, as it was given, is the largest, the one that was sampled first is trained.

    Those that float32, a sigmoid or a limit takes for equal are not. A tie that falls to the longest one, or to the
    last, is a second reward that nobody chose.
    """
    texts = ["x" * (1 + index) for index in range(len(row))]  # the reward of a completion stands at its length
    reward = lambda conversation: row[len(conversation[-1]["content"]) - 1]  # noqa: E731
    (selection,) = run_round([[{"role": "user", "content": "?"}]], lambda *_: list(texts), reward, len(row), 0)
    trained = selection.conversation and selection.conversation[-1]["content"]
    expected = texts[row.index(max(row))]
    yield row, trained == expected, f"expected {expected!r}, trained {trained!r}"


@must(seam="rejection_sample", laws="BN-SFT", floor=20, given=jobs, examples=examples)
def more_completions_than_were_asked_for_are_no_candidates(run_round, count, n, seed, prefill, lost):
    """A sampler that returns more than n completions is refused, or cut to n: best of 2n is not best of n."""
    prompts = numbered_prompts(count, prefill)
    try:
        selections = list(run_round(prompts, lambda *asked: sample_numbers(*asked) * 2, reward_of, n, seed))
    except Exception as error:
        yield prompts, True, f"refused: {error}"
        return
    for selection in selections:
        yield (
            prompts,
            len(selection.candidates) <= n,
            f"{counted(len(selection.candidates), 'candidate')} where {n} were asked for",
        )


@must(seam="rejection_sample", laws="BN-ALIGN", floor=20, given=jobs, examples=examples)
def a_prompt_without_a_message_keeps_its_place(run_round, count, n, seed, prefill, lost):
    """A prompt without a message is refused, or has a selection in its place."""
    prompts = [[], *numbered_prompts(count, prefill)]
    try:
        places = [selection.index for selection in run_round(prompts, sample_numbers, reward_of, n, seed)]
    except Exception as error:
        yield prompts, True, f"refused: {error}"
    else:
        yield prompts, places == list(range(count + 1)), f"selections of {places}"
