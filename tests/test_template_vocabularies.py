"""A template on trial with its own tokenizer: tokens are read on both, and what only its own gets wrong is found."""

from __future__ import annotations

import json

import pytest

from sftspec import properties
from sftspec.conformance.commands.cli import main
from sftspec.conformance.trial.template import TemplateOnTrial, put_template_on_trial
from sftspec.golden.reduced import hugging_face_tokenizer
from sftspec.golden.small_tokenizer import load
from sftspec.golden.vocabularies import VocabularyUnavailable, load_vocabulary
from sftspec.properties.cases.template import Vocabulary
from sftspec.templates import TEMPLATES

END = "every-answer-ends-in-one-end-of-turn-token"
REAL = [("qwen", "chatml/qwen2.5"), ("llama3", "llama3/hf"), ("llama2", "llama2/hf")]


def judged_on(vocabulary, variant, max_examples=60):
    candidate = TemplateOnTrial(variant, TEMPLATES[variant], variant, load(), vocabulary)
    trial = put_template_on_trial(candidate, properties.load("template"), max_examples=max_examples)
    return {verdict.property.id: verdict for verdict in trial.verdicts}


@pytest.mark.parametrize(("name", "variant"), REAL)
def test_tokens_are_read_on_a_real_vocabulary_as_well(name, variant):
    try:
        vocabulary = Vocabulary(name, load_vocabulary(name))
    except VocabularyUnavailable as error:
        pytest.skip(str(error))
    verdicts = judged_on(vocabulary, variant)
    assert {item: verdict.reason for item, verdict in verdicts.items() if verdict.status == "fail"} == {}
    small = judged_on(None, variant)
    assert verdicts[f"template/{END}"].evidence["drawn"] > small[f"template/{END}"].evidence["drawn"]  # examples twice


def test_a_vocabulary_that_loses_letters_is_found_and_named():
    """Only it: the small one keeps them all."""
    from tokenizers import Tokenizer, normalizers

    broken = Tokenizer.from_str(load().to_str())
    broken.normalizer = normalizers.Replace("b", "")
    verdicts = judged_on(Vocabulary("deaf", broken), "chatml/openai")
    verdict = verdicts["template/different-conversations-have-different-tokens"]
    assert verdict.status == "fail" and verdict.counterexample["arguments"]["vocabulary"].name == "deaf"


def test_a_real_tokenizer_without_the_end_of_turn_is_found(tmp_path, capsys):
    state = json.loads(hugging_face_tokenizer("chatml/qwen2.5").backend_tokenizer.to_str())
    config = {"chat_template": hugging_face_tokenizer("chatml/qwen2.5").chat_template, "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    folder = str(tmp_path)
    select = ["--tokenizer", folder, "--select", f"template/{END}"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert main(["check", "template", folder, *select]) == 0
    assert f"tokenizer   small, and {tmp_path.name}" in capsys.readouterr().out
    for token in state["added_tokens"]:
        token["content"] = token["content"].replace("im_end", "im_stop")
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert main(["check", "template", folder, *select]) == 1
