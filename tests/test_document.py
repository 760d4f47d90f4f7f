"""The JSON document: what it counts, what it refuses, and what it never says."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator

from sftspec import properties
from sftspec.conformance.report.counterexample import counterexample_record
from sftspec.conformance.report.document import environment, identify, make_document
from sftspec.conformance.report.form import DocumentError, read_document, schema, validate, write_document
from sftspec.conformance.report.json_values import plain, without_paths
from sftspec.conformance.report.outcome import STATUSES, exit_code
from sftspec.conformance.trial.judge import Trial, put_on_trial, reach_verdicts, run_scenarios
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.masking import encode
from sftspec.packing import pack
from sftspec.properties import Property
from sftspec.selection import best_of_n
from sftspec.trainer import Pipeline


def silent_end_of_turn(*arguments, **options):
    """Encodes, and trains no end-of-turn token."""
    encoded = encode(*arguments, **options)
    kinds = [encoded.rendered.spans[owner].kind for owner in encoded.owners]
    kept = [-100 if kind == "end_of_turn" else label for kind, label in zip(kinds, encoded.labels, strict=True)]
    return replace(encoded, labels=kept)


def in_pairs(lengths, capacity, **options):
    """Packs whatever stands side by side, and so beyond the capacity."""
    return [list(range(start, min(start + 2, len(lengths)))) for start in range(0, len(lengths), 2)]


class Broken:
    name = "broken"

    def train(self, job):
        raise OSError(f"cannot write {job.workdir / 'model'}")


def scenarios(*names: str) -> list:
    return [item for item in SCENARIOS if item.name in names]


def chosen(*ids: str) -> list[Property]:
    loaded = {item.id: item for area in {name.split("/")[0] for name in ids} for item in properties.load(area)}
    return [loaded[name] for name in ids]


def document_of(trainer, ids, names=("accumulation",)) -> dict:
    trial = put_on_trial(trainer, chosen(*ids), scenarios=scenarios(*names))
    trial.seconds_of = {"accumulation": 1.5}
    return make_document(trial, identify(trainer, {}), "sftspec check my.py --seed 0", 0)


@pytest.fixture(scope="module")
def failing() -> dict:
    """A masking failure with its tokens, one that is not claimed, and one that needs more evidence than there is."""
    ids = ("masking/end-of-turn-is-trained", "masking/nothing-else-is-trained", "step/rate-zero-changes-nothing")
    return document_of(Pipeline(encode=silent_end_of_turn), ids)


def test_the_schema_is_a_schema_and_knows_the_statuses():
    for name in ("verdicts", "verdicts-1", "run"):
        Draft202012Validator.check_schema(schema(name))
    assert schema("verdicts")["$defs"]["verdict"]["properties"]["status"]["enum"] == list(STATUSES)
    assert list(schema("verdicts")["$defs"]["counts"]["properties"]) == list(STATUSES)


def test_documents_have_the_form_of_the_schema(failing):
    validate(failing)
    drawn = document_of(Pipeline(pack=in_pairs), ["packing/no-pack-exceeds-its-capacity"], ())
    assert drawn["verdicts"][0]["counterexample"]["arguments"]
    broken = document_of(Broken(), ["masking/nothing-else-is-trained"], ("plain",))
    for document in (drawn, broken):
        validate(document)


SPOILT = {
    "unknown status": (lambda document: document["verdicts"][0].update(status="skipped"), r"verdicts\[0\]\.status"),
    "unknown level": (lambda document: document["verdicts"][0].update(level="may"), r"verdicts\[0\]\.level"),
    "failure without counterexample": (
        lambda document: document["verdicts"][0].update(counterexample=None),
        r"verdicts\[0\]\.counterexample",
    ),
    "field too many": (lambda document: document.update(score=0.9), "'score' was unexpected"),
    "field too few": (lambda document: document["trainer"].pop("version"), "'version' is a required property"),
    "status not counted": (lambda document: document["totals"]["must"].pop("blocked"), "'blocked' is a required"),
    "evidence of nothing": (lambda document: document["verdicts"][0]["evidence"].update(plain=0), "less than"),
    "unknown place": (lambda document: document["verdicts"][0]["counterexample"]["place"].update(page=1), "'page'"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_the_schema_does_not_know_is_refused(failing, fault):
    change, message = SPOILT[fault]
    document = copy.deepcopy(failing)
    change(document)
    with pytest.raises(DocumentError, match=message):
        validate(document)


def test_a_failure_carries_its_conversation_and_its_tokens(failing):
    verdict = failing["verdicts"][0]
    found = verdict["counterexample"]
    assert (verdict["id"], verdict["status"]) == ("masking/end-of-turn-is-trained", "fail")
    assert found["failures"] > 1 and found["settings"] == {"batch_size": 1, "accumulation": 9}
    assert [message["role"] for message in found["messages"]][:2] == ["user", "assistant"]
    wrong = [token for token in found["tokens"] if token.get("wrong")]
    assert wrong and all(
        (token["text"], token["expected"], token["seen"]) == ("<|im_end|>", "<|im_end|>", "—") for token in wrong
    )
    trained = [token["text"] for token in found["tokens"] if token.get("trained")]
    spoken = "".join(message["content"] for message in found["messages"] if message["role"] == "assistant")
    assert "".join(trained).replace("␠", " ") == spoken
    asked = "sftspec check my.py --seed 0 --select masking/end-of-turn-is-trained"
    assert verdict["repro"] == f"{asked} --scenario accumulation"


def test_a_step_is_shown_in_figures():
    def per_micro_batch(logits, labels, num_targets=None, **options):
        return Pipeline().loss(logits, labels, num_targets=max(1, int((labels[..., 1:] != -100).sum())), **options)

    document = document_of(Pipeline(loss=per_micro_batch), ["step/the-denominator-is-the-number-of-targets"])
    numbers = document["verdicts"][0]["counterexample"]["numbers"]
    assert len(numbers["targets"]) == 9 and numbers["weights"] == [1.0] * 9
    assert numbers["learning_rate"] == 0.01 and numbers["scale"] == 1.0


def test_every_status_is_counted_by_itself(failing):
    must, should = failing["totals"]["must"], failing["totals"]["should"]
    assert list(must) == list(should) == list(STATUSES)
    assert (must["fail"], must["pass"], must["not-measured"]) == (1, 1, 1)
    assert sum(must.values()) + sum(should.values()) == len(failing["verdicts"])


CODES = {
    "all pass": ({"pass": 1}, {}, "", 0),
    "a must fails": ({"fail": 1}, {}, "", 1),
    "a must is ambiguous": ({"ambiguous": 1}, {}, "", 1),
    "a should fails": ({"pass": 1}, {"fail": 1}, "", 0),
    "a should is ambiguous": ({"pass": 1}, {"ambiguous": 1}, "", 0),
    "nothing is measured": ({"not-measured": 9, "not-claimed": 3}, {}, "", 3),
    "nothing is claimed": ({"not-claimed": 3}, {}, "", 3),
    "more is measured than not": ({"not-measured": 4, "blocked": 1, "pass": 5, "not-claimed": 90}, {}, "", 0),
    "less is measured than not": ({"not-measured": 5, "blocked": 1, "pass": 5, "not-claimed": 90}, {}, "", 3),
    "a must fails where little is measured": ({"not-measured": 9, "fail": 1}, {}, "", 1),
    "a property broke": ({"error": 1}, {}, "", 2),
    "a property of the weaker level broke": ({}, {"error": 1}, "", 2),
    "the trainer raised": ({"fail": 3}, {}, "OSError: no", 2),
}


@pytest.mark.parametrize("case", CODES)
def test_exit_codes(case):
    must, should, error, code = CODES[case]
    nothing = dict.fromkeys(STATUSES, 0)
    levels = {"must": must, "should": should}
    verdicts = [
        {"id": "a/b", "level": level, "status": status}
        for level, counts in levels.items()
        for status, count in counts.items()
        for _ in range(count)
    ]
    totals = {level: nothing | counts for level, counts in levels.items()}
    scenarios = [{"error": error, "conversations": 9, "refused": 0}]
    document = {"totals": totals, "verdicts": verdicts, "scenarios": scenarios, "baseline": None}
    assert exit_code(document) == code


def test_a_trainer_that_refuses_most_of_what_it_is_given_does_not_conform():
    document = document_of(Pipeline(), ["masking/nothing-else-is-trained"])
    given = document["scenarios"][0]["conversations"]
    for refused, code in ((given, 0), (given + 1, 3)):
        document["scenarios"][0]["refused"] = refused
        assert exit_code(document) == code


def test_a_document_of_the_last_format_is_read_in_todays_form(tmp_path):
    path = Path(__file__).parent / "documents" / "verdicts-1.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    validate(old, "verdicts-1")
    document = read_document(path)
    validate(document)
    assert document["verdicts"] == old["verdicts"] and document["baseline"] is None and document["format"] == 2
    assert {**old["totals"]["must"], "known-fail": 0, "stale": 0} == document["totals"]["must"]
    assert exit_code(document) == 1
    for text, message in (
        ("{", "not valid JSON"),
        ('{"format": NaN}', "NaN is no number"),
        ("[]", "top level"),
        ('{"format": 3}', "this version reads 1 to 2: update sftspec"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DocumentError, match=f"x.json: .*{message}"):
            read_document(tmp_path / "x.json")


def test_a_second_run_that_raised_is_an_error_of_its_scenario():
    trial = run_scenarios(Trial(Pipeline()), scenarios("resume after one step"), 0)
    trial.runs[0].twin.error = "OSError: disk full"
    document = make_document(reach_verdicts(trial, []), identify(Pipeline(), {}), "", 0)
    assert document["scenarios"][0]["error"] == "second run: OSError: disk full"
    assert exit_code(document) == 2


def test_no_folder_of_the_machine_is_named():
    document = document_of(Broken(), ["masking/nothing-else-is-trained"], ("plain",))
    text = json.dumps(document)
    assert document["scenarios"][0]["error"] == "OSError: cannot write <workdir>/model"
    assert tempfile.gettempdir() not in text and properties.__path__[0].rsplit("/", 1)[0] not in text
    said = without_paths('File "/home/me/env/lib/python3.11/site-packages/trl/trainer.py", line 3')
    assert said == 'File "trl/trainer.py", line 3'


def test_the_environment_is_versions_and_nothing_else():
    assert set(environment()) == {"python", "platform", "torch", "transformers"}
    assert environment()["platform"].count(" ") == 1


def test_the_trainer_is_named_with_version_setting_and_claims():
    identity = identify(Pipeline(pack=pack), {"clip": float("nan"), "layers": [1, 2], "rate": 0.5})
    assert identity["name"] == "reference" and identity["version"]
    assert identity["setting"] == {"clip": "nan", "layers": "[1, 2]", "rate": 0.5}
    assert identity["claims"] == sorted(Pipeline.claims)
    assert identify(Broken(), {})["claims"] == ["padding"]


def test_what_json_cannot_say_is_text():
    assert [plain(value) for value in (float("inf"), 1, None, True, "x")] == ["inf", 1, None, True, "x"]


def test_a_written_document_is_read_back(failing, tmp_path):
    write_document(failing, tmp_path / "verdicts.json")
    assert json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8")) == failing
    with pytest.raises(DocumentError, match=r"verdicts\.json: .*'x' was unexpected"):
        write_document({**failing, "x": 1}, tmp_path / "verdicts.json")


def test_a_function_that_raises_is_a_counterexample():
    def raising(lengths, capacity, **options):
        raise RuntimeError("no room")

    trial = put_on_trial(Pipeline(pack=raising), chosen("packing/no-pack-exceeds-its-capacity"), scenarios=[])
    verdict = trial.verdicts[0]
    assert verdict.status == "fail"
    record = counterexample_record(verdict, verdict.counterexample)
    assert "pack raised RuntimeError: no room" in record["note"] and record["tokens"] == []


def test_an_answer_that_cannot_be_read_is_not_told_as_an_error_of_the_function():
    short = SimpleNamespace(parts={"best_of_n": lambda rewards, on_unranked="error": best_of_n(rewards)[:-1]})
    trial = put_on_trial(short, chosen("best_of_n/the-winner-has-the-largest-reward"), scenarios=[])
    note = trial.verdicts[0].counterexample["note"]
    assert note.startswith("what best_of_n returned cannot be read, ValueError: zip() argument 2 is shorter")
