"""A library's hand-written renderer on trial: the properties that read token ids and labels alone.

It gives no text and no spans, and it has no axis for control strings in contents. What needs these is not measured; the
rest is asked with contents that hold no control string.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from sftspec.conformance.adapters.encoders import Encoder, Encoding
from sftspec.conformance.judge import Trial, Verdict, reach_verdicts
from sftspec.conformance.template_trial import PREFIX
from sftspec.properties import Property
from sftspec.properties.template_cases import plain_text, talks
from sftspec.templates import TEMPLATES

INFERENCE = "template/the-prompt-at-inference-is-the-prefix-that-was-trained"
ENDS_WITH = {INFERENCE: "assistant"}
READS_IDS_ALONE = (
    PREFIX,
    INFERENCE,
    "template/different-conversations-have-different-tokens",
    "template/one-bos-opens-the-sequence",
    "template/every-answer-ends-in-one-end-of-turn-token",
)


@dataclass(frozen=True)
class EncoderOnTrial:
    """An encoder, as something that has a part to judge."""

    encoder: Encoder
    claims: frozenset[str] = frozenset({"template"})

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def version(self) -> str:
        return self.encoder.version

    @property
    def parts(self) -> dict[str, Callable[..., Any]]:
        return {"encode": self.encode}

    def encode(self, messages: list[dict], add_generation_prompt: bool = False, **axes: Any) -> Encoding:
        return self.encoder(messages, add_generation_prompt)


def put_encoder_on_trial(
    encoder: Encoder,
    chosen: Iterable[Property],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int = 100,
) -> Trial:
    """The verdicts of the chosen properties of `encode` on a library's renderer."""
    chosen = [item for item in chosen if item.area == "template"]
    trial = Trial(EncoderOnTrial(encoder))
    reasons = {item.id: why_not(item, encoder) for item in chosen}
    judged = [specialised(item, encoder.variant) for item in chosen if not reasons[item.id]]
    reach_verdicts(trial, judged, progress, max_examples)
    verdicts = {verdict.property.id: verdict for verdict in trial.verdicts}
    trial.verdicts = [verdicts.get(item.id) or Verdict(item, "not-measured", reasons[item.id]) for item in chosen]
    return trial


def why_not(item: Property, encoder: Encoder) -> str:
    """Why a property says nothing of an encoder ("" if it does)."""
    if item.id not in READS_IDS_ALONE:
        return "it gives token ids and flags; this reads the text, or an axis that it does not have"
    if item.id == PREFIX and not TEMPLATES[encoder.variant].prefix_preserving:
        return "it rewrites history (thoughts of earlier turns)"
    return ""


def specialised(item: Property, variant: str) -> Property:
    """The property, asked for one variant, with contents that hold no control string and its own way of cutting."""
    own: dict[str, Any] = {"template": variant, "tokenization": "whole"}
    own = {name: value for name, value in own.items() if name in (item.given or {})}
    given = {**(item.given or {}), "messages": talks(plain_text, ENDS_WITH.get(item.id, ""))}
    given |= {name: st.just(value) for name, value in own.items()}
    plain = [example for example in item.examples if "<|" not in str(example["messages"])]
    examples = tuple({**example, **own} for example in plain if example["template"] == variant)
    return dataclasses.replace(item, given=given, examples=examples)
