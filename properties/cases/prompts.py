"""Rejection-sampling cases: prompts, completions that say which prompt they answer, and rewards of every kind.

The policy is a function of prompt and seed, and the reward reads a number off the completion, so that every pairing and
every loss shows in the conversations that come out.
"""

from __future__ import annotations

import math
import random
import re

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
        earlier = [
            {"role": "user", "content": "before"},
            {"role": "assistant", "content": "then", "train": False, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "so"},
        ]
        prompt = [{"role": "system", "content": f"rules {index}"}, *earlier * (1 + index % 2 * 4)]
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
    kinds = [float, np.float32, torch.tensor, *[int] * math.isfinite(reward), *[bool] * (reward in (0, 1))]
    return kinds[-1 - number // 5 % len(kinds)](reward)
