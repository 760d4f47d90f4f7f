"""The reference's render and encode with one thing changed: templates, pieces, texts, messages, axes, tokens, labels.

Each change is made in both functions where both have it, as it would be in a library with one wrong template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from sftspec import encode, render
from sftspec.conformance.sensitivity.mutants.parts import Parts, broken
from sftspec.conversation import ROLES
from sftspec.golden.small_tokenizer import load
from sftspec.masking import IGNORE, Encoded
from sftspec.spans import Piece, Rendered
from sftspec.templates import TEMPLATES, Template


class Asked(NamedTuple):
    """What a template was asked to render."""

    name: str
    messages: list[dict]
    is_prompt: bool


def other_templates(change: Callable[[str], Template]) -> Parts:
    """render and encode with other templates: change(name) -> template."""

    def broken_render(messages, template="chatml/openai", *rest, **options) -> Rendered:
        return render(messages, change(template), *rest, **options)

    def broken_encode(messages, template="chatml/openai", *rest, **options) -> Encoded:
        return encode(messages, change(template), *rest, **options)

    return broken("template", render=broken_render, encode=broken_encode)


def other_pieces(change: Callable[[list[Piece], Asked], Sequence[Piece]]) -> Parts:
    """render and encode with the pieces of every template changed."""

    def changed(name: str) -> Template:
        variant = TEMPLATES[name]

        def pieces(messages, add_generation_prompt):
            asked = Asked(name, messages, add_generation_prompt)
            yield from change(list(variant.pieces(messages, add_generation_prompt)), asked)

        return replace(variant, pieces=pieces)

    return other_templates(changed)


def other_text(change: Callable[[str, str, Asked], str]) -> Parts:
    """render and encode with the text of every piece changed: change(kind, text, asked) -> text."""
    return other_pieces(lambda pieces, asked: [(kind, m, change(kind, text, asked)) for kind, m, text in pieces])


def other_messages(change: Callable[[list[dict]], list[dict]], only: str = "", refuses: bool = True) -> Parts:
    """render and encode of other messages, in the templates whose name begins with `only`.

    refuses: what cannot be rendered is left as it is, so that it is refused.
    """

    def changed(messages, template):
        whole = all(item["role"] in ROLES and isinstance(item.get("content"), str) for item in messages)
        return change(messages) if template.startswith(only) and (whole or not refuses) else messages

    return broken(
        "template",
        render=lambda messages, template="chatml/openai", *rest, **options: render(
            changed(messages, template), template, *rest, **options
        ),
        encode=lambda messages, template="chatml/openai", **options: encode(
            changed(messages, template), template, **options
        ),
    )


def other_axes(**axes: str) -> Parts:
    """encode that sets axes by itself, whatever it is asked for."""
    return broken("template", encode=lambda messages, **options: encode(messages, **{**options, **axes}))


def other_ids(keep: Callable[[Encoded, int, str, bool], int]) -> Parts:
    """encode with each token repeated keep(example, position, template, is prompt) times."""

    def broken_encode(messages, template="chatml/openai", **options) -> Encoded:
        example = encode(messages, template, **options)
        is_prompt = options.get("add_generation_prompt", False)
        times = [keep(example, position, template, is_prompt) for position in range(len(example))]
        ids, labels, owners = (
            [value for value, count in zip(values, times, strict=True) for _ in range(count)]
            for values in (example.input_ids, example.labels, example.owners)
        )
        return replace(example, input_ids=ids, labels=labels, owners=owners)

    return broken("template", encode=broken_encode)


def masked_where(condition: Callable[[Encoded, int, str], bool]) -> Parts:
    """encode without the labels for which condition(example, position, template) holds."""

    def broken_encode(messages, template="chatml/openai", **options) -> Encoded:
        example = encode(messages, template, **options)
        masked = [
            IGNORE if condition(example, position, template) else label for position, label in enumerate(example.labels)
        ]
        return replace(example, labels=masked)

    return broken("template", encode=broken_encode)


def without_thoughts(content: str) -> str:
    """A content without the thoughts in it, as Qwen3's template takes them out."""
    return content.split("</think>")[-1].lstrip("\n") if "</think>" in content else content


def is_bos(example: Encoded, position: int, template: str) -> bool:
    bos = TEMPLATES[template].bos
    return bool(bos) and example.input_ids[position] == load().token_to_id(bos)
