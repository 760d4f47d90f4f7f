"""Another text at inference than in training: the model knows every answer, and is asked in a way it does not know.

The dictionary again, with a second letter in the way: the system message holds one too, before or after the user's, so
that the model has to read who said what.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sftspec.conformance.breakit import Chart, Outcome, above, below, experiment
from sftspec.conformance.breakit.classroom import (
    END_OF_TURN,
    LETTERS,
    control,
    dictionary,
    encoded,
    make_model,
    nats_per_token,
    teach,
    tokenizer,
    write_on,
)
from sftspec.conversation import Conversation
from sftspec.masking import encode
from sftspec.trainer import Pipeline

STEPS = 325
PREFIX = "<|begin_of_text|>"


def question(letter: str, other: str, user_first: bool) -> list[dict]:
    messages = [{"role": "system", "content": other}, {"role": "user", "content": letter}]
    return messages[::-1] if user_first else messages


def lessons(seed: int) -> list[Conversation]:
    words, generator = dictionary(seed), random.Random(seed + 1)
    talks = []
    for _ in range(32 * STEPS):
        letter, other = generator.choices(LETTERS, k=2)
        asked = question(letter, other, generator.random() < 0.5)
        talks.append(Conversation([*asked, {"role": "assistant", "content": words[letter]}]))
    return talks


def as_trained(messages: list[dict], generation_prompt: bool = True) -> list[int]:
    return encoded(messages, add_generation_prompt=generation_prompt).input_ids


def roles_swapped(messages: list[dict]) -> list[int]:
    other = {"system": "user", "user": "system"}
    return as_trained([{**message, "role": other[message["role"]]} for message in messages])


def other_template(messages: list[dict]) -> list[int]:
    return encode(messages, template="chatml/openai", tokenizer=tokenizer(), add_generation_prompt=True).input_ids


def without_end(messages: list[dict]) -> list[int]:
    return [token for token in as_trained(messages) if token != control(END_OF_TURN)]


VARIANTS: dict[str, Callable[[list[dict]], list[int]]] = {
    "as trained": as_trained,
    "no generation prompt": lambda messages: as_trained(messages, generation_prompt=False),
    "BOS twice": lambda messages: [control(PREFIX), *as_trained(messages)],
    "no BOS": lambda messages: as_trained(messages)[1:],
    "turns not ended": without_end,
    "another family's template": other_template,
    "roles swapped": roles_swapped,
}


def right_answers(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> float:
    written = write_on(model, prompts, max(map(len, answers)))
    return sum(ids[: len(answer)] == answer for ids, answer in zip(written, answers, strict=True)) / len(answers)


@experiment(caught_by="template/the-prompt-at-inference-opens-the-trained-tokens")
def wrong_template(seed: int) -> Outcome:
    """The prompt at inference is not rendered as in training: a model that knows every answer gives few or none.

    Nothing is wrong with the weights, and no loss shows it. Rows that shift every position (BOS) hurt a model with
    learned positions most; with rotary positions they do less. Swapped roles hurt where the answer depends on who
    spoke, as it does here. trl#3328, OpenRLHF#393, search-and-learn#23.
    """
    model, words = make_model(seed), dictionary(seed)
    teach(model, Pipeline(), lessons(seed))
    generator = random.Random(seed + 2)
    asked = [
        question(letter, generator.choice(LETTERS.replace(letter, "")), first)
        for letter in LETTERS
        for first in (False, True)
    ]
    answers = [[*tokenizer().encode(words[letter]), control(END_OF_TURN)] for letter in LETTERS for _ in range(2)]
    nats, right = {}, {}
    for name, render in VARIANTS.items():
        prompts = [render(messages) for messages in asked]
        costs = [nats_per_token(model, ids, answer) for ids, answer in zip(prompts, answers, strict=True)]
        nats[name], right[name] = sum(costs) / len(costs), right_answers(model, prompts, answers)
    known, *wrong = VARIANTS
    listed = ", ".join(f"{name} {nats[name]:.2g} nats, {right[name]:.0%}" for name in wrong)
    return Outcome(
        f"Asked as it was taught, the model pays {nats[known]:.2g} nats a token and answers {right[known]:.0%} of the"
        f" questions. Asked otherwise: {listed}.",
        (
            above("right answers, as trained", right[known], 0.95),
            *(above(f"nats a token, {name}", nats[name], 10 * nats[known]) for name in wrong),
            *(below(f"right answers, {name}", right[name], 0.9) for name in wrong),
        ),
        (
            Chart("", "nats per answer token", {"nats": list(nats.items())}),
            Chart("", "share of right answers", {"right": list(right.items())}),
        ),
    )
