"""A chat template on trial: the properties of `render` and `encode`, read on one template instead of on ours.

A template is judged by what it declares, never by what another one does. Its declaration is the named variant that it
is a copy of: same markers, same trimming, same thoughts. Where it is none, the end of a turn is read off what it
renders, and the properties that need more (which BOS) are not measured; the others hold for any template. What it
refuses with raise_exception is refused, not wrong; what Jinja itself cannot render is wrong. Two habits are
conventions, found by trying and then allowed for: to train the newline after the end-of-turn, and to leave an empty
system message out. Its code runs in sftspec's sandbox only.

The tokens are those of the small tokenizer, and of the template's own where that is given. A control token that its own
lacks is text in the small one too: an end-of-turn spelt in letters stops nothing, and that is seen in both.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from sftspec import encode_batch, render
from sftspec.conformance.trial.judge import Trial, Verdict, reach_verdicts
from sftspec.conformance.trial.remembered import Asked, RememberedTemplate, SpeltConversation
from sftspec.conformance.trial.remembered_vocabulary import remembered_vocabulary
from sftspec.conformance.trial.template_ends import TurnEnd, turn_end_of, what_changes, with_token
from sftspec.conformance.trial.template_plan import LazyEncoded, merged, plan_of
from sftspec.conformance.trial.template_traits import (
    DROPS_EMPTY_SYSTEM,
    PROBE,
    TRAINS_SEPARATOR,
    fields_of,
    habits_of,
    has_empty_system,
    traits_of_variants,
    why_nothing_can_be_read,
    without_separators,
)
from sftspec.conversation import Conversation, check_conversation
from sftspec.golden.loader import GoldenCase, load_cases
from sftspec.golden.small_tokenizer import load
from sftspec.masking import Conventions, Encoded
from sftspec.properties import Property
from sftspec.properties.cases.template import CALL_KEYS, SMALL, Vocabulary
from sftspec.spans import Rendered, TemplateError
from sftspec.templates import TEMPLATES, Template, render_checked
from sftspec.tokenization import AXES, tokenize

Result = TypeVar("Result")

DRAWS = 25  # by hypothesis, for each property, beside the explicit examples
DRAWS_OF_FLOORS = 100  # a property's floor is written for so many
STAND_IN = "chatml/openai"  # the name that is passed where a property does not look at it
TAKES_FIELDS = "chatml/qwen3"  # and where it asks which fields there are
OF_CALLS = ("template/a-call-needs-no-content", "template/no-argument-is-written-as-python-prints-it")
OF_IDS = {*AXES, "add_generation_prompt", "policy"}  # what `encode` is given beside, where ids are all that is read
TEXT_ONLY = "\ufdd0"  # a noncharacter before a control token's name: no text is ever that token

# What a property reads of the variant that the template is declared to be.
DECLARED = {
    "template/what-was-said-can-be-read-back": "markers of a turn, and trimming",
    "template/the-prompt-and-the-answer-are-the-training-text": "end-of-turn, and thoughts",
    "template/a-generation-prompt-opens-the-answer": "whether a prompt has a header",
    "template/a-prompt-is-the-text-and-one-suffix": "whether a prompt has a header",
    "template/no-training-text-ends-with-a-generation-prompt": "whether a prompt has a header",
    "template/one-bos-opens-the-sequence": "BOS",
}
END = "template/every-answer-ends-in-one-end-of-turn-token"  # asked of the end that it shows, where none is declared
OWN_PROMPT = "template/a-system-prompt-that-nobody-wrote-is-the-variants-own"
READS_GOLDENS = "the golden conversations that it renders alike are counted apart"
READS_TOOLS = "it reads the argument tools of sftspec's own render"
READS_ENCODED_TOOLS = "it reads the argument tools of sftspec's own encode"
READS_CALLS = "how calls are written is read off named variants alone"
READS_RESULTS = "how results of tools are written is read off Qwen's variants alone"
REFUSED_BEFORE = "sftspec refuses what cannot be rendered before a template sees it"
NOT_ASKED = {
    "template/what-others-published-is-rendered": READS_GOLDENS,
    "template/tokens-spell-the-published-text": READS_GOLDENS,
    "template/a-whole-text-has-the-tokenizers-own-tokens": READS_GOLDENS,
    "template/tools-in-one-object-are-encoded": READS_ENCODED_TOOLS,
    "template/tools-in-one-object-are-listed": READS_TOOLS,
    "template/an-empty-list-of-tools-lists-nothing": READS_TOOLS,
    "template/every-tool-is-listed-as-it-was-given": READS_TOOLS,
    "template/tools-are-spelt-without-escapes": READS_TOOLS,
    "template/the-list-of-tools-stands-beside-any-system-prompt": READS_TOOLS,
    "template/tools-add-their-list-and-nothing-else": READS_TOOLS,
    "template/rendering-changes-no-tool": READS_TOOLS,
    "template/a-prompt-beside-tools-has-the-same-suffix": READS_TOOLS,
    "template/the-name-of-a-speaker-is-not-written": "a template other than the named variants may write names",
    "template/the-id-and-name-of-a-result-are-not-written": "a template other than the named variants may write them",
    "template/each-call-is-json-with-the-keys-of-its-variant": READS_CALLS,
    "template/arguments-are-spelt-as-by-their-variant": READS_CALLS,
    "template/calls-beside-a-content-are-those-without-one": READS_CALLS,
    "template/what-is-said-around-a-call-stands-as-it-is": READS_CALLS,
    "template/results-are-a-users-message-in-tags": READS_RESULTS,
    "template/a-message-with-one-tag-is-a-question": READS_RESULTS,
    "template/every-turn-of-an-agent-is-written-as-the-first": READS_CALLS,
    "template/names-and-ids-do-not-move-results": READS_CALLS,
    "template/thoughts-in-a-content-are-thoughts": READS_CALLS,
    "template/untrained-steps-of-an-agent-are-written": READS_CALLS,
    "template/the-first-bos-has-one-owner": "it reads the argument bos of sftspec's own render",
    "template/an-axis-that-is-not-named-is-the-variants-own": "it reads the default axes of sftspec's own encode",
    "template/a-broken-message-is-refused": REFUSED_BEFORE,
    "template/the-error-says-which-message": REFUSED_BEFORE,
    "template/a-conversation-without-messages-is-refused": REFUSED_BEFORE,
    "template/an-unknown-template-is-refused": REFUSED_BEFORE,
}
BOS = "template/one-bos-opens-the-sequence"
TWICE = "template/the-same-conversation-has-the-same-text"  # is asked of two renderings
PREFIX = "template/a-longer-conversation-begins-with-the-shorter-one"
FIELDS = "template/no-call-thought-or-tool-becomes-a-control-token"


@dataclass(frozen=True)
class TemplateOnTrial:
    """A template, as something that has parts to judge.

    name       "chat_template.jinja", "trl:qwen3"
    template   it, as sftspec renders it
    variant    the named variant that it declares to be ("": none)
    tokenizer  the small tokenizer, with the control tokens that its own tokenizer has
    own        its own vocabulary (None: only the small one is read)
    reasons    what it said when it refused a conversation, with counts
    """

    name: str
    template: Template
    variant: str
    tokenizer: Any
    own: Vocabulary | None = None
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

    @cached_property
    def habits(self) -> tuple[str, ...]:
        return () if why_nothing_can_be_read(self.template) else tuple(habits_of(self.template))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """What it writes beside contents: tools, calls, parallel calls, results, thoughts."""
        return () if why_nothing_can_be_read(self.template) else tuple(fields_of(self.as_text))

    @cached_property
    def turn_end(self) -> TurnEnd:
        """What ends a turn of a template that is no copy of a named variant."""
        return turn_end_of(self.template)

    @cached_property
    def remembered(self) -> Any:
        """The template, which renders a conversation once for all properties (None: it is one of ours)."""
        pieces: Any = self.template.pieces
        return RememberedTemplate(pieces.source, pieces.name, pieces.variables) if _is_jinja(pieces) else None

    @cached_property
    def again(self) -> Any:
        """The same template, which remembers nothing of that."""
        return self.remembered and dataclasses.replace(self.remembered, memory={})

    @cached_property
    def answered(self) -> dict[tuple, Any]:
        """What `render` and `encode` gave, or why they did not."""
        return {}

    def learn(self, judged: Iterable[Property], max_examples: int) -> None:
        """Render what is certainly asked, many conversations in a request."""
        if self.remembered:
            own = self.own and self.own.name
            plans = {item.id: plan_of(item, passed_for(item, self), own, max_examples) for item in judged}
            self.remembered.learn(merged(plans.values()))
            self.again.learn(plans.get(TWICE, ()))

    def forget(self) -> None:
        """Let go of what was rendered: a folder may hold hundreds of templates."""
        for name in ("remembered", "again", "answered", "as_text", "as_ids", "as_labelled"):
            self.__dict__.pop(name, None)

    @property
    def conventions(self) -> Conventions:
        return Conventions(separator=TRAINS_SEPARATOR in self.habits)

    def render(self, messages: list[dict], template: str, add_generation_prompt: bool = False) -> Rendered:
        key = "render", repr(messages), add_generation_prompt
        return self._once(
            key, messages, lambda: render_checked(checked(key[1], messages), self.as_text, add_generation_prompt)
        )

    def render_again(self, messages: list[dict], template: str) -> Rendered:
        key = "again", repr(messages)
        text = self._made_of(self.again and self.again.as_text)
        return self._once(key, messages, lambda: render_checked(checked(key[1], messages), text, False))

    def encode(
        self, messages: list[dict], template: str, tokenizer: Any, tools: list[dict] | None = None, **options: Any
    ) -> Encoded | LazyEncoded:
        tokenizer = remembered_vocabulary(self.tokenizer if tokenizer is load() else tokenizer)
        key = repr((messages, tools) if tools else messages), id(tokenizer), repr(options)

        def work(template: Template) -> Encoded:
            return encode_batch([checked(key[0], messages, tools)], template, tokenizer, **options)[0]

        def whole() -> Encoded:
            example = self._once(("labels", *key), messages, lambda: work(self.as_labelled))
            return without_separators(example) if TRAINS_SEPARATOR in self.habits else example

        def ids() -> tuple[list[int], Rendered]:
            prompt, axes = options.get("add_generation_prompt", False), (options.get(name) for name in AXES)
            text = render_checked(checked(key[0], messages, tools), self.as_ids, prompt)
            return tokenize(text, self.as_ids, tokenizer, *axes).ids, text

        if not self.has_prompts or options.get("tokenization") not in (None, "whole") or not options.keys() <= OF_IDS:
            return whole()
        return LazyEncoded(*self._once(("ids", *key), messages, ids), whole)

    @cached_property
    def as_text(self) -> Template:
        """The template, whose text is one piece."""
        return self._made_of(self.remembered and self.remembered.as_text)

    @cached_property
    def as_ids(self) -> Template:
        """The template, of which nothing is said to be written by the model."""
        return self._made_of(self.remembered and self.remembered.without_answers)

    @cached_property
    def as_labelled(self) -> Template:
        return self._made_of(self.remembered)

    @cached_property
    def has_prompts(self) -> bool:
        """What is trained is found by its prompts, which takes several renderings."""
        return bool(self.remembered) and not self.remembered.has_marks

    def _made_of(self, pieces: Any) -> Template:
        """The template, with these pieces (None: its own)."""
        return dataclasses.replace(self.template, pieces=pieces) if pieces else self.template

    def _once(self, key: tuple, messages: list[dict], work: Callable[[], Result]) -> Result:
        """Do it, the first time; a conversation that the template refuses is not judged, and counted."""
        if DROPS_EMPTY_SYSTEM in self.habits and has_empty_system(messages):
            raise UnsatisfiedAssumption from None
        if key not in self.answered:
            try:
                self.answered[key] = work()
            except TemplateError as error:
                self.answered[key] = error
        found = self.answered[key]
        if not isinstance(found, TemplateError):
            return found
        if is_broken(self.template, found):
            raise found.with_traceback(None)
        self.reasons[str(found)] += 1
        raise UnsatisfiedAssumption from None


_checked: dict[str, Conversation] = {}
MOST_CHECKED = 20_000  # conversations; then all are forgotten


def checked(spelt: str, messages: list[dict], tools: list[dict] | None = None) -> Conversation:
    """The conversation that is spelt so; all templates are asked nearly the same, and it is checked once."""
    if spelt not in _checked:
        if len(_checked) >= MOST_CHECKED:
            _checked.clear()
        _checked[spelt] = SpeltConversation.of(check_conversation(messages, tools=tools))
    return _checked[spelt]


def _is_jinja(pieces: Any) -> bool:
    return hasattr(pieces, "source")


def is_broken(template: Template, error: TemplateError) -> bool:
    """Jinja could not render it. Otherwise the template refused, or sftspec did not find the answer in its text."""
    if template.name in TEMPLATES or "does not show where this answer begins" in str(error):
        return False
    return f"{template.name}: TemplateError: " not in str(error)


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


def read_functions(chosen: Iterable[Property]) -> list[Property]:
    """The properties that read a template's functions; those that read a run are for trainers."""
    return [item for item in chosen if item.area == "template" and item.seam != "run"]


def put_template_on_trial(
    candidate: TemplateOnTrial,
    chosen: Iterable[Property],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = DRAWS,
) -> Trial:
    """The verdicts of the chosen properties of `render` and `encode` on a template."""
    chosen = read_functions(chosen)
    trial = Trial(candidate)
    unread = why_nothing_can_be_read(candidate.template)
    reasons = {item.id: unread or why_not(item, candidate) for item in chosen}
    judged = [
        specialised(item, candidate, math.ceil(item.floor * min(1, max_examples / DRAWS_OF_FLOORS)))
        for item in chosen
        if not reasons[item.id]
    ]
    candidate.learn(judged, max_examples)
    reach_verdicts(trial, [twice(item, candidate) for item in judged], progress, max_examples)
    candidate.forget()
    verdicts = {verdict.property.id: refusals_apart(verdict, candidate.reasons) for verdict in trial.verdicts}
    trial.verdicts = [verdicts.get(item.id) or Verdict(item, "not-measured", reasons[item.id]) for item in chosen]
    return trial


def against_goldens(template: Template, variant: str) -> tuple[int, int, str]:
    """Golden conversations of a variant that a template renders character for character as the oracle of its source.

    Returns (equal, all, id of the first that differs).
    """
    cases = [case for case in load_cases([variant]) if case.text is not None]
    template = _as_text(template, cases)
    differing = [case.id for case in cases if not _is_golden(case, template)]
    return len(cases) - len(differing), len(cases), differing[0] if differing else ""


def _as_text(template: Template, cases: Iterable[GoldenCase]) -> Template:
    """The template, whose texts of these cases are rendered in a few requests."""
    pieces: Any = template.pieces
    if not _is_jinja(pieces):
        return template
    talks = [(check_conversation(case.messages, tools=case.tools), case.add_generation_prompt) for case in cases]
    remembered = RememberedTemplate(pieces.source, pieces.name, pieces.variables)
    remembered.learn(Asked((repr(talk), prompt), talk, prompt, "text") for talk, prompt in talks)
    return dataclasses.replace(template, pieces=remembered.as_text)


def _is_golden(case: GoldenCase, template: Template) -> bool:
    try:
        return render(case.messages, template, case.add_generation_prompt, case.tools).text == case.text
    except TemplateError:
        return False


def why_not(item: Property, candidate: TemplateOnTrial) -> str:
    """Why a property says nothing of a template ("" if it does)."""
    if item.id == PREFIX and not candidate.template.prefix_preserving:
        return what_changes(candidate.template)
    if item.id == OWN_PROMPT and not _is_text_of_variant(candidate):
        return "a template that is no exact copy of a named variant may have a system prompt of its own"
    if item.id in NOT_ASKED:
        return NOT_ASKED[item.id]
    if item.id in DECLARED and not candidate.variant:
        return f"it is no copy of a named variant, which would declare: {DECLARED[item.id]}"
    if item.id == END and not candidate.variant:
        return candidate.turn_end.why
    if item.id == FIELDS and not set(candidate.fields) & {"tools", "calls", "thoughts"}:
        return "it writes no tools, calls or thoughts"
    if item.id in OF_CALLS and "calls" not in candidate.fields:
        return "it writes no calls"
    if item.id == BOS and not TEMPLATES[candidate.variant].bos and (bos := _own_bos(candidate.template)):
        return f"it opens with {bos}, and {candidate.variant}, of which it is a copy else, has no BOS"
    return ""


def passed_for(item: Property, candidate: TemplateOnTrial) -> str:
    """The name of a template that a property is given: the variant, or one that stands in for none."""
    if item.id in (FIELDS, *OF_CALLS):  # a copy of a variant without calls may have added them
        return candidate.variant if candidate.variant in CALL_KEYS else TAKES_FIELDS
    return candidate.variant or STAND_IN


def _own_bos(template: Template) -> str:
    """The BOS that a template writes itself ("": none)."""
    text = render(PROBE, template).text
    return template.bos if template.bos and text.startswith(template.bos) else ""


def _is_text_of_variant(candidate: TemplateOnTrial) -> bool:
    _, text = traits_of_variants().get(candidate.variant, ((), None))
    return render(PROBE, candidate.template).text == text


def specialised(item: Property, candidate: TemplateOnTrial, floor: int) -> Property:
    """The property, asked of one template only, and of the tokens of its own vocabulary beside the small one's.

    Only what does not depend on the template is left to draw: all templates of a process are asked the same.
    """
    variant, own = passed_for(item, candidate), candidate.own
    known = item.given or {}
    fixed: dict[str, Any] = {"template": variant, "tokenization": "whole"}  # a Hugging Face template is encoded whole
    fixed = {name: value for name, value in fixed.items() if name in known}
    small = SMALL
    if item.id == END and not candidate.variant:
        end = candidate.turn_end.token
        small = Vocabulary("small", candidate.tokenizer if own else with_token(candidate.tokenizer, end))
        fixed |= {"end_of_turn": end, "vocabulary": small}
    given = {name: strategy for name, strategy in known.items() if name not in fixed}
    of_variant = [example for example in item.examples if example["template"] == variant]
    examples = [{name: value for name, value in example.items() if name not in fixed} for example in of_variant]
    if own is not None and item.seam == "encode":
        fixed.pop("vocabulary", None)
        given["vocabulary"] = _either(small, own)
        examples = [{**example, "vocabulary": each} for example in examples for each in (small, own)]
    check = functools.update_wrapper(functools.partial(item.check, **fixed), item.check)
    if item.id == FIELDS:
        check = functools.update_wrapper(functools.partial(_says_something, check), item.check)
    distinct = {repr(example): example for example in examples}
    return dataclasses.replace(item, check=check, given=given, examples=tuple(distinct.values()), floor=floor)


def _says_something(check: Callable, function: Callable, messages: list[dict], **given: Any) -> Any:
    """The evidence of a check, but for an empty text: a template may leave out the tags around nothing."""
    if not messages[0]["content"].strip():
        raise UnsatisfiedAssumption
    return check(function, messages=messages, **given)


def twice(item: Property, candidate: TemplateOnTrial) -> Property:
    """The property that compares two renderings, given two: what is remembered is equal to itself."""
    if item.id != TWICE:
        return item
    renders = itertools.cycle([candidate.render, candidate.render_again])

    def check(render: Callable, **asked: Any) -> Any:
        return item.check(lambda *given: next(renders)(*given), **asked)

    return dataclasses.replace(item, check=functools.update_wrapper(check, item.check))


@functools.cache
def _either(small: Vocabulary, own: Vocabulary) -> st.SearchStrategy[Vocabulary]:
    return st.sampled_from([small, own])


def refusals_apart(verdict: Verdict, reasons: Counter[str]) -> Verdict:
    """A template that refuses nearly everything that is drawn was not measured."""
    starved = ("raised Unsatisfiable", "raised FailedHealthCheck")
    found = str((verdict.counterexample or {}).get("note", ""))
    if verdict.status in ("fail", "blocked") and any(words in found for words in starved):
        said = "; ".join(reason for reason, _ in reasons.most_common(1))
        return Verdict(verdict.property, "not-measured", f"nearly all that was drawn is refused: {said}")
    return verdict
