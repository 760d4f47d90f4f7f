"""What trainers may legitimately choose. A trainer declares it, and is then checked as declared.

This module needs the standard library alone: a trainer imports it in its own process, where nothing else of sftspec has
to be installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sftspec.spans import WRITTEN_KINDS

DENOMINATORS = ("targets", "conversations", "sum")


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
                    "sum"; or a number
    auxiliary       the name of a loss beside the cross-entropy ("z-loss", "router"): its gradient is not known, so what
                    takes the cross-entropy to be all of the loss is not measured

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

    def __post_init__(self) -> None:
        """Raise ValueError for a denominator that is none."""
        chosen = self.denominator
        number = None if isinstance(chosen, (str, bool)) else chosen
        if not (chosen in DENOMINATORS if number is None else number > 0):
            raise ValueError(f"denominator is {chosen!r}; known: {', '.join(DENOMINATORS)}, or a number above 0")

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
