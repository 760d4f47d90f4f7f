"""What trainers may choose is judged as declared; and what is not declared is one message, that blames nobody else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sftspec import properties
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.trial.judge import Trial, put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.witness.identity import identify
from sftspec.golden.small_tokenizer import load
from sftspec.masking import Conventions, encode
from sftspec.tests.loops import Loop

JOBS = {scenario.name: scenario for scenario in SCENARIOS}
MUTANTS = {item.name: item for item in load_mutants()}


def tried(trainer, names="plain", areas="masking packing", seed=3) -> Trial:
    chosen = [item for item in properties.load(*areas.split()) if item.seam == "run"]
    trial = put_on_trial(trainer, chosen, seed, [JOBS[name] for name in names.split("; ")])
    assert not any(run.error for run in trial.runs)
    return trial


def failing(trial: Trial) -> dict[str, str]:
    """What fails, is ambiguous or blocked, with what is said of it."""
    return {
        item.property.id: item.counterexample["note"] if item.status == "fail" else item.reason
        for item in trial.verdicts
        if item.status in ("fail", "ambiguous", "blocked", "error")
    }


TURNS = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "\nWhat is it?\n\n"},
    {"role": "assistant", "content": "\n\nIt is\n"},
    {"role": "user", "content": "<|im_end|>\n"},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": "\n"},
]


def test_prompt_and_answer_are_encoded_apart_as_at_inference():
    """By hand: what stands before an answer is encoded in one piece, and the answer with the end of its turn in one."""
    pieces = (
        "<|im_start|>system\nBe brief.\n<|im_end|>\n"
        "<|im_start|>user\n\nWhat is it?\n\n<|im_end|>\n<|im_start|>assistant\n",
        "\n\nIt is\n<|im_end|>",
        "\n<|im_start|>user\n<|im_end|>\n<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
        "\n<|im_start|>assistant\n",
        "\n<|im_end|>",
        "\n",
    )
    vocabulary = load()
    of = [vocabulary.encode(piece, add_special_tokens=False).ids for piece in pieces]
    example = encode(TURNS, "chatml/openai", vocabulary, tokenization="answers")
    assert example.input_ids == [token for ids in of for token in ids]
    labels = [token if number % 2 else -100 for number, ids in enumerate(of) for token in ids]
    assert example.labels == labels
    assert example.input_ids != encode(TURNS, "chatml/openai", vocabulary).input_ids


class PromptApart(Loop):
    """Prompt and answer are encoded apart, as LLaMA-Factory, ms-swift and LitGPT do."""

    def tokenize(self, job, conversation):
        pieces, before = [], ""
        for message in conversation:
            before += f"<|im_start|>{message['role']}\n"
            if message["role"] == "assistant":
                pieces += [(before, False), (f"{message['content']}<|im_end|>", True)]
                before = "\n"
            else:
                before += f"{message['content']}<|im_end|>\n"
        ids, labels = [], []
        for text, on in [*pieces, (before, False)]:
            new = job.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, labels = ids + new, labels + (new if on else [-100] * len(new))
        return ids[: job.max_length], labels[: job.max_length]


class Segmented(Loop):
    """Each message is encoded by itself, header and content apart."""

    def tokenize(self, job, conversation):
        ids, labels = [], []
        for message in conversation:
            on = message["role"] == "assistant"
            for text, trained in (
                (f"<|im_start|>{message['role']}\n", False), (message["content"], on), ("<|im_end|>", on), ("\n", False)
            ):  # fmt: skip
                new = job.tokenizer(text, add_special_tokens=False)["input_ids"]
                ids, labels = ids + new, labels + (new if trained else [-100] * len(new))
        return ids[: job.max_length], labels[: job.max_length]


AS_DECLARED = "masking/text-is-cut-into-tokens-as-declared"


@pytest.mark.parametrize(("kind", "way"), [(PromptApart, "answers"), (Segmented, "segmented")])
def test_another_way_to_cut_text_is_one_message_that_names_the_convention(kind, way):
    found = failing(tried(kind()))
    assert list(found) == [AS_DECLARED]
    assert f"declare sftspec.Conventions(tokenization='{way}')" in found[AS_DECLARED]


@pytest.mark.parametrize(("kind", "way"), [(PromptApart, "answers"), (Segmented, "segmented")])
def test_a_way_to_cut_text_that_is_declared_is_no_fault(kind, way):
    class Declared(kind):
        conventions = Conventions(tokenization=way)

    assert failing(tried(Declared(), "plain; odd turns")) == {}


class ByLetter(Loop):
    """What is not trained is encoded letter by letter, which no convention says."""

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        new, marks = [], []
        for token, label in zip(ids, labels, strict=True):
            letters = list(job.tokenizer.convert_ids_to_tokens(token))
            splits = label == -100 and token not in job.tokenizer.all_special_ids
            parts = job.tokenizer.convert_tokens_to_ids(letters) if splits else [token]
            new, marks = new + parts, marks + (parts if label != -100 else [-100] * len(parts))
        return new, marks


def test_a_way_to_cut_text_that_no_convention_says_is_told_and_blames_nobody():
    found = failing(tried(ByLetter()))
    assert list(found) == [AS_DECLARED]
    assert found[AS_DECLARED].startswith("the same text in other tokens")


def test_a_leak_is_heard_although_text_is_cut_otherwise():
    leaking = MUTANTS["packing/plain-causal-attention"].make()
    apart = replace(
        leaking, encode=lambda messages, **options: encode(messages, **options | {"tokenization": "answers"})
    )
    found = failing(tried(apart, "packed"))
    assert AS_DECLARED in found
    assert found["packing/examples-do-not-see-each-other"].startswith("moved when tokens of conversations")


class FilledWith(Loop):
    """Rows are filled on the right with an id, without a mask: causal attention hides it."""

    filler = 0

    def pad(self, job, rows):
        ids, mask, labels = super().pad(job, rows)
        return torch.where(mask == 0, self.filler, ids), mask, labels

    def logits(self, job, model, ids, mask):
        return model(input_ids=ids, use_cache=False).logits


class FilledOnTheLeft(FilledWith):
    """The same on the left, where every position of the example attends to it."""

    def pad(self, job, rows):
        ids, mask, labels = super().pad(job, rows)
        order = torch.stack([torch.argsort(row, stable=True) for row in mask])
        return tuple(torch.gather(item, 1, order) for item in (ids, mask, labels))


@pytest.mark.parametrize("filler", [0, 17])
def test_what_nobody_attends_to_and_nothing_trains_is_padding_whatever_its_id(filler):
    trainer = FilledWith()
    trainer.filler = filler
    assert failing(tried(trainer)) == {}


def test_unknown_tokens_that_are_attended_to_are_told_and_are_no_padding():
    found = failing(tried(FilledOnTheLeft()))
    assert "comes from no conversation" in found["masking/every-position-has-an-origin"]
    assert "packing/padding-is-never-attended" not in found or found["packing/padding-is-never-attended"].startswith(
        "needs"
    )


def test_a_pad_id_of_its_own_may_be_declared():
    trainer = FilledOnTheLeft()
    trainer.conventions = Conventions(pad=0)
    found = failing(tried(trainer))
    assert found["packing/padding-is-never-attended"] == "moved when the padding was changed"
    assert "masking/every-position-has-an-origin" not in found


class PromptLimit(Loop):
    """Of a prompt over `limit` tokens the beginning is cut off; every target is trained."""

    limit = 512

    def tokenize(self, job, conversation):
        ids, labels = super().tokenize(job, conversation)
        first = next((place for place, label in enumerate(labels) if label != -100), 0)
        cut = max(0, first - self.limit)
        return ids[cut:], labels[cut:]


def test_a_prompt_that_loses_its_beginning_is_seen_and_the_place_is_told():
    found = failing(tried(PromptLimit(), "one long conversation", "masking"))
    assert list(found) == ["masking/a-row-begins-with-its-conversations-first-token"]
    assert found["masking/a-row-begins-with-its-conversations-first-token"].startswith("begins with token ")


def test_conventions_of_tokens_stand_in_a_recording(tmp_path):
    from sftspec.conformance.ledger.recording import load_run, save_run

    run = tried(PromptApart()).runs[0]
    save_run(run, tmp_path / "run")
    read = load_run(tmp_path / "run", seed=3)
    assert dict(read.cut) == {"tokenization": "answers"}
    assert [item.input_ids for item in read.streams] == [item.input_ids for item in run.streams]


def test_a_conversation_may_end_with_its_end_of_turn_token():
    """What `final_separator` takes away is the last token alone, in every policy: counted by hand."""
    talk, tokenizer = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], load()
    prompt = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"
    for policy, targets in (("all", "B<|im_end|>"), ("every-token", prompt + "B<|im_end|>")):
        whole = encode(talk, tokenizer=tokenizer, policy=policy)
        short = encode(talk, tokenizer=tokenizer, policy=policy, conventions=Conventions(final_separator=False))
        assert short.input_ids == whole.input_ids[:-1] and tokenizer.id_to_token(whole.input_ids[-1]) == "Ċ"
        kept = [token for token, label in zip(short.input_ids, short.labels, strict=True) if label != -100]
        assert tokenizer.decode(kept, skip_special_tokens=False) == targets


@pytest.mark.parametrize("given", [Conventions, "whole"])
def test_conventions_that_are_none_are_refused_with_what_to_give(given):
    with pytest.raises(TrainerError, match=r"conventions is a (type|str): give sftspec.Conventions\(...\)"):
        identify(SimpleNamespace(conventions=given), {})
