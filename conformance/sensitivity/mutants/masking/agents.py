"""Masks of agents: answers of several parts, of which one is not trained, or what they are given is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import turn_of
from sftspec.masking import Encoded, encode
from sftspec.step import IGNORE
from sftspec.trainer import Pipeline

TRAINED = "an-agents-targets-are-its-trained-answers"
MODELS_OWN = ("content", "reasoning", "tool_call", "generated", "end_of_turn")


class Token(NamedTuple):
    """A token, and what is known of where it stands.

    message  the number of its message (-1: none), and said, the message
    kind     of its span
    number   how many spans of that kind stand before in the message
    """

    message: int
    said: dict
    kind: str
    number: int

    @property
    def calls(self) -> bool:
        return bool(self.said.get("tool_calls"))


Rule = Callable[[Token, list[dict], dict], bool | None]  # of a token, the talk and the options; None: as it is


def labelled(rule: Rule) -> Pipeline:
    """The reference with other labels, in talks with calls or tools alone."""

    def broken(messages, **options) -> Encoded:
        example = encode(messages, **options)
        if not options.get("tools") and not any(message.get("tool_calls") for message in messages):
            return example
        labels = list(example.labels)
        for place, token in enumerate(example.input_ids):
            message, _, kind = turn_of(example, messages, place)
            spans = [(span.message, span.kind) for span in example.rendered.spans[: example.owners[place]]]
            at = Token(message, messages[message] if message >= 0 else {}, kind, spans.count((message, kind)))
            is_trained = rule(at, messages, options)
            if is_trained is not None:
                labels[place] = token if is_trained else IGNORE
        return replace(example, labels=labels)

    return Pipeline(encode=broken)


def untrained(condition: Callable[[Token, list[dict]], bool]) -> Pipeline:
    return labelled(lambda at, talk, options: False if condition(at, talk) else None)


@killed_by(TRAINED)
@seen_in("no report known: a mask of final answers")
@effect("calls its tools only where it has nothing more to say", fix="an answer that calls is an answer")
def calls_untrained_before_the_last():
    """A call is trained in the last message alone."""
    return untrained(lambda at, talk: at.kind == "tool_call" and at.message < len(talk) - 1)


@killed_by(TRAINED)
@seen_in("no report known: tool_calls[0]")
@effect("stops after one call where two are needed", fix="take the mask from the spans")
def second_call_untrained():
    """Of several calls of a message the first is trained."""
    return untrained(lambda at, talk: at.kind == "tool_call" and at.number > 0)


@killed_by(TRAINED)
@seen_in("huggingface/trl#1623, where a result follows")
@effect("writes the result of its call by itself", fix="every turn of the assistant's ends with a target")
def end_of_turn_after_a_call_untrained():
    """The end-of-turn token after a call is no target."""
    return untrained(lambda at, talk: at.kind == "end_of_turn" and at.calls)


@killed_by(TRAINED)
@seen_in("no report known: a mask that looks for contents")
@effect("calls tools without a word, or never", fix="an empty content is no empty answer")
def silent_calls_untrained():
    """A message that calls and says nothing is not trained."""
    return untrained(lambda at, talk: at.calls and not at.said["content"])


@killed_by(TRAINED)
@seen_in("no report known: a mask that takes the calls for the answer")
@effect("no longer says what it is about to do", fix="content and calls are one answer")
def content_beside_a_call_untrained():
    """What a message says beside its call is not trained."""
    return untrained(lambda at, talk: at.kind == "content" and at.calls)


@killed_by(TRAINED)
@seen_in("T-12: subtle form of tinker-cookbook#837, in the mask")
@effect("thinks before its last step alone", fix="what the model writes is a target, at every step")
def thoughts_of_earlier_steps_untrained():
    """Thoughts are trained in the last message alone."""
    return untrained(lambda at, talk: at.kind == "reasoning" and at.message < len(talk) - 1)


@killed_by(TRAINED)
@seen_in("no report known: a mask of everything but the user")
@effect("invents what its tools return", fix="only the assistant's messages are trained")
def results_of_calls_trained():
    """The result of a call is trained."""
    return labelled(lambda at, talk, options: True if at.kind == "content" and at.said.get("role") == "tool" else None)


@killed_by(TRAINED)
@seen_in("no report known: lengths measured on a text without tools")
@effect("learns to list tools", fix="take the mask from the spans of the text that is tokenized")
def listing_of_tools_trained():
    """The listing of tools is trained, and what the template says around it."""
    return labelled(lambda at, talk, options: True if at.kind in ("tools", "preamble") else None)


@killed_by(TRAINED)
@seen_in("no report known: a branch for calls that does not read the flag")
@effect("repeats calls that its author ruled out", fix="one rule for all answers")
def flag_ignored_beside_calls():
    """A message with `"train": false` is trained where it calls a tool."""
    return labelled(
        lambda at, talk, options: (
            True if at.calls and at.kind in MODELS_OWN and options.get("policy", "all") == "all" else None
        )
    )


@killed_by(TRAINED)
@seen_in("no report known: the last message that says something")
@effect("a call that ends a talk is never learnt", fix="the last answer is the last, whatever it does")
def last_answer_is_the_last_without_calls():
    """Under the policy "last" the last answer that calls nothing is trained."""

    def rule(at: Token, talk: list[dict], options: dict) -> bool | None:
        final = [place for place, said in enumerate(talk) if said["role"] == "assistant" and not said.get("tool_calls")]
        if options.get("policy") != "last" or not final:
            return None
        return at.message == final[-1] and at.kind in MODELS_OWN and at.said.get("train", True)

    return labelled(rule)


@killed_by("every-token-of-an-agent-may-be-trained")
@seen_in("no report known: everything but what the template adds")
@effect("an agent's context is trained with a hole in it", fix="every token is every token")
def every_token_but_the_listing():
    """Under the policy "every-token" the listing of tools is not trained."""
    return labelled(
        lambda at, talk, options: False if at.kind == "tools" and options.get("policy") == "every-token" else None
    )
