"""A chat template on trial: the properties of `render` and `encode`, read on one template instead of on ours.

A template is judged by what it declares, never by what another one does. Its declaration is the named variant that it
is a copy of: same markers, same trimming, same thoughts. Where it is none, the properties that need one (where a turn
ends, which BOS) are not measured; the others hold for any template. What it refuses with raise_exception is refused,
not wrong; what Jinja itself cannot render is wrong. Its code runs in sftspec's sandbox only.

The tokens are those of the small tokenizer. A control token that the template's own tokenizer lacks is text there too:
an end-of-turn spelt in letters stops nothing, and that is seen here as it would be with the large vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from hypothesis import reject
from hypothesis import strategies as st

from sftspec import encode, render
from sftspec.conformance.judge import Trial, Verdict, reach_verdicts
from sftspec.golden.loader import GoldenCase, load_cases
from sftspec.golden.small_tokenizer import load
from sftspec.properties import Property
from sftspec.spans import Rendered, TemplateError
from sftspec.templates import TEMPLATES, Template

Result = TypeVar("Result")

PROBE = [{"role": "user", "content": " Query "}, {"role": "assistant", "content": " Reply "}]
MARKERS = ("<|im_start|>", "<|start_header_id|>", "[INST]")
STAND_IN = "chatml/openai"  # the name that is passed where a property does not look at it
TEXT_ONLY = "\ufdd0"  # a noncharacter before a control token's name: no text is ever that token

# What a property reads of the variant that the template is declared to be.
DECLARED = {
    "template/what-was-said-can-be-read-back": "markers of a turn, and trimming",
    "template/the-prompt-and-the-answer-are-the-training-text": "end-of-turn, and thoughts",
    "template/the-generation-prompt-is-one-constant-suffix": "whether a prompt has a header",
    "template/one-bos-opens-the-sequence": "BOS",
    "template/every-answer-ends-in-one-end-of-turn-token": "end-of-turn",
}
REFUSAL = "template/what-cannot-be-rendered-is-refused"
PREFIX = "template/a-longer-conversation-begins-with-the-shorter-one"


@dataclass(frozen=True)
class TemplateOnTrial:
    """A template, as something that has parts to judge.

    name       "chat_template.jinja", "trl:qwen3"
    template   it, as sftspec renders it
    variant    the named variant that it declares to be ("": none)
    tokenizer  the small tokenizer, with the control tokens that its own tokenizer has
    outcomes   how often a conversation was "rendered", "refused" by it, or "unmarked" (no answer found in the text)
    reasons    what it said when it refused, with counts
    """

    name: str
    template: Template
    variant: str
    tokenizer: Any
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    claims: frozenset[str] = frozenset({"template"})

    @property
    def version(self) -> str:
        """Of a template, its text."""
        source = getattr(self.template.pieces, "source", self.template.name)
        return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:12]

    @property
    def parts(self) -> dict[str, Callable[..., Any]]:
        return {"render": self.render, "encode": self.encode}

    def render(self, messages: list[dict], template: str, add_generation_prompt: bool = False) -> Rendered:
        return self._ask(lambda: render(messages, self.template, add_generation_prompt))

    def encode(self, messages: list[dict], template: str, tokenizer: Any, **options: Any) -> Any:
        return self._ask(lambda: encode(messages, self.template, self.tokenizer, **options))

    def _ask(self, work: Callable[[], Result]) -> Result:
        """Do it; a conversation that the template refuses is not judged, and counted."""
        try:
            result = work()
        except TemplateError as error:
            outcome = outcome_of(self.template, error)
            if outcome == "broken":
                raise
            self.outcomes[outcome] += 1
            self.reasons[str(error)] += 1
            reject()
        self.outcomes["rendered"] += 1
        return result


def outcome_of(template: Template, error: TemplateError) -> str:
    """The template "refused" with raise_exception, sftspec left an answer "unmarked", or rendering is "broken"."""
    if "does not show where this answer begins" in str(error):
        return "unmarked"
    by_itself = template.name not in TEMPLATES and f"{template.name}: TemplateError: " not in str(error)
    return "broken" if by_itself else "refused"


def traits(template: Template) -> tuple:
    """What tells families apart: markers, trimming, thoughts, dates. Where markers are text (Llama-2), the text."""
    text = render(PROBE, template).text
    prompt = render(PROBE[:1], template, add_generation_prompt=True).text
    marker = next((marker for marker in MARKERS if marker in text), "")
    thoughts = [re.findall(r"</?think>\s*", part) for part in (prompt, text)]
    exact = text if marker == "[INST]" else " Query " in text
    return marker, exact, *map(tuple, thoughts), "Cutting Knowledge" in text, "<|im_sep|>" in text


@cache
def traits_of_variants() -> dict[str, tuple[tuple, str]]:
    return {name: (traits(template), render(PROBE, template).text) for name, template in TEMPLATES.items()}


def variant_of(template: Template) -> str:
    """The named variant that a template is a copy of, or ""; among several that fit, one of the same text."""
    if template.name in TEMPLATES:
        return template.name
    found, text = traits(template), render(PROBE, template).text
    fitting = [name for name, (known, _) in traits_of_variants().items() if known == found and found[0]]
    known = traits_of_variants()
    return min(fitting, key=lambda name: (known[name][1] != text, not name.endswith("/hf")), default="")


def with_control_tokens_of(added: Iterable[str] | None) -> Any:
    """The small tokenizer; control tokens that are not among `added` (None: all are) are text, with ids unchanged."""
    from tokenizers import Tokenizer

    if added is None:
        return load()
    known = frozenset(added)
    state = json.loads(load().to_str())
    for token in state["added_tokens"]:
        if token["content"] not in known:
            token["content"] = TEXT_ONLY + token["content"]
    return Tokenizer.from_str(json.dumps(state))


def put_template_on_trial(
    candidate: TemplateOnTrial,
    chosen: Iterable[Property],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
) -> Trial:
    """The verdicts of the chosen properties of `render` and `encode` on a template."""
    chosen = [item for item in chosen if item.area == "template"]
    trial = Trial(candidate)
    unread = why_nothing_can_be_read(candidate.template)
    reasons = {item.id: unread or why_not(item, candidate) for item in chosen}
    judged = [specialised(item, candidate.variant or STAND_IN) for item in chosen if not reasons[item.id]]
    reach_verdicts(trial, judged, progress, max_examples)
    verdicts = {verdict.property.id: refusals_apart(verdict, candidate) for verdict in trial.verdicts}
    trial.verdicts = [verdicts.get(item.id) or Verdict(item, "not-measured", reasons[item.id]) for item in chosen]
    return trial


def why_nothing_can_be_read(template: Template) -> str:
    """ "" where a plain conversation is rendered with what it says; else what happens to it."""
    try:
        text = render(PROBE, template).text
    except TemplateError as error:
        return f"it renders no plain conversation: {error}"
    lost = [message["content"].strip() for message in PROBE if message["content"].strip() not in text]
    if lost:
        return "contents that are strings are not rendered: it wants lists of parts, as templates of vision models do"
    return ""


def against_goldens(template: Template, variant: str) -> tuple[int, int, str]:
    """Golden conversations of a variant that a template renders character for character as the oracle of its source.

    Returns (equal, all, id of the first that differs).
    """
    cases = [case for case in load_cases([variant]) if case.text is not None]
    differing = [case.id for case in cases if not _is_golden(case, template)]
    return len(cases) - len(differing), len(cases), differing[0] if differing else ""


def _is_golden(case: GoldenCase, template: Template) -> bool:
    try:
        return render(case.messages, template, case.add_generation_prompt, case.tools).text == case.text
    except TemplateError:
        return False


def why_not(item: Property, candidate: TemplateOnTrial) -> str:
    """Why a property says nothing of a template ("" if it does)."""
    if item.id == REFUSAL:
        return "sftspec refuses what cannot be rendered before a template sees it"
    if item.id == PREFIX and not candidate.template.prefix_preserving:
        return "it rewrites history (thoughts of earlier turns)"
    if item.id in DECLARED and not candidate.variant:
        return f"it is no copy of a named variant, which would declare: {DECLARED[item.id]}"
    return ""


def specialised(item: Property, variant: str) -> Property:
    """The property, asked for one template only."""
    given = {**(item.given or {}), "template": st.just(variant)}
    examples = tuple(example for example in item.examples if example["template"] == variant)
    return dataclasses.replace(item, given=given, examples=examples)


def refusals_apart(verdict: Verdict, candidate: TemplateOnTrial) -> Verdict:
    """A template that refuses nearly everything that is drawn was not measured."""
    starved = ("raised Unsatisfiable", "raised FailedHealthCheck")
    if verdict.status == "fail" and any(words in verdict.reason for words in starved):
        said = "; ".join(reason for reason, _ in candidate.reasons.most_common(1))
        return Verdict(verdict.property, "not-measured", f"nearly all that was drawn is refused: {said}")
    return verdict
