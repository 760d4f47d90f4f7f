"""Rejection sampling that went wrong: what is sampled, scored or trained is not what the prompt asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.conversation import Conversation
from sftspec.rejection_sampling import Selection, rejection_sample, select


def sampling(change: Callable[..., tuple]) -> Parts:
    """The reference with other arguments of a round: change(prompts, sample, reward) -> the three of them."""

    def sample_best(prompts, sample, reward, n, seed=0, start=0):
        prompts, sample, reward = change(prompts, sample, reward, seed)
        return rejection_sample(prompts, sample, reward, n, seed, start)

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("a-candidate-answers-its-own-prompt")
@seen_in("B-01: dllm-reasoning/d1#19")
@effect("answers other questions", fix="keep prompt and completion together")
def completions_of_the_next_prompt():
    """Each prompt is given the completions of the next one."""

    def change(prompts, sample, reward, seed):
        following = {id(prompt): prompts[(index + 1) % len(prompts)] for index, prompt in enumerate(prompts)}
        return prompts, lambda prompt, n, s: sample(following[id(prompt)], n, s), reward

    return sampling(change)


@killed_by("a-candidate-answers-its-own-prompt")
@seen_in("B-19: huggingface/trl#6072")
@effect("answers one question only", fix="the prompt of the loop, not prompts[0]")
def first_prompt_for_all():
    """Every completion is sampled for the first prompt."""
    return sampling(lambda prompts, sample, reward, _: (prompts, lambda p, n, s: sample(prompts[0], n, s), reward))


@killed_by("the-reward-function-is-given-whole-candidates")
@seen_in("B-11: modelscope/ms-swift#10205")
@effect("judged without the question", fix="score the whole conversation")
def reward_sees_the_completion_only():
    """The reward function is given the answer without what it answers."""
    return sampling(lambda prompts, sample, reward, _: (prompts, sample, lambda talk: reward(talk[-1:])))


@killed_by("the-reward-function-is-given-whole-candidates")
@seen_in("B-11: subtle form of modelscope/ms-swift#10205, the system prompt alone")
@effect("rules are not rewarded", fix="score the whole conversation")
def reward_sees_no_system():
    """The reward function is given the conversation without its system message."""
    return sampling(
        lambda prompts, sample, reward, _: (
            prompts,
            sample,
            lambda talk: reward([item for item in talk if item["role"] != "system"]),
        )
    )


@killed_by("the-reward-function-is-given-whole-candidates")
@seen_in("B-18: huggingface/trl#6966")
@effect("a format that is there is never rewarded", fix="score prefill and completion together")
def reward_sees_no_prefill():
    """The reward function is given the answer without the start that was prefilled."""

    def change(prompts, sample, reward, seed):
        prefill = {prompt[-1]["content"] for prompt in prompts if prompt[-1]["role"] == "assistant"}

        def blind(talk):
            text = talk[-1]["content"]
            for start in prefill:
                text = text.removeprefix(start)
            return reward([*talk[:-1], {**talk[-1], "content": text}])

        return prompts, sample, blind

    return sampling(change)


@killed_by("a-candidate-is-its-whole-prompt-and-a-completion")
@seen_in("B-18: subtle form of huggingface/trl#6966, the training side")
@effect("begins answers in their middle", fix="train prefill and completion together")
def prefill_not_trained():
    """The start that was prefilled is missing in what is trained."""

    def change(prompts, sample, reward, seed):
        return [[item for item in p if item["role"] != "assistant"] for p in prompts], sample, reward

    return sampling(change)


@killed_by("a-candidate-is-its-whole-prompt-and-a-completion")
@seen_in("B-11: subtle form of modelscope/ms-swift#10205, messages made anew from role and content")
@effect("earlier answers are trained, calls are forgotten", fix="keep messages as they are")
def other_fields_of_the_context_lost():
    """Messages of the prompt keep their role and content, and lose their calls, thoughts and train flags."""

    def bare(prompt):
        kept = [{key: message[key] for key in ("role", "content")} for message in prompt]
        return Conversation(kept, prompt.source, prompt.tools)

    return sampling(lambda prompts, sample, reward, _: ([bare(prompt) for prompt in prompts], sample, reward))


@killed_by("rewards-are-kept-as-they-were-given")
@seen_in("no report known: `if not reward`, for checks that pass or fail")
@effect("prompts that always fail are not counted as such", fix="only None and NaN are no reward")
def failed_check_is_no_reward():
    """A reward function that returns False has given none."""

    def blind(reward):
        return lambda talk: None if (found := reward(talk)) is False else found

    return sampling(lambda prompts, sample, reward, _: (prompts, sample, blind(reward)))


@killed_by("rewards-are-kept-as-they-were-given")
@seen_in("no report known: isinstance(reward, (int, float))")
@effect("prompts that a reward model scored are skipped", fix="only None and NaN are no reward")
def scalars_are_no_reward():
    """A reward that is a scalar of NumPy or PyTorch, what a reward model returns, counts as none."""

    def plain(reward):
        return lambda talk: found if isinstance(found := reward(talk), (int, float)) else None

    return sampling(lambda prompts, sample, reward, _: (prompts, sample, plain(reward)))


@killed_by("an-error-of-the-sampler-or-the-reward-is-raised")
@seen_in("no report known: `except Exception: return None`")
@effect("what was sampled while the server was down is lost", fix="let it through, and resume")
def errors_are_missing_rewards():
    """An exception of the reward function is taken for a missing reward, and the prompt is skipped."""

    def careless(reward):
        def score(talk):
            with suppress(Exception):
                return reward(talk)

        return score

    return sampling(lambda prompts, sample, reward, _: (prompts, sample, careless(reward)))


@killed_by("every-completion-is-a-candidate-to-the-letter")
@seen_in("no report known: a decoder that skips special tokens and strips")
@effect("never learns to end, or to stay silent", fix="train what was sampled")
def completions_tidied_up():
    """Completions lose their blanks and control tokens, and those that are empty then are left out."""

    def tidy(texts):
        return [text for text in (text.replace("<|im_end|>", "").rstrip() for text in texts) if text]

    return sampling(lambda prompts, sample, reward, _: (prompts, lambda p, n, s: tidy(sample(p, n, s)), reward))


@killed_by("a-selection-comes-before-the-next-prompt-is-sampled")
@seen_in("no report known: pipelines that write at their end")
@effect("a run that is stopped is lost", fix="yield each selection")
def all_prompts_sampled_first():
    """All prompts are sampled before the first selection comes out."""
    return broken("best_of_n", rejection_sample=lambda *arguments: iter(list(rejection_sample(*arguments))))


@killed_by("every-sample-is-drawn-for-itself")
@seen_in("B-16: simplescaling/s1#97")
@effect("equal prompts have equal samples", fix="a seed for each prompt")
def one_seed_for_all_prompts():
    """Every prompt is sampled with the seed of the run."""
    return sampling(lambda prompts, sample, reward, seed: (prompts, lambda p, n, _: sample(p, n, seed), reward))


@killed_by("every-sample-is-drawn-for-itself")
@seen_in("B-16: Blaizzy/mlx-vlm#1844")
@effect("nothing is selected", fix="sample, with a seed for each draw")
def one_sample_n_times():
    """The n samples of a prompt are one sample, n times (a cache, or greedy decoding)."""
    return sampling(lambda prompts, sample, reward, _: (prompts, lambda p, n, s: sample(p, 1, s) * n, reward))


@killed_by("every-sample-is-drawn-for-itself")
@seen_in("B-16: subtle form of simplescaling/s1#97, num_return_sequences cut to what fits")
@effect("best of 64 is best of 8", fix="a seed for each call")
def calls_of_eight_with_one_seed():
    """More than eight samples of a prompt are drawn in calls of eight, each with the prompt's seed."""

    def in_calls(sample):
        return lambda prompt, n, s: [text for at in range(0, n, 8) for text in sample(prompt, min(8, n - at), s)]

    return sampling(lambda prompts, sample, reward, _: (prompts, in_calls(sample), reward))


@killed_by("every-sample-is-drawn-for-itself")
@seen_in("B-16: subtle form of simplescaling/s1#97, enumerate(batch)")
@effect("equal prompts of two batches have equal samples", fix="the number among all prompts")
def seeds_by_the_place_in_a_batch():
    """A prompt's seed is made from its place in its batch of eight."""

    def sample_best(prompts, sample, reward, n, seed=0, start=0):
        for index in range(start, len(prompts)):
            yield replace(select(index % 8, prompts[index], sample, reward, n, seed), index=index)

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("a-resumed-run-goes-on-as-if-it-had-not-stopped")
@seen_in("B-16: subtle form of simplescaling/s1#97, one generator for the run")
@effect("a resumed run is another run", fix="derive the seed from the prompt's number")
def seeds_counted_in_the_order_of_sampling():
    """A prompt's seed is how many prompts were sampled before it, in this process."""

    def change(prompts, sample, reward, seed):
        done = iter(range(10**6))
        return prompts, lambda p, n, _: sample(p, n, seed + next(done)), reward

    return sampling(change)


@killed_by("a-candidate-is-its-whole-prompt-and-a-completion")
@seen_in("no report known: pipelines without a filter")
@effect("trained on bad answers too", fix="keep the best one of each prompt")
def every_candidate_is_trained():
    """All n candidates of a prompt are trained."""

    def sample_best(*arguments):
        for each in rejection_sample(*arguments):
            yield from (Selection(each.index, each.candidates, each.rewards, i) for i in range(len(each.candidates)))

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("the-reward-function-is-given-whole-candidates")
@seen_in("no report known: silent `continue`")
@effect("nobody knows what was not trained", fix="yield the prompt, and say why it is skipped")
def skipped_prompts_vanish():
    """A prompt without a rewarded completion is left out without a word."""
    return broken("best_of_n", rejection_sample=lambda *a: (each for each in rejection_sample(*a) if not each.skipped))


@killed_by("rewards-are-kept-as-they-were-given the-candidate-with-the-largest-reward-is-trained")
@seen_in("no report known: `if not reward`")
@effect("what was judged badly is said not to have been judged", fix="only None and NaN are no reward")
def reward_of_zero_is_none():
    """A reward of 0 counts as none."""
    return sampling(lambda prompts, sample, reward, _: (prompts, sample, lambda talk: reward(talk) or None))


@killed_by("rewards-are-kept-as-they-were-given")
@seen_in("B-09: subtle form of lasso-net/lassonet#20, math.isnan for floats alone")
@effect("what broke is said to have been judged", fix="NaN is what does not equal itself")
def broken_scalars_count():
    """A NaN that is a scalar of NumPy or PyTorch is a very bad reward, and not a missing one."""

    def counted(reward):
        return lambda talk: -1e9 if hasattr(found := reward(talk), "dtype") and found != found else found

    return sampling(lambda prompts, sample, reward, _: (prompts, sample, counted(reward)))


@killed_by("a-candidate-is-its-whole-prompt-and-a-completion")
@seen_in("no report known: a conversation made anew from its messages")
@effect("tools are not in the training text", fix="keep what belongs to the conversation")
def tools_of_the_prompt_lost():
    """Candidates keep the messages and the source of their prompt, and lose its tools."""
    return sampling(
        lambda prompts, sample, reward, _: ([Conversation(prompt, prompt.source) for prompt in prompts], sample, reward)
    )


@killed_by("a-candidate-is-its-whole-prompt-and-a-completion")
@seen_in("no report known: a window of the last messages")
@effect("answers without the question", fix="refuse what is too long")
def last_six_messages():
    """A candidate has the last six messages of its prompt."""
    return sampling(
        lambda prompts, sample, reward, _: (
            [Conversation(prompt[-6:], prompt.source, prompt.tools) for prompt in prompts],
            sample,
            reward,
        )
    )


@killed_by("every-completion-is-a-candidate-to-the-letter")
@seen_in("no report known: a limit on letters")
@effect("never learns to end a long answer", fix="train what was sampled")
def completions_cut_at_512_letters():
    """A completion is cut at 512 letters."""
    return sampling(
        lambda prompts, sample, reward, _: (prompts, lambda p, n, s: [text[:512] for text in sample(p, n, s)], reward)
    )


@killed_by("every-completion-is-a-candidate-to-the-letter")
@seen_in("no report known: a retry that gives up with a placeholder")
@effect("trained on what no policy said", fix="leave out what failed")
def failed_completions_made_up():
    """For each completion that failed a placeholder stands among the candidates."""

    def filled(sample):
        return lambda p, n, s: [*(found := sample(p, n, s)), *[" #23"] * (n - len(found))]

    return sampling(lambda prompts, sample, reward, _: (prompts, filled(sample), reward))


@killed_by("n-completions-are-asked-for")
@seen_in("no report known: num_return_sequences = 1 behind a loop that was lost")
@effect("best of n is best of one", fix="n completions of each prompt")
def one_completion_asked_for():
    """Of each prompt one completion is asked for, whatever n is."""
    return sampling(lambda prompts, sample, reward, _: (prompts, lambda p, n, s: sample(p, 1, s), reward))


@killed_by("a-prompt-without-a-message-keeps-its-place")
@seen_in("no report known: `if prompt`")
@effect("indices point at other prompts", fix="refuse it, or keep its place")
def empty_prompts_left_out():
    """Prompts without a message are left out, so that all that follow move up."""
    return sampling(lambda prompts, sample, reward, _: ([prompt for prompt in prompts if prompt], sample, reward))


@killed_by("another-seed-draws-other-samples")
@seen_in("no report known: a seed that is set in the sampler's own settings")
@effect("runs that are to differ are one run", fix="derive seeds from the run's")
def seed_of_the_run_ignored():
    """The seed of the run is not read."""
    return broken(
        "best_of_n",
        rejection_sample=lambda prompts, sample, reward, n, seed=0, start=0: rejection_sample(
            prompts, sample, reward, n, 0, start
        ),
    )


@killed_by("an-error-of-the-sampler-or-the-reward-is-raised")
@seen_in("no report known: `except TimeoutError: break`")
@effect("what comes after is never sampled", fix="let it through, and resume")
def run_ends_at_a_timeout():
    """A TimeoutError ends the run, as if all prompts were done."""

    def sample_best(*arguments):
        with suppress(TimeoutError):
            yield from rejection_sample(*arguments)

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("a-round-leaves-the-prompts-as-they-are")
@seen_in("no report known: prompt.append(answer), on the prompt itself")
@effect("the next round answers an answer", fix="a conversation of its own")
def answers_appended_to_the_prompts():
    """After the round the last message of each prompt ends in what was trained."""

    def sample_best(prompts, *rest, **options):
        for each in rejection_sample(prompts, *rest, **options):
            yield each
            if each.conversation is not None and prompts[each.index][-1]["role"] == "assistant":
                prompts[each.index][-1]["content"] = each.conversation[-1]["content"]

    return broken("best_of_n", rejection_sample=sample_best)


@killed_by("every-completion-is-a-candidate-to-the-letter")
@seen_in("no report known: a cache of completions by prompt and seed")
@effect("a second round trains the first policy's answers", fix="sample anew in each round")
def completions_kept_for_the_process():
    """Completions are kept by prompt and number, and given again in the next round of the same process."""
    kept: dict = {}

    def change(prompts, sample, reward, seed):
        def cached(prompt, n, s):
            return kept.setdefault((repr(prompt), n, s), sample(prompt, n, s))

        return prompts, cached, reward

    return sampling(change)
