"""Masks of agents: answers of several parts, of which one is not trained, or what they are given is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sftspec.conformance.sensitivity.mutants import mutant
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


@mutant(TRAINED, "no report known: a mask of final answers", "calls its tools only where it has nothing more to say",
        "an answer that calls is an answer")  # fmt: skip
def calls_untrained_before_the_last():
    """A call is trained in the last message alone."""
    return untrained(lambda at, talk: at.kind == "tool_call" and at.message < len(talk) - 1)


@mutant(TRAINED, "no report known: tool_calls[0]", "stops after one call where two are needed",
        "take the mask from the spans")  # fmt: skip
def second_call_untrained():
    """Of several calls of a message the first is trained."""
    return untrained(lambda at, talk: at.kind == "tool_call" and at.number > 0)


@mutant(TRAINED, "huggingface/trl#1623, where a result follows", "writes the result of its call by itself",
        "every turn of the assistant's ends with a target")  # fmt: skip
def end_of_turn_after_a_call_untrained():
    """The end-of-turn token after a call is no target."""
    return untrained(lambda at, talk: at.kind == "end_of_turn" and at.calls)


@mutant(TRAINED, "no report known: a mask that looks for contents", "calls tools without a word, or never",
        "an empty content is no empty answer")  # fmt: skip
def silent_calls_untrained():
    """A message that calls and says nothing is not trained."""
    return untrained(lambda at, talk: at.calls and not at.said["content"])


@mutant(TRAINED, "no report known: a mask that takes the calls for the answer", "no longer says what it is about to do",
        "content and calls are one answer")  # fmt: skip
def content_beside_a_call_untrained():
    """What a message says beside its call is not trained."""
    return untrained(lambda at, talk: at.kind == "content" and at.calls)


@mutant(TRAINED, "T-12: subtle form of tinker-cookbook#837, in the mask", "thinks before its last step alone",
        "what the model writes is a target, at every step")  # fmt: skip
def thoughts_of_earlier_steps_untrained():
    """Thoughts are trained in the last message alone."""
    return untrained(lambda at, talk: at.kind == "reasoning" and at.message < len(talk) - 1)


@mutant(TRAINED, "no report known: a mask of everything but the user", "invents what its tools return",
        "only the assistant's messages are trained")  # fmt: skip
def results_of_calls_trained():
    """The result of a call is trained."""
    return labelled(lambda at, talk, options: True if at.kind == "content" and at.said.get("role") == "tool" else None)


@mutant(TRAINED, "no report known: lengths measured on a text without tools", "learns to list tools",
        "take the mask from the spans of the text that is tokenized")  # fmt: skip
def listing_of_tools_trained():
    """The listing of tools is trained, and what the template says around it."""
    return labelled(lambda at, talk, options: True if at.kind in ("tools", "preamble") else None)


@mutant(TRAINED, "no report known: a branch for calls that does not read the flag",
        "repeats calls that its author ruled out", "one rule for all answers")  # fmt: skip
def flag_ignored_beside_calls():
    """A message with `"train": false` is trained where it calls a tool."""
    return labelled(
        lambda at, talk, options: (
            True if at.calls and at.kind in MODELS_OWN and options.get("policy", "all") == "all" else None
        )
    )


@mutant(TRAINED, "no report known: the last message that says something", "a call that ends a talk is never learnt",
        "the last answer is the last, whatever it does")  # fmt: skip
def last_answer_is_the_last_without_calls():
    """Under the policy "last" the last answer that calls nothing is trained."""

    def rule(at: Token, talk: list[dict], options: dict) -> bool | None:
        final = [place for place, said in enumerate(talk) if said["role"] == "assistant" and not said.get("tool_calls")]
        if options.get("policy") != "last" or not final:
            return None
        return at.message == final[-1] and at.kind in MODELS_OWN and at.said.get("train", True)

    return labelled(rule)


@mutant("every-token-of-an-agent-may-be-trained", "no report known: everything but what the template adds",
        "an agent's context is trained with a hole in it", "every token is every token")  # fmt: skip
def every_token_but_the_listing():
    """Under the policy "every-token" the listing of tools is not trained."""
    return labelled(
        lambda at, talk, options: False if at.kind == "tools" and options.get("policy") == "every-token" else None
    )
