"""Which token ends a turn, read off what a template renders where no named variant declares it.

Rule of this file: nothing is guessed. The end of a turn is the token that the template itself writes after the last
answer. It has to stand after the earlier ones too, unless these end in another token, as gpt-oss's do: then, and where
no token follows an answer, there is nothing to hold the template to, and that is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sftspec import render
from sftspec.spans import TemplateError
from sftspec.templates import Template

ROUNDS = [
    {"role": role, "content": content}
    for role, content in (("user", "Query"), ("assistant", "Reply"), ("user", "Again"), ("assistant", "Final"))
]
TOKEN = re.compile(r"<[^<>\n]+>")


@dataclass(frozen=True)
class TurnEnd:
    """The token that ends an answer ("": none was found, and why)."""

    token: str
    why: str = ""


def turn_end_of(template: Template) -> TurnEnd:
    """What ends an answer of a template."""
    try:
        text = render(ROUNDS, template).text
    except TemplateError as error:
        return TurnEnd("", f"it renders no two rounds: {error}")
    places = [text.find(message["content"]) for message in ROUNDS]
    if -1 in places or sorted(places) != places:
        return TurnEnd("", "it does not render two rounds in their order")
    stops = [place + len(message["content"]) for place, message in zip(places, ROUNDS, strict=True)]
    after_question, after_answer = text[stops[0] : places[1]], text[stops[1] : places[2]]
    known = [token for token in (getattr(template.pieces, "variables", {}).get("eos_token"),) if token]
    last = _tokens(text[stops[3] :], known)
    if len(last) != 1:
        said = f"{' and '.join(last)} follow" if last else "no token follows"
        return TurnEnd("", f"what ends a turn cannot be read off what it renders: {said} its last answer")
    if (earlier := _first(after_answer, known)) != last[0] and earlier == _first(after_question, known):
        return TurnEnd("", f"its last answer ends in {last[0]}, and what ends the others cannot be told apart")
    return TurnEnd(last[0])


def _tokens(text: str, known: list[str]) -> list[str]:
    """The tokens of a text, those of the tokenizer's that are known among them."""
    either = "|".join([*map(re.escape, known), TOKEN.pattern])
    return re.findall(either, text)


def _first(text: str, known: list[str]) -> str:
    return next(iter(_tokens(text, known)), "")


def what_changes(template: Template) -> str:
    """Why a longer conversation does not begin with the shorter one."""
    try:
        shorter, longer = (render(ROUNDS[:number], template).text for number in (2, 4))
    except TemplateError as error:
        return f"it renders no two rounds: {error}"
    place = next((at for at, (one, other) in enumerate(zip(shorter, longer, strict=False)) if one != other), -1)
    if longer.startswith(shorter) or "think" in shorter[max(place - 10, 0) :]:
        return "it rewrites history (thoughts of earlier turns)"
    return f"{shorter[place:]!r:.50} gives way to {longer[place:]!r:.50} when its conversation goes on"


@lru_cache(maxsize=16)
def with_token(tokenizer: Any, token: str) -> Any:
    """The tokenizer, with one more control token."""
    from tokenizers import AddedToken, Tokenizer

    if tokenizer.token_to_id(token) is not None:
        return tokenizer
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    return changed
