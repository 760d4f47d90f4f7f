"""What trainers may legitimately choose. A trainer declares it, and is then checked as declared.

This module needs the standard library alone: a trainer imports it in its own process, where nothing else of sftspec has
to be installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sftspec.spans import WRITTEN_KINDS

TOLD = "weights"  # what a function gave to the conversations of a job stands beside its reports under this name
DENOMINATORS = ("targets", "conversations", "sum", "count")


@dataclass(frozen=True)
class Conventions:
    """What trainers may legitimately choose, declared by an adapter and then checked as declared.

    end_of_turn     train the token that ends an assistant turn
    separator       train what follows it inside the turn (ChatML: the newline)
    header          train the assistant's header
    special_tokens  control strings inside contents: "parse" or "literal"
    tokenization    "whole" text between control tokens; "answers" and what stands between them apart, as at inference;
                    or "segmented" by spans
    pad             id with which rows are filled up; None: the tokenizer's
    final_separator what follows a turn follows the last one too, as templates of ChatML render it; False: a
                    conversation ends with its end-of-turn token
    denominator     what the summed loss of an optimizer step is divided by: the number of its "targets"; the targets of
                    each conversation and then the number of "conversations", a mean of their means; 1, which leaves a
                    "sum"; or a number. Where messages weigh unlike, "targets" are as many as they weigh together, and
                    their "count" is their number all the same
    auxiliary       the name of a loss beside the cross-entropy ("z-loss", "router"): its gradient is not known, so what
                    takes the cross-entropy to be all of the loss is not measured
    weights         a function of a conversation: the weight of all its targets, or a list with one for each message.
                    Any finite number; 0 takes a message out. Without it a message weighs its `weight`, or 1

    >>> sorted(Conventions(separator=True).trained_kinds() - Conventions().trained_kinds())
    ['separator']
    """

    end_of_turn: bool = True
    separator: bool = False
    header: bool = False
    special_tokens: str = "parse"
    tokenization: str = "whole"
    pad: int | None = None
    final_separator: bool = True
    denominator: str | float = "targets"
    auxiliary: str = ""
    weights: Callable[[Any], Any] | str = ""  # a name: of a function that is known elsewhere

    def __post_init__(self) -> None:
        """Raise ValueError for a denominator, or weights, that are none."""
        if not (callable(self.weights) or isinstance(self.weights, str)):
            raise ValueError(f"weights is {self.weights!r:.80}; give a function of a conversation")
        chosen = self.denominator
        number = None if isinstance(chosen, (str, bool)) else chosen
        if not (chosen in DENOMINATORS if number is None else number > 0):
            raise ValueError(f"denominator is {chosen!r}; known: {', '.join(DENOMINATORS)}, or a number above 0")

    def said(self) -> dict[str, Any]:
        """The choices by name, as plain JSON holds them: a function by its name.

        >>> Conventions(weights=len).said()["weights"]
        'len'
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        name = getattr(self.weights, "__name__", type(self.weights).__name__)
        return found | {"weights": self.weights if isinstance(self.weights, str) else name}

    def weights_for(self, conversations: Sequence[Any]) -> list[list[float]] | None:
        """What the function gives to each message of each conversation; None where there is no function here.

        Raises ValueError where it gives neither a number nor one for each message.

        >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
        >>> Conventions(weights=lambda conversation: 0.5).weights_for([talk])
        [[0.5, 0.5]]
        """
        if not callable(self.weights):
            return None
        found = []
        for number, conversation in enumerate(conversations):
            given = self.weights(conversation)
            listed = [given] * len(conversation) if isinstance(given, (int, float)) else given
            if (
                not isinstance(listed, (list, tuple))
                or len(listed) != len(conversation)
                or not all(map(is_weight, listed))
            ):
                raise ValueError(
                    f"weights gives {given!r:.80} to conversation {number}, whose length is {len(conversation)};"
                    " give a number, or a list of one for each message"
                )
            found.append([float(weight) for weight in listed])
        return found

    def divisor(self, targets: float) -> float:
        """What the summed loss of a step with so many targets is divided by; of "conversations", on average.

        >>> Conventions().divisor(100), Conventions(denominator="sum").divisor(100)
        (100, 1.0)
        """
        if isinstance(self.denominator, str):
            return 1.0 if self.denominator == "sum" else targets
        return self.denominator

    def trained_kinds(self) -> frozenset[str]:
        chosen = {"end_of_turn": self.end_of_turn, "separator": self.separator, "header": self.header}
        return WRITTEN_KINDS | {kind for kind, train in chosen.items() if train}


def is_weight(value: Any) -> bool:
    """A finite number.

    >>> is_weight(-0.5), is_weight(True), is_weight(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
