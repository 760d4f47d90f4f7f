"""Masking of agents, in `encode`: answers that think, call tools and go on with the results.

A plain answer has one span. An agent's answer is made of several, between what it is given: each of them is lost, or
let in, by a rule of its own. Here whole conversations are put together from steps, and every answer is spelt by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

from hypothesis import strategies as st

from sftspec.golden.small_tokenizer import load
from sftspec.properties import must, takes
from sftspec.properties.cases.agent_conversations import AGENTS, SPELT, STEPS, conversation_of, spelt_answer
from sftspec.properties.cases.template import CALL_KEYS, TAKE_TOOLS, answers, tool, value_or_none
from sftspec.properties.masking.encoder import BOS
from sftspec.step import IGNORE

ASKED = ({"untrained": set(), "offered": True}, {"untrained": {1}, "offered": False})
STEPS_DRAWN = {
    "template": st.sampled_from(sorted(CALL_KEYS)),
    "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7),
    "offered": st.booleans(),
    "untrained": st.sets(st.integers(0, 7), max_size=3),
}


def _examples(**more: object) -> list[dict]:
    return [
        {"template": name, "steps": steps, **asked, **more}
        for name in sorted(CALL_KEYS)
        for steps in AGENTS
        for asked in ASKED
    ]


def trained(
    encode: Callable,
    template: str,
    policy: str,
    steps: list[str],
    offered: bool,
    untrained: set[int],
    expected: Callable[[list[dict], set[int], str], str],
) -> Iterator[tuple]:
    """Evidence that the targets of an agent's conversation, decoded, are expected(conversation, untrained, whole text).

    offered    whether tools are listed
    untrained  the numbers of the answers that are not to be trained
    """
    if not takes(encode, "template"):
        return
    conversation = conversation_of(steps, template)
    skipped = {place for number, place in enumerate(answers(conversation)) if number in untrained}
    for place in skipped:
        conversation[place]["train"] = False
    options: dict = {"template": template, "tokenizer": load()}
    options |= {"policy": policy} if takes(encode, "policy") else {}
    if offered and template in TAKE_TOOLS and takes(encode, "tools"):
        options["tools"] = [tool("find", "Finds."), tool("go")]
    example = value_or_none(encode, deepcopy(conversation), **options)
    if example is None:
        return
    targets = [label for label in example.labels if label != IGNORE]
    whole, found = (
        BOS.sub("", load().decode(tokens, skip_special_tokens=False)) for tokens in (example.input_ids, targets)
    )
    wanted = expected(conversation, skipped, whole)
    yield conversation, found == wanted, f"expected {wanted!r}, saw {found!r}"


@must(
    seam="encode",
    laws=("MK-SPAN", "MK-EOT"),
    floor=50,
    given={**STEPS_DRAWN, "policy": st.sampled_from(["all", "last"])},
    examples=[*_examples(policy="all"), *_examples(policy="last")],
)
def an_agents_targets_are_its_trained_answers(encode, template, policy, steps, offered, untrained):
    """An agent's targets are the answers that its policy trains, each whole: thoughts, content, every call and its end
    of turn.

    Masks that know one content an answer: calls, or all but the first, what is said beside them and the end of their
    turn are not learnt, and the agent talks of tools that it never calls; results that are trained are invented. A
    model that thinks at every step, and is trained on its last thoughts alone, stops thinking. A message that is not to
    be trained stays untrained when it calls.
    """

    def expected(conversation: list[dict], skipped: set[int], whole: str) -> str:
        places = answers(conversation)[-1:] if policy == "last" and takes(encode, "policy") else answers(conversation)
        return "".join(spelt_answer(conversation, place, template)[1] for place in places if place not in skipped)

    yield from trained(encode, template, policy, steps, offered, untrained, expected)


@must(seam="encode", laws=("MK-SPAN", "MK-EOT"), floor=50, given=STEPS_DRAWN, examples=_examples())
def every_token_of_an_agent_may_be_trained(encode, template, steps, offered, untrained):
    """Under the policy "every-token" an agent's text is trained, tools and results too, but for untrained answers.

    A mask for answers alone leaves out calls and results; an answer that is not to be trained comes back in.
    """
    if not takes(encode, "policy"):
        return
    spelling = SPELT[template]
    header = spelling.header.format("assistant")

    def expected(conversation: list[dict], skipped: set[int], whole: str) -> str:
        kept, *turns = whole.split(header)
        for place, turn in zip(answers(conversation), turns, strict=False):
            own = "".join(spelt_answer(conversation, place, template)) + spelling.separator
            kept += turn.removeprefix(own) if place in skipped else header + turn
        return kept

    yield from trained(encode, template, "every-token", steps, offered, untrained, expected)
