"""Attention that leaks between packed examples: the training loss flatters, and the model is asked alone."""

from __future__ import annotations

import random
from typing import Any

from sftspec.collation import collate
from sftspec.conformance.breakit import Chart, Outcome, above, below, experiment
from sftspec.conformance.breakit.classroom import LETTERS, encoded, make_model, planted, teach, tokenizer
from sftspec.conversation import Conversation
from sftspec.trainer import Pipeline, epoch_order

STEPS, ROWS, SEGMENTS = 300, 4, 8
QUESTIONS = 8
SHARES = (0.7, 0.1, 0.1, 0.1)


def documents(seed: int, count: int, part: int = 0) -> list[Conversation]:
    """Eight conversations from each of `count` sources, side by side.

    A source is asked one letter, eight times, and answers with the letter that belongs to it or, in three sources of
    ten, with one of the next three. That is 0.94 nats, H(0.7, 0.1, 0.1, 0.1), which nobody can know from the question
    and every neighbour gives away.
    """
    answers, generator = random.Random(seed).sample(LETTERS, QUESTIONS), random.Random(f"{seed}/{part}")
    talks = []
    for _ in range(count):
        letter = generator.randrange(QUESTIONS)
        said = answers[(letter + generator.choices(range(4), SHARES)[0]) % QUESTIONS]
        messages = [{"role": "user", "content": LETTERS[letter]}, {"role": "assistant", "content": said}]
        talks += [Conversation(messages) for _ in range(SEGMENTS)]
    return talks


def shuffled(talks: list[Conversation], seed: int) -> list[Conversation]:
    return [talks[index] for index in epoch_order(len(talks), seed, 1)]


def as_written(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the file: neighbours in it are neighbours in a pack."""
    return list(range(count))


def losses(seed: int, related: bool, leak: bool) -> tuple[float, float]:
    """Nats per target: over the last quarter of the training, and alone on other conversations."""
    talks = documents(seed, STEPS * ROWS)
    pipeline = planted("packing/plain-causal-attention") if leak else Pipeline()
    object.__setattr__(pipeline, "order", as_written)
    model = make_model(seed, positions=256)
    job = teach(
        model,
        pipeline,
        talks if related else shuffled(talks, seed),
        packing=True,
        max_length=SEGMENTS * len(encoded(talks[0])),
        batch_size=ROWS,
    )
    return mean(job.reported["losses"][-STEPS // 4 :]), alone(model, documents(seed, 256, part=1)[::SEGMENTS])


def alone(model: Any, talks: list[Conversation]) -> float:
    batch = collate([encoded(talk) for talk in talks], pad_token_id=tokenizer().pad_token_id)
    model.set_attn_implementation("sdpa")
    return Pipeline().evaluate(model, [batch])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@experiment(caught_by="packing/examples-do-not-see-each-other", mutant="packing/plain-causal-attention")
def packs_leak(seed: int) -> Outcome:
    """Packed examples attend to each other: where neighbours are related, the training loss flatters.

    The inflated number needs related neighbours (data that is not shuffled, one source, near-duplicates). With shuffled
    data the leak costs optimisation instead: both losses are worse. trl#1230, LLaMA-Factory#4224. (Llama-2 packs, but
    does not say that it isolates: do not cite it for block-diagonal attention.)
    """
    seen = {
        (data, attention): losses(seed, data == "related", attention == "leak")
        for data in ("related", "shuffled")
        for attention in ("isolated", "leak")
    }
    block, leak = seen["related", "isolated"], seen["related", "leak"]
    mixed, mixed_leak = seen["shuffled", "isolated"], seen["shuffled", "leak"]
    return Outcome(
        f"Among related neighbours the leak trains down to {leak[0]:.3f} nats a target (isolated {block[0]:.3f}), and"
        f" asked alone the model pays {leak[1]:.3f} (isolated {block[1]:.3f}): a gap of {leak[1] - leak[0]:+.2f}"
        f" against {block[1] - block[0]:+.2f}. Among shuffled neighbours the leak is worse in training "
        f"({mixed_leak[0]:.3f}, isolated {mixed[0]:.3f}) and alone ({mixed_leak[1]:.3f}, isolated {mixed[1]:.3f}).",
        (
            below("training loss, related, leak", leak[0], block[0] / 2),
            above("gap from training to alone, related, leak", leak[1] - leak[0], 0.1),
            above("loss alone, related, leak minus isolated: no better", leak[1] - block[1], -0.02),
            above("training loss, shuffled, leak minus isolated", mixed_leak[0] - mixed[0], 0.0),
            above("loss alone, shuffled, leak minus isolated", mixed_leak[1] - mixed[1], 0.0),
        ),
        tuple(
            Chart(
                "",
                f"nats per target, {data} neighbours",
                {
                    name: list(zip(("in training", "alone"), seen[data, name], strict=True))
                    for name in ("isolated", "leak")
                },
            )
            for data in ("related", "shuffled")
        ),
    )
