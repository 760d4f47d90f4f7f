"""Rejection-sampling cases: prompts, completions that say which prompt they answer, and rewards of every kind.

The policy is a function of prompt and seed, and the reward reads a number off the completion, so that every pairing and
every loss shows in the conversations that come out.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sftspec.conversation import Conversation

INF = math.inf
LONG = " and so on" * 200
ENDINGS = ("", " \n", "<|im_end|>", LONG)  # what a tokenizer or a tidy pipeline may take off a completion


def numbered_prompts(count: int, prefill: str) -> list[Conversation]:
    """Prompts with a source, tools, a system message and earlier turns that call one, one or five of them; every other
    one repeats the first one's words. Messages have more than a role and a content."""
    prompts = []
    for index in range(count):
        words, call = f"question {index * (index % 2)}", {"name": f"tool {index}", "arguments": {}}
        earlier: list[dict[str, Any]] = [
            {"role": "user", "content": "before"},
            {"role": "assistant", "content": "then", "train": False, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "so"},
        ]
        prompt: list[dict[str, Any]] = [{"role": "system", "content": f"rules {index}"}]
        prompt += earlier * (1 + index % 2 * 4)
        prompt += [{"role": "user", "content": words}]
        prompt += [{"role": "assistant", "content": prefill, "reasoning_content": "so far"}] if prefill else []
        prompts.append(Conversation(prompt, f"prompts.jsonl:{index + 1}", [{"name": f"tool {index}"}]))
    return prompts


def sample_numbers(prompt, n, seed, below: int = 10**12):
    """n completions that carry the prompt they answer and a number drawn from the seed; some end in a blank or in a
    control token, and some are long."""
    draw = random.Random(seed)
    question = next(message["content"] for message in reversed(prompt) if message["role"] == "user")
    numbers = [draw.randrange(below) for _ in range(n)]
    return [f" re: {question} #{number}{ENDINGS[number % 4]}" for number in numbers]


def number_of(text: str) -> int:
    """The number that a completion carries; 9 for an empty one."""
    found = re.search(r"#(\d+)", text)
    return int(found[1]) if found else 9


def reward_of(conversation) -> float | None:
    """From -3 to 3, ties and 0 among them, by the number that a completion carries and the rules of its prompt; of five
    numbers one has None, one NaN and one -inf.

    A float, a scalar of NumPy or PyTorch, an int or, where it is 0 or 1, a bool.
    """
    number = number_of(conversation[-1]["content"])
    rules = int(conversation[0]["content"].split()[1]) if conversation[0]["role"] == "system" else 0
    reward = {0: None, 1: math.nan, 2: -INF}.get(number % 5, (number + rules) % 7 - 3.0)
    if reward is None:
        return None
    kinds: list[Callable] = [float, np.float32, torch.tensor]
    kinds += [*[int] * math.isfinite(reward), *[bool] * (reward in (0, 1))]
    return kinds[-1 - number // 5 % len(kinds)](reward)


@dataclass
class Round:
    """What came of a round, and what its sampler and its reward function were asked.

    asked    how many completions of each prompt
    sampled  the completions, prefilled start and all
    seen     (messages, tools) of each conversation that was judged
    """

    prompts: list[Conversation]
    asked: list[int] = field(default_factory=list)
    sampled: list[str] = field(default_factory=list)
    seen: list[tuple[list, Any]] = field(default_factory=list)
    selections: list[Any] = field(default_factory=list)

    @property
    def candidates(self) -> list[Conversation]:
        return [candidate for selection in self.selections for candidate in selection.candidates]


def watched_round(
    run_round: Callable[..., Iterable[Any]], count: int, n: int, seed: int, prefill: str, lost: int = 0
) -> Round:
    """A round on numbered prompts; `lost` completions of each fail, and are left out by the sampler."""
    done = Round(numbered_prompts(count, prefill))

    def sample(prompt, number, its_seed):
        texts = sample_numbers(prompt, number, its_seed, below=40)[: max(0, number - lost)]
        found = [text if number_of(text) % 8 else "" for text in texts]
        done.asked.append(number)
        done.sampled.extend(prefill + text for text in found)
        return found

    def reward(conversation):
        done.seen.append((list(conversation), getattr(conversation, "tools", None)))
        return reward_of(conversation)

    done.selections = list(run_round(done.prompts, sample, reward, n, seed))
    return done


def known(reward: Any) -> float | None:
    """A reward as a number; None where there is none."""
    return None if reward is None or reward != reward else float(reward)
