"""Our templates give what independent implementations gave: text, ids and targets, on real vocabularies."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from sftspec import encode, render
from sftspec.golden import lint
from sftspec.golden.loader import GoldenError, load_cases, read_case
from sftspec.golden.vocabularies import SOURCES, VocabularyUnavailable, load_vocabulary
from sftspec.templates import TEMPLATES, TemplateError

CASES = load_cases()
TEMPLATE_NAMES = sorted({case.template for case in CASES})


def vocabulary(name):
    """The vocabulary; without a network this says so, and where CI is set it fails."""
    try:
        return load_vocabulary(name)
    except VocabularyUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"goldens on {name} were NOT checked: {error}")


def conversation(case):
    return {"messages": case.messages, "tools": case.tools}


def encoded(case, template=None):
    return encode(
        conversation(case),
        template or case.template,
        vocabulary(case.vocabulary),
        special_tokens=case.special_tokens,
        tokenization=case.tokenization,
        add_generation_prompt=case.add_generation_prompt,
    )


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_text_equals_the_oracles(template):
    for case in load_cases([template]):
        if case.rejected is None:
            rendered = render(conversation(case), template, case.add_generation_prompt)
            assert rendered.text == case.text, case.id


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_what_the_oracle_refuses_is_refused(template):
    for case in load_cases([template]):
        if case.rejected is not None:
            with pytest.raises(TemplateError):
                render(conversation(case), template, case.add_generation_prompt)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_ids_and_targets_equal_the_oracles(template):
    for case in load_cases([template]):
        if case.rejected is None:
            example = encoded(case)
            assert example.input_ids == case.input_ids, case.id
            assert case.labels is None or example.labels == case.labels, case.id


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_the_template_declares_its_sources_axes(template):
    case = load_cases([template])[0]
    declared = TEMPLATES[template].special_tokens, TEMPLATES[template].tokenization
    assert declared == (case.special_tokens, case.tokenization)


def test_every_named_variant_has_goldens_and_there_are_enough():
    without = set(TEMPLATES) - set(TEMPLATE_NAMES)
    assert without == {"chatml/qwen3-nothink"}  # the same text as chatml/qwen3 in training
    assert len(CASES) >= 250
    assert Counter(case.vocabulary for case in CASES).keys() == SOURCES.keys()


def test_nearly_every_case_has_its_targets():
    unknown = [case.id for case in CASES if case.rejected is None and case.trained is None]
    assert unknown == ["chatml/qwen3/two_assistants"]


def test_every_answered_case_was_put_to_a_second_oracle():
    assert all(case.second for case in CASES if case.rejected is None)


def test_no_fault_in_the_files():
    assert list(lint.faults()) == []


def broken(piece):
    """chatml/openai with a fault in its pieces."""
    template = TEMPLATES["chatml/openai"]
    return replace(template, pieces=lambda *arguments: (piece(*item) for item in template.pieces(*arguments)))


@pytest.mark.parametrize(
    "fault",
    [
        lambda kind, message, text: (kind, message, text.rstrip("\n") if kind == "header" else text),
        lambda kind, message, text: (kind, message, text.strip() if kind == "content" else text),
        lambda kind, message, text: (kind, message, "" if kind == "separator" else text),
    ],
    ids=["header without newline", "stripped content", "no newline between turns"],
)
def test_a_broken_template_fails_the_goldens(fault):
    cases = load_cases(["chatml/openai"])
    assert any(render(case.messages, broken(fault), case.add_generation_prompt).text != case.text for case in cases)


def test_untrained_end_of_turn_fails_the_goldens():
    """The end of a turn taken for a separator: nothing in the text shows it, the targets do."""
    template = broken(lambda kind, message, text: ("separator" if kind == "end_of_turn" else kind, message, text))
    cases = [case for case in load_cases(["chatml/openai"]) if case.labels is not None]
    assert all(encoded(case, template).input_ids == case.input_ids for case in cases)
    assert any(encoded(case, template).labels != case.labels for case in cases)


def test_the_loader_refuses_fields_that_it_does_not_know():
    record = {field: getattr(CASES[0], field) for field in CASES[0].__dataclass_fields__}
    assert read_case(record) == CASES[0]
    with pytest.raises(GoldenError, match="unknown fields \\['weights'\\]"):
        read_case({**record, "weights": []})
    with pytest.raises(GoldenError, match="missing fields \\['text'\\]"):
        read_case({key: value for key, value in record.items() if key != "text"})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"trained": [[0, 10**6]]}, "trained ranges"),
        ({"rejected": "no"}, "is rejected and has an answer"),
        ({"text": None}, "neither an answer nor"),
        ({"second": []}, "nobody was asked"),
        ({"vocabulary": "gpt2"}, "is not one of"),
        ({"template": "chatml/qwen2"}, "does not stand in the file"),
    ],
)
def test_the_lint_finds(tmp_path, change, fault):
    record = json.loads((lint.CASES / "chatml-openai.json").read_text(encoding="utf-8"))[0] | {"disagreements": []}
    (tmp_path / "chatml-openai.json").write_text(json.dumps([record | change]), encoding="utf-8")
    assert any(fault in found for found in lint.faults(tmp_path))


def test_the_lint_finds_a_case_that_stands_twice(tmp_path):
    record = json.loads((lint.CASES / "chatml-openai.json").read_text(encoding="utf-8"))[0]
    (tmp_path / "chatml-openai.json").write_text(json.dumps([record, record]), encoding="utf-8")
    assert any("asks the same" in found for found in lint.faults(tmp_path))


def test_every_disagreement_is_decided_somewhere_that_exists():
    """The table names variants, arguments, conventions and properties; each of them is there."""
    import inspect

    from sftspec import properties
    from sftspec.golden.disagreements import DISAGREEMENTS
    from sftspec.masking import Conventions

    places = {
        "variant": set(TEMPLATES),
        "axis": {*inspect.signature(render).parameters, *inspect.signature(encode).parameters},
        "convention": set(Conventions.__dataclass_fields__),
        "property": {item.id for item in properties.load("template", "masking")},
    }
    for disagreement in DISAGREEMENTS:
        assert set(disagreement.names) <= places[disagreement.kind], disagreement
