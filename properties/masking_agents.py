"""Masking of agents, in `encode`: answers that think, call tools and go on with the results.

Who trains on answers alone has one span an answer. An agent's answer is made of several, between what it is given:
each of them is lost, or let in, by a rule of its own. Here whole talks are put together from steps, and every answer is
spelt by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

from hypothesis import strategies as st

from sftspec.golden.small_tokenizer import load
from sftspec.properties import must, takes
from sftspec.properties.masking_encoder import BOS
from sftspec.properties.template_cases import (
    CALL_KEYS,
    EMPTY_THOUGHTS,
    IN_TAGS,
    TAKE_THOUGHTS,
    TAKE_TOOLS,
    answers,
    tool,
    value_or_none,
)
from sftspec.properties.template_talks import HELLO
from sftspec.step import IGNORE

FIND, GO = ({"function": {"name": name, "arguments": {"place": place}}} for name, place in (("find", "A"), ("go", "B")))


def _answer(content: str, *calls: dict, thoughts: str = "") -> dict:
    fields = {"tool_calls": list(calls), "reasoning_content": thoughts}
    return {"role": "assistant", "content": content} | {key: value for key, value in fields.items() if value}


def _results(*contents: str) -> list[dict]:
    return [{"role": "tool", "content": content} for content in contents]


STEPS = {
    "question": [{"role": "user", "content": "And?"}],
    "answer": [_answer("One.")],
    "thoughts": [_answer("Two.", thoughts="So.")],
    "call": [_answer("", GO), *_results('{"b":1,"a":2}')],
    "thoughts and call": [_answer("", FIND, thoughts="Ah."), *_results("3")],
    "words and calls": [_answer("Look:", FIND, GO, thoughts="Hm."), *_results("1", "2")],
    "call without result": [_answer("", FIND)],
}
TALKS = [
    ["words and calls", "thoughts and call", "call", "answer"],
    ["words and calls", "thoughts", "question", "call", "words and calls", "thoughts and call", "thoughts"],
    ["answer", "question", "call without result"],
    ["thoughts and call", "question", "words and calls", "call without result", "call without result"],
]
ASKED = [
    {"policy": policy, "untrained": untrained, "offered": offered}
    for policy in ("all", "last", "every-token")
    for untrained, offered in ((set(), True), ({1}, False))
]


class Spelling(NamedTuple):
    """How a variant writes an assistant's turn.

    between    what stands between the content and the calls
    separator  what follows the end of the turn, untrained
    """

    header: str
    call: str
    between: str
    end_of_turn: str
    separator: str


LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TAGGED = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
TYPED = '{{"type": "function", "name": "{}", "parameters": {}}}'
SPELT = {
    **{name: Spelling("<|im_start|>assistant\n", TAGGED, "\n", "<|im_end|>", "\n") for name in IN_TAGS},
    "llama3/llama-models": Spelling(LLAMA, TYPED, "", "<|eot_id|>", ""),
    "llama3.1/hf": Spelling(LLAMA, TYPED.replace('"type": "function", ', ""), "", "<|eot_id|>", ""),
}


def _talk(steps: Sequence[str], template: str) -> list[dict]:
    """The steps, without what the variant has no place for: thoughts, and in Llama-3.1 what stands beside a call."""
    talk = [deepcopy(message) for message in (*HELLO, *(item for step in steps for item in STEPS[step]))]
    for message in talk:
        if template not in TAKE_THOUGHTS:
            message.pop("reasoning_content", None)
        if template == "llama3.1/hf" and "tool_calls" in message:
            message |= {"content": "", "tool_calls": message["tool_calls"][:1]}
    return talk


def _spelt(talk: list[dict], place: int, template: str) -> tuple[str, str]:
    """(what the model is given between its header and its answer, the answer that it writes)."""
    spelling, message = SPELT[template], talk[place]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    written = [spelling.call.format(call["name"], json.dumps(call["arguments"])) for call in calls]
    said = spelling.between.join([*filter(None, [message["content"]]), *written]) + spelling.end_of_turn
    question = max(index for index, earlier in enumerate(talk) if earlier["role"] == "user")
    if template not in TAKE_THOUGHTS or place < question:
        return "", said
    if thoughts := message.get("reasoning_content"):
        return "", f"<think>\n{thoughts}\n</think>\n\n{said}"
    empty = EMPTY_THOUGHTS if place == len(talk) - 1 else ""
    return (empty, said) if template == "chatml/qwen3-nothink" else ("", empty + said)


def _targets(talk: list[dict], template: str, policy: str, untrained: set[int], whole: str) -> str:
    """What is trained, as text; under the policy "every-token" the whole text but for the turns that are not to be."""
    spelling, places = SPELT[template], answers(talk)
    if policy != "every-token":
        chosen = [place for place in (places[-1:] if policy == "last" else places) if place not in untrained]
        return "".join(_spelt(talk, place, template)[1] for place in chosen)
    before, *turns = whole.split(spelling.header)
    for place, turn in zip(places, turns, strict=False):
        own = "".join(_spelt(talk, place, template)) + spelling.separator
        before += turn.removeprefix(own) if place in untrained else spelling.header + turn
    return before


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50,
      given={"template": st.sampled_from(sorted(CALL_KEYS)), "policy": st.sampled_from(["all", "last", "every-token"]),
             "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7), "offered": st.booleans(),
             "untrained": st.sets(st.integers(0, 7), max_size=3)},
      examples=[{"template": name, "steps": steps, **asked} for name in sorted(CALL_KEYS) for steps in TALKS
                for asked in ASKED])  # fmt: skip
def an_agents_targets_are_what_it_wrote(encode, template, policy, steps, offered, untrained):
    """In a talk with calls the targets are the trained answers, each whole: its thoughts where they stand, its content,
    every call and its end of turn; no result, no listing of tools and no header is one. Under the policy "last" the
    last answer is trained, be it a call; under "every-token" the listing of tools as well.

    Masks that know one content an answer: calls, or all but the first, what is said beside them and the end of their
    turn are not learnt, and the agent talks of tools that it never calls; results that are trained are invented. What
    thinks at every step, and is trained on its last thoughts alone, stops thinking. A message that is not to be trained
    stays untrained when it calls. Numbers of `untrained` count answers.
    """
    if not takes(encode, "template"):
        return
    talk = _talk(steps, template)
    skipped = {place for number, place in enumerate(answers(talk)) if number in untrained}
    for place in skipped:
        talk[place]["train"] = False
    options: dict = {"template": template, "tokenizer": load()}
    if takes(encode, "policy"):
        options["policy"] = policy
    if offered and template in TAKE_TOOLS and takes(encode, "tools"):
        options["tools"] = [tool("find", "Finds."), tool("go")]
    example = value_or_none(encode, deepcopy(talk), **options)
    if example is None:
        return
    written = [label for label in example.labels if label != IGNORE]
    whole, found = (
        BOS.sub("", load().decode(tokens, skip_special_tokens=False)) for tokens in (example.input_ids, written)
    )
    expected = _targets(talk, template, options.get("policy", "all"), skipped, whole)
    yield talk, found == expected, f"expected {expected!r}, saw {found!r}"
