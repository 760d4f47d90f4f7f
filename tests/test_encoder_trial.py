"""A library's hand-written renderer on trial: ours in that form passes, a broken one fails, an absent one is named."""

from __future__ import annotations

import importlib.util

import pytest

from sftspec import encode, properties
from sftspec.conformance.adapters.encoders import LIBRARIES, Encoder, encoders_at
from sftspec.conformance.commands.cli import main
from sftspec.conformance.trial.encoder import (
    READS_IDS_ALONE,
    EncoderOnTrial,
    put_encoder_on_trial,
    texts_of_goldens,
)
from sftspec.conformance.trial.template import PREFIX
from sftspec.conformance.trial.template_traits import TRAINS_SEPARATOR
from sftspec.golden.small_tokenizer import load
from sftspec.spans import TemplateError

BOS = "one-bos-opens-the-sequence"
END = "every-answer-ends-in-one-end-of-turn-token"


def ours(template="llama3/llama-models"):
    """Our encode, in the form in which a library gives its renderer."""

    def ask(messages, add_generation_prompt):
        example = encode(messages, template, load(), add_generation_prompt=add_generation_prompt)
        return example.input_ids, [label != -100 for label in example.labels]

    return ask


def bos_twice(messages, add_generation_prompt):
    ids, trained = ours()(messages, add_generation_prompt)
    return ids[:1] + ids, [False, *trained]


def end_not_trained(messages, add_generation_prompt):
    ids, trained = ours()(messages, add_generation_prompt)
    end = load().token_to_id("<|eot_id|>")
    return ids, [flag and token != end for token, flag in zip(ids, trained, strict=True)]


def prompt_without_header(messages, add_generation_prompt):
    return ours()(messages, False)


def system_last(messages, add_generation_prompt):
    system = [message for message in messages if message["role"] == "system"]
    return ours()([message for message in messages if message["role"] != "system"] + system, add_generation_prompt)


def contents_joined(messages, add_generation_prompt):
    return ours()([{"role": "user", "content": "".join(item["content"] for item in messages)}], add_generation_prompt)


def encoder_verdicts(ask, max_examples=40):
    chosen = properties.load("template")
    verdicts = put_encoder_on_trial(Encoder("mine", "llama3/llama-models", ask, "1"), chosen, max_examples=max_examples)
    return {verdict.property.id: verdict.status for verdict in verdicts.verdicts}


def test_an_encoder_is_judged_by_what_reads_ids_alone():
    statuses = encoder_verdicts(ours(), max_examples=100)
    assert {name for name, status in statuses.items() if status == "pass"} == set(READS_IDS_ALONE)
    assert {status for name, status in statuses.items() if name not in READS_IDS_ALONE} == {"not-measured"}


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (bos_twice, BOS),
        (end_not_trained, END),
        (prompt_without_header, "the-first-token-after-the-prompt-is-a-target"),
        (system_last, PREFIX.removeprefix("template/")),
        (contents_joined, "different-conversations-have-different-tokens"),
    ],
)
def test_a_broken_encoder_fails_the_property_of_its_bug(ask, name):
    assert encoder_verdicts(ask)[f"template/{name}"] == "fail"


def with_newline(messages, add_generation_prompt):
    """ChatML whose newline after the end of a turn is trained, as LLaMA-Factory's is."""
    ids, trained = ours("chatml/openai")(messages, add_generation_prompt)
    end = load().token_to_id("<|im_end|>")
    return ids, [flag or (at > 0 and trained[at - 1] and ids[at - 1] == end) for at, flag in enumerate(trained)]


def test_to_train_the_newline_after_the_end_of_a_turn_is_a_habit():
    candidate = Encoder("mine", "chatml/openai", with_newline, "1")
    assert EncoderOnTrial(candidate).habits == (TRAINS_SEPARATOR,)
    assert EncoderOnTrial(Encoder("mine", "chatml/openai", ours("chatml/openai"), "1")).habits == ()
    verdicts = put_encoder_on_trial(candidate, properties.load("template"), max_examples=40).verdicts
    assert {verdict.status for verdict in verdicts if verdict.property.id == f"template/{END}"} == {"pass"}


def test_what_an_encoder_refuses_is_not_judged_and_the_rest_is():
    def refusing(messages, add_generation_prompt):
        if messages[0]["role"] == "system":
            raise TemplateError("no system prompts here")
        return ours()(messages, add_generation_prompt)

    def refusing_all(messages, add_generation_prompt):
        raise TemplateError("nothing here")

    statuses = encoder_verdicts(refusing, max_examples=100)
    assert {statuses[name] for name in READS_IDS_ALONE} == {"pass"}
    encoder = Encoder("mine", "", refusing_all, "1")
    verdicts = put_encoder_on_trial(encoder, properties.load("template"), max_examples=20).verdicts
    assert {verdict.status for verdict in verdicts} == {"not-measured"}
    assert any("nothing here" in verdict.reason for verdict in verdicts)


def test_an_encoder_of_no_named_variant_is_judged_by_what_needs_no_declaration():
    encoder = Encoder("mine", "", system_last, "1", ends_with="assistant", tokenizer="its own")
    verdicts = put_encoder_on_trial(encoder, properties.load("template"), max_examples=40).verdicts
    found = {verdict.property.id: verdict for verdict in verdicts}
    assert found[PREFIX].status == "fail" and found[f"template/{BOS}"].status == "not-measured"
    assert "which would declare: BOS" in found[f"template/{BOS}"].reason and texts_of_goldens(encoder) == (0, 0, "")


def test_goldens_tell_a_renderer_from_its_variant():
    """LLaMA-Factory's Llama-2 has no space before </s>: ids alone do not show it, the published texts do."""
    equal, number, first = texts_of_goldens(Encoder("mine", "chatml/openai", ours("chatml/openai"), "1"))
    assert equal == number > 40 and not first
    equal, number, first = texts_of_goldens(Encoder("mine", "llama3/llama-models", ours("llama3/hf"), "1"))
    assert 0 < equal < number and first.startswith("llama3/llama-models/")


PLACES = {
    "renderers:qwen3": 0,
    "tinker-cookbook:llama3": 0,
    "llamafactory:qwen": 0,
    "mistral-common:v7": 0,
    # At inference no earlier answer has an empty thought; in its training every one has.
    "llamafactory:qwen3": 1,
    # The system prompt stands in the last user's turn, so that earlier answers are trained without it.
    "mistral-common:v3": 1,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_library_is_judged_where_it_is_installed(place, capsys):
    library = LIBRARIES[place.partition(":")[0]]
    if importlib.util.find_spec(library.module) is None:
        pytest.skip(f"{library.module} is not installed here")
    assert main(["check", "template", place]) == PLACES[place]
    assert "judged as" in capsys.readouterr().out


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_not_there_is_named(name, capsys):
    if importlib.util.find_spec(LIBRARIES[name].module) is not None:
        assert {encoder.name.partition(":")[0] for encoder in encoders_at(name)} == {name}
        return
    assert main(["check", "template", name, "--select", f"template/{END}"]) == 2
    assert f"{name} is not installed here: pip install {name}" in capsys.readouterr().err
