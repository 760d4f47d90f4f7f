"""Rejection sampling: sample N completions a prompt, score them as whole conversations, fine-tune on the best.

The rule. What a prompt yields is a function of that prompt, its index, the seed and the model, and of nothing else: the
other prompts, their number, the batch and what ran before do not enter. So a run can stop after any prompt and resume.
The reward function is given the whole conversation as messages (system, tools, earlier turns and the prefilled start
of the answer included) and renders it with its own template and tokenizer; ids of the policy never reach it. A prompt
that yields nothing to train on is skipped and counted.

Why pipelines get it wrong: `repeat` instead of `repeat_interleave` pairs completions with another prompt as soon as
there are two (R1-V#67); one seed for all samples gives N identical ones; the reward sees the completion without its
context (ms-swift#10205) or without its prefill (trl#6966), or the policy's ids (trl#1979).

Source: Llama-2 §3.2.3 (arXiv:2307.09288): K samples per prompt, the best by the reward model, fine-tuning on the best,
and again from the new policy. Laws BN-ALIGN, BN-SFT; bugs B-01, B-04, B-11, B-16, B-18, B-19.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sftspec.conversation import Conversation
from sftspec.counted import counted
from sftspec.selection import UNRANKED, best_of_n

Sample = Callable[[Sequence[Mapping], int, int], Sequence[str]]
"""(prompt, n, seed) -> n completions of the prompt; a completion that failed is left out."""

Reward = Callable[[Conversation], float | None]
"""whole conversation -> its reward, larger is better; None or NaN where there is none."""


@dataclass(frozen=True)
class Selection:
    """What one prompt yielded: its candidates as whole conversations, in the order of sampling, and the best of them.

    index     place of the prompt among all prompts
    rewards   one for each candidate, None where the reward function gave none (or NaN)
    winner    index of the best candidate, UNRANKED when the prompt is skipped
    """

    index: int
    candidates: tuple[Conversation, ...]
    rewards: tuple[float | None, ...]
    winner: int

    @property
    def conversation(self) -> Conversation | None:
        """The conversation to train on; None when the prompt is skipped."""
        return None if self.skipped else self.candidates[self.winner]

    @property
    def reward(self) -> float | None:
        """The winner's reward; None when the prompt is skipped."""
        return None if self.skipped else self.rewards[self.winner]

    @property
    def skipped(self) -> str:
        """Why there is nothing to train on ("" when there is)."""
        if self.winner != UNRANKED:
            return ""
        return "no candidate has a reward" if self.candidates else "no completion was sampled"

    @property
    def distinct(self) -> int:
        """How many candidates differ: 1 of N means that nothing was selected (greedy decoding, one seed for all)."""
        return len({candidate[-1]["content"] for candidate in self.candidates})


@dataclass(frozen=True)
class Round:
    """One round over all prompts, with everything that was kept and everything that was not."""

    selections: tuple[Selection, ...]

    @property
    def conversations(self) -> list[Conversation]:
        """The fine-tuning set: one conversation for each prompt that was not skipped, in the order of the prompts."""
        return [selection.conversation for selection in self.selections if selection.conversation is not None]

    @property
    def skipped(self) -> Counter[str]:
        """Number of skipped prompts by reason."""
        return Counter(selection.skipped for selection in self.selections if selection.skipped)

    @property
    def sampled_reward(self) -> float:
        """Mean reward of all candidates that have one: an estimate of the policy's own reward."""
        return _mean([reward for selection in self.selections for reward in selection.rewards if reward is not None])

    @property
    def selected_reward(self) -> float:
        """Mean reward of the winners: an estimate of best-of-N."""
        return _mean([selection.reward for selection in self.selections if selection.reward is not None])


def _mean(rewards: list[float]) -> float:
    return sum(rewards) / len(rewards) if rewards else float("nan")


def derived_seed(seed: int, kind: str, index: int) -> int:
    """The seed of one prompt or one round: 32 bits, which every library's seeding takes; equal on every machine.

    >>> derived_seed(0, "prompt", 1)  # sha256 of "0/prompt/1" begins with these four bytes
    2907128439
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{kind}/{index}".encode()).digest()[:4], "big")


def answer(prompt: Sequence[Mapping], completion: str) -> Conversation:
    """The prompt and the completion as the assistant's message; a prefilled assistant message is continued.

    >>> list(answer([{"role": "assistant", "content": "1 + 1 = "}], "2"))
    [{'role': 'assistant', 'content': '1 + 1 = 2'}]
    """
    *context, last = prompt
    if last["role"] == "assistant":
        return Conversation([*context, {**last, "content": last["content"] + completion}], *_origin(prompt))
    return Conversation([*prompt, {"role": "assistant", "content": completion}], *_origin(prompt))


def _origin(prompt: Sequence[Mapping]) -> tuple:
    return getattr(prompt, "source", ""), getattr(prompt, "tools", None)


def select(index: int, prompt: Sequence[Mapping], sample: Sample, reward: Reward, n: int, seed: int) -> Selection:
    """Best of n for one prompt. Raises ValueError for an empty prompt and for more than n completions.

    >>> prompt = [{"role": "user", "content": "1 + 1"}]
    >>> sample = lambda prompt, n, seed: ["3", "2"][:n]
    >>> reward = lambda conversation: float(conversation[-1]["content"] == "2")
    >>> selection = select(0, prompt, sample, reward, n=2, seed=0)
    >>> selection.winner, selection.rewards
    (1, (0.0, 1.0))
    """
    if not prompt:
        raise ValueError(f"prompt {index} has no message: remove it")
    # Of the seed and the prompt's own index alone: a run that resumes samples the same.
    completions = sample(prompt, n, derived_seed(seed, "prompt", index))
    if isinstance(completions, str) or len(completions) > n:
        raise ValueError(f"prompt {index}: expected at most {counted(n, 'completion')}, got {completions!r:.80}")
    # BN-ALIGN: a candidate carries the prompt that it answers.
    candidates = tuple(answer(prompt, completion) for completion in completions)
    # The whole conversation is scored, as messages: the reward model has a template of its own.
    rewards = tuple(_number(reward(candidate)) for candidate in candidates)
    winner = int(best_of_n([rewards], on_unranked="skip")[0]) if candidates else UNRANKED
    return Selection(index, candidates, rewards, winner)


def _number(reward: float | None) -> float | None:
    return None if reward is None or reward != reward else float(reward)


def rejection_sample(
    prompts: Sequence[Sequence[Mapping]], sample: Sample, reward: Reward, n: int, seed: int = 0, start: int = 0
) -> Iterator[Selection]:
    """Best of n of each prompt, one Selection at a time, so that each can be written down before the next is sampled.

    prompts   conversations up to where the assistant is to answer (or to continue its prefilled message)
    start     how many prompts an interrupted run has already done; the others come out as they would have without it

    Raises ValueError for n < 1, an empty prompt, more completions than were asked for.

    >>> prompt = [{"role": "user", "content": "1 + 1"}]
    >>> sample = lambda prompt, n, seed: ["3", "2"][:n]
    >>> reward = lambda conversation: float(conversation[-1]["content"] == "2")
    >>> [selection.conversation[-1]["content"] for selection in rejection_sample([prompt, prompt], sample, reward, n=2)]
    ['2', '2']
    """
    if n < 1:
        raise ValueError(f"n = {n}: sample at least one completion a prompt")
    for index in range(start, len(prompts)):
        yield select(index, prompts[index], sample, reward, n, seed)


def rejection_sampling_round(
    prompts: Sequence[Sequence[Mapping]],
    sample: Sample,
    reward: Reward,
    fine_tune: Callable[[list[Conversation]], None],
    n: int,
    rounds: int = 1,
    seed: int = 0,
) -> list[Round]:
    """Llama-2's loop: sample n a prompt, keep the best, fine-tune the policy on them, and again from the new policy.

    fine_tune   trains, in place, the policy that `sample` samples from; it is given the round's fine-tuning set
    rounds      each has a seed of its own. Later rounds of Llama-2 trained on the best samples of the earlier rounds
                as well: a fine_tune that keeps what it was given does the same

    Returns one Round per round, sampled before its fine-tuning: `rounds[k + 1].sampled_reward` shows what fine-tuning
    on round k gained. Raises ValueError when a round leaves nothing to train on.

    >>> prompt = [{"role": "user", "content": "1 + 1"}]
    >>> sample = lambda prompt, n, seed: ["3", "2"][:n]
    >>> reward = lambda conversation: float(conversation[-1]["content"] == "2")
    >>> trained = []
    >>> (done,) = rejection_sampling_round([prompt], sample, reward, trained.extend, n=2)
    >>> done.sampled_reward, done.selected_reward, len(trained)
    (0.5, 1.0, 1)
    """
    done = []
    for number in range(rounds):
        done.append(Round(tuple(rejection_sample(prompts, sample, reward, n, derived_seed(seed, "round", number)))))
        # BN-SFT: the winners, once each; a round without one is no fine-tuning set.
        if not done[-1].conversations:
            raise ValueError(f"round {number} leaves nothing to train on: {dict(done[-1].skipped)}")
        fine_tune(done[-1].conversations)
    return done
