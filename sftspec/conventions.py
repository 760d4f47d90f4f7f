"""What trainers may legitimately choose. A trainer declares it, and is then checked as declared.

This module needs the standard library alone: a trainer imports it in its own process, where nothing else of sftspec has
to be installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sftspec.spans import WRITTEN_KINDS


@dataclass(frozen=True)
class Conventions:
    """What trainers may legitimately choose, declared by an adapter and then checked as declared.

    end_of_turn     train the token that ends an assistant turn
    separator       train what follows it inside the turn (ChatML: the newline)
    final_separator it follows the last turn too, as templates of ChatML render it; False: a conversation ends with its
                    end-of-turn token
    header          train the assistant's header
    special_tokens  control strings inside contents: "parse" or "literal"
    tokenization    "whole" text between control tokens; "answers" and what stands between them apart, as at inference;
                    or "segmented" by spans
    pad             id with which rows are filled up; None: the tokenizer's
    """

    end_of_turn: bool = True
    separator: bool = False
    final_separator: bool = True
    header: bool = False
    special_tokens: str = "parse"
    tokenization: str = "whole"
    pad: int | None = None

    def trained_kinds(self) -> frozenset[str]:
        chosen = {"end_of_turn": self.end_of_turn, "separator": self.separator, "header": self.header}
        return WRITTEN_KINDS | {kind for kind, train in chosen.items() if train}
