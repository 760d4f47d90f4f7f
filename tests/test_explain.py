"""`sftspec explain` answers what a reader asks: an id in full, a word by what mentions it, the best first."""

from __future__ import annotations

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.explain import explanation, search
from sftspec.properties import revisions
from sftspec.properties.articles import articles
from sftspec.properties.catalogue import catalogue


def explained(*asked: str) -> str:
    return "\n".join(explanation(" ".join(asked)))


def ids(asked: str) -> list[str]:
    return [item.id for item in search(asked, [*articles().values(), *catalogue()])]


@pytest.mark.parametrize("name", ["ST-DUP", "st-dup"])
def test_a_law_is_explained_with_formula_source_bound_function_and_properties(name):
    said = explained(name)
    for part in (
        articles()["ST-DUP"].sentence,
        "L(B ∪ B) = L(B)",
        "BOUND-LOSS",
        "derived",
        "sftspec/step.py:",
        "step/a-doubled-batch-costs-the-same",
        "properties/LAWS.md:",
    ):
        assert part in said


def test_the_place_of_the_function_is_where_it_stands():
    (line,) = (line for line in explained("ST-DUP").splitlines() if line.startswith("reference"))
    path, number = line.split()[1].split(":")
    assert (revisions.FOLDER.parents[1] / path).read_text().splitlines()[int(number) - 1].startswith("def sft_loss(")


def test_a_property_is_explained_with_its_laws_and_what_it_mentions():
    said = explained("masking/each-target-is-the-next-token")
    for part in ("def each_target_is_the_next_token", "MK-SHIFT", "z[t] = c · onehot(y[t+1])", "BOUND-LOSS", "H7"):
        assert part in said


def test_a_law_without_a_property_says_why():
    assert "no property" in explained("ST-DESC")


def test_a_trap_a_bug_and_a_bound_name_what_looks_for_them():
    assert "masking/each-target-is-the-next-token" in explained("H7")
    for name in ("trl#976", "huggingface/trl#976", "M-01"):
        assert explained(name).startswith("M-01  (bug)") and "masking/end-of-turn-is-trained" in explained(name)
    assert "ST-CE" in explained("BOUND-LOSS")


@pytest.mark.parametrize(
    "question, best",
    [
        ("denominator", "denominator"),
        ("what is the denominator across ranks?", "ST-DP"),
        ("what happens when truncation removes every target?", "MK-TRUNCDROP"),
        ("how exact is equal?", "equal"),
        ("newline", "separator"),
        ("truncated", "truncation"),
        ("double BOS", "T-01"),
    ],
)
def test_a_question_in_words_finds_its_answer(question, best):
    assert best in ids(question)[:2]


def test_all_words_of_a_question_count():
    assert set(ids("truncation removes target")) < set(ids("truncation"))
    assert ids("truncation qwertyuiop") == ids("truncation")  # of words that nothing mentions the others remain


def test_a_word_of_the_glossary_is_explained_before_what_mentions_it():
    lines = explained("denominator").splitlines()
    assert lines[0].startswith("denominator: The number that the summed loss is divided by")
    assert lines[-1].endswith("in full: sftspec explain ID")
    assert any(line.startswith("ST-DP ") for line in lines)


def test_one_hit_is_explained_in_full():
    assert explained("what happens when truncation removes every target?") == explained("MK-TRUNCDROP")


def test_many_hits_are_counted():
    assert " more, another word narrows it" in explained("loss")


def test_a_retired_id_names_its_successors(monkeypatch):
    declared = {"retired": {"masking/old": {"successors": ["masking/end-of-turn-is-trained"], "why": "it was two"}}}
    monkeypatch.setattr("sftspec.conformance.commands.explain.changes", lambda: declared)
    said = explained("masking/old")
    assert said.startswith("masking/old is retired: it was two") and "Every trained assistant turn" in said


@pytest.mark.parametrize(
    "asked, hint",
    [
        ("ST-DUPE", "did you mean ST-DUP"),
        ("masking/end-of-turn-is-traind", "did you mean masking/end-of-turn-is-trained"),
        ("H99", "unknown id or word 'H99'"),
        ("trl#999999", "unknown id or word 'trl#999999'"),
        ("qwertyuiop", "unknown id or word 'qwertyuiop'; `sftspec list`"),
        ("perplexiti teacer", "did you mean teacher"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_near(asked, hint, capsys):
    assert main(["explain", asked]) == 2
    said = capsys.readouterr()
    assert hint in said.err and not said.out
