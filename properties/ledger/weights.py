"""What messages weigh in the loss, as the data or the trainer's conventions say, and what each target then weighs.

The loss of a step is sum(w l) / D, with the weight w of the message in which a target stands. D is what the conventions
call the denominator: as many targets as they weigh together (MK-WEIGHT), their count, a mean over conversations of
their weighted means, 1, or a constant. A message of weight 0 is not trained.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from sftspec.conventions import TOLD
from sftspec.conversation import Conversation
from sftspec.job import Job


def weights_of(job: Job) -> list[list[float]]:
    """The weight of each message of each conversation."""
    told = job.reported.get(TOLD)
    return [[float(item.get("weight", 1.0)) for item in talk] for talk in job.conversations] if told is None else told


def as_trained(conversation: Conversation, weights: list[float]) -> Conversation:
    """A conversation that says with `train` alone what is trained."""
    if all(weight == 1.0 for weight in weights) and not any("weight" in message for message in conversation):
        return conversation
    messages = [{key: value for key, value in message.items() if key != "weight"} for message in conversation]
    for message, weight in zip(messages, weights, strict=True):
        if not weight:
            message["train"] = False
    return Conversation(
        messages, conversation.source, conversation.tools, conversation.template_arguments, conversation.remarks
    )


def weight_of_target(run: Any, row: Any) -> float:
    """The weight of the message in which the target of a position stands; 1 where it stands in none."""
    message = message_of(run, row)
    return run.weights[row.example][message] if message >= 0 else 1.0


def message_of(run: Any, row: Any) -> int:
    """The message in which the token after a position stands, in its own conversation; -1: in none."""
    if row.example < 0 or row.offset + 1 >= len(run.streams[row.example]):
        return -1
    stream = run.streams[row.example]
    return stream.rendered.spans[stream.owners[row.offset + 1]].message


def shares_of(run: Any, rows: list[Any]) -> list[float]:
    """The weight over the declared denominator of each target of a step; a conversation in two rows counts for two."""
    weights, chosen = [weight_of_target(run, row) for row in rows], run.conventions.denominator
    if chosen == "conversations":
        totals: dict[tuple[int, int, int], float] = defaultdict(float)
        for row, weight in zip(rows, weights, strict=True):
            totals[row.forward, row.row, row.example] += weight
        count = sum(bool(total) for total in totals.values())
        return [
            weight / (count * (totals[row.forward, row.row, row.example] or 1.0))
            for row, weight in zip(rows, weights, strict=True)
        ]
    divisor = run.conventions.divisor(math.fsum(weights) if chosen == "targets" else len(rows)) or 1.0
    return [weight / divisor for weight in weights]
