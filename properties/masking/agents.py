"""Masking of agents, in `encode`: answers that think, call tools and go on with the results.

Who trains on answers alone has one span an answer. An agent's answer is made of several, between what it is given:
each of them is lost, or let in, by a rule of its own. Here whole talks are put together from steps, and every answer is
spelt by hand.
"""

from __future__ import annotations

from copy import deepcopy

from hypothesis import strategies as st

from sftspec.golden.small_tokenizer import load
from sftspec.properties import must, takes
from sftspec.properties.cases.agent_conversations import SPELT, STEPS, TALKS, spelt_answer, talk_of
from sftspec.properties.cases.template import CALL_KEYS, TAKE_TOOLS, answers, tool, value_or_none
from sftspec.properties.masking.encoder import BOS
from sftspec.step import IGNORE

ASKED = [
    {"policy": policy, "untrained": untrained, "offered": offered}
    for policy in ("all", "last", "every-token")
    for untrained, offered in ((set(), True), ({1}, False))
]


def _targets(talk: list[dict], template: str, policy: str, untrained: set[int], whole: str) -> str:
    """What is trained, as text; under the policy "every-token" the whole text but for the turns that are not to be."""
    spelling, places = SPELT[template], answers(talk)
    header = spelling.header.format("assistant")
    if policy != "every-token":
        chosen = [place for place in (places[-1:] if policy == "last" else places) if place not in untrained]
        return "".join(spelt_answer(talk, place, template)[1] for place in chosen)
    kept, *turns = whole.split(header)
    for place, turn in zip(places, turns, strict=False):
        own = "".join(spelt_answer(talk, place, template)) + spelling.separator
        kept += turn.removeprefix(own) if place in untrained else header + turn
    return kept


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
    talk = talk_of(steps, template)
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
