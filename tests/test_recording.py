"""A run that was saved and read again is the run: same tensors, same verdicts; anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sftspec import properties
from sftspec.conformance.ledger.recording import COLUMNS, SETTINGS, load_run, load_trial, save_run, save_trial
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.report.document import identify
from sftspec.conformance.report.form import schema
from sftspec.conformance.trial.judge import Trial, reach_verdicts, run_scenarios
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.masking import Conventions
from sftspec.properties.ledger.run import Run
from sftspec.trainer import Pipeline

RECORDED = ("accumulation", "bfloat16", "resume after one step", "packed, learned positions")


@pytest.fixture(scope="module")
def live() -> Trial:
    trial = Trial(Pipeline())
    return run_scenarios(trial, [item for item in SCENARIOS if item.name in RECORDED], seed=0)


@pytest.fixture(scope="module")
def folder(live, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "trial"
    save_trial(live, identify(live.trainer, {"on_no_target": "drop"}), 0, folder)
    return folder


@pytest.fixture
def one(folder, tmp_path):
    """A copy of one recorded run, to be spoilt."""
    return shutil.copytree(next(folder.glob("*accumulation")), tmp_path / "run")


def run_properties() -> list:
    return [item for area in ("masking", "packing", "step") for item in properties.load(area) if item.seam == "run"]


def test_a_recorded_trial_gets_the_verdicts_of_the_live_one(live, folder):
    recorded, record = load_trial(folder)
    assert record["trainer"]["name"] == "reference" and record["trainer"]["setting"] == {"on_no_target": "drop"}
    here = reach_verdicts(Trial(live.trainer, live.runs), run_properties()).verdicts
    there = reach_verdicts(recorded, run_properties()).verdicts
    found = [[(item.property.id, item.status, item.evidence, item.reason) for item in side] for side in (here, there)]
    assert found[0] == found[1]
    assert sum(item.status == "pass" for item in here) > 30


def test_every_tensor_comes_back_bit_for_bit(live, folder):
    recorded, _ = load_trial(folder)
    for run, again in zip(live.runs, recorded.runs, strict=True):
        assert again.rows == run.rows and again.replays == run.replays and again.job.reported == run.job.reported
        for step, other in zip(run.steps, again.steps, strict=True):
            for kind in ("gradients", "before", "after"):
                mine, theirs = getattr(step, kind), getattr(other, kind)
                assert list(mine) == list(theirs)
                assert all(torch.equal(mine[name], theirs[name]) for name in mine)
                assert all(mine[name].dtype == theirs[name].dtype for name in mine)
        for call, other in zip(run.forwards, again.forwards, strict=True):
            assert torch.equal(call.hidden, other.hidden)
            assert (call.input_ids, call.arguments, call.trained) == (other.input_ids, other.arguments, other.trained)
    assert {run.job.model.dtype for run in recorded.runs} == {torch.float32, torch.bfloat16}


def test_the_model_and_the_tokenizer_can_be_used_again(live, folder):
    recorded, _ = load_trial(folder)
    for run, again in zip(live.runs, recorded.runs, strict=True):
        ids = torch.tensor([run.streams[0].input_ids])
        assert [item.input_ids for item in again.streams] == [item.input_ids for item in run.streams]
        logits = [item.job.model.eval()(input_ids=ids, use_cache=False).logits for item in (run, again)]
        assert torch.equal(*logits)
        assert again.job.tokenizer.all_special_ids == run.job.tokenizer.all_special_ids


def test_equal_tensors_are_stored_once(folder):
    one = next(folder.glob("*accumulation"))
    equal = json.loads((one / "run.json").read_text())["equal"]
    assert equal["step/1/before/lm_head.weight"] == "step/0/after/lm_head.weight"
    assert "step/1/before/lm_head.weight" not in load_file(one / "tensors.safetensors")


def test_what_is_not_finite_survives(live, tmp_path):
    run = dataclasses.replace(live.runs[0], twin=None)
    job = dataclasses.replace(run.job, reported={"losses": [math.nan, math.inf, -math.inf, 0.1]})
    save_run(dataclasses.replace(run, job=job), tmp_path / "run")
    losses = load_run(tmp_path / "run").job.reported["losses"]
    assert math.isnan(losses[0]) and losses[1:] == [math.inf, -math.inf, 0.1]
    assert "NaN" not in (tmp_path / "run" / "run.json").read_text()


class Broken:
    def train(self, job):
        raise OSError(f"cannot write {job.workdir}")


def test_a_run_that_broke_keeps_its_error(tmp_path):
    run = run_scenarios(Trial(Broken()), SCENARIOS[:1], seed=0).runs[0]
    save_run(run, tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert (again.scenario, again.error) == ("plain", "OSError: cannot write <workdir>")
    assert again.rows == [] and "in train" in again.traceback and again.twin.error == again.error


def test_a_run_that_was_ended_left_no_parameters_and_is_read(tmp_path):
    run = run_scenarios(Trial(Broken()), SCENARIOS[:1], seed=0).runs[0]
    save_run(dataclasses.replace(run, final={}), tmp_path / "ended")
    assert load_run(tmp_path / "ended").error.startswith("OSError: cannot write")
    save_run(dataclasses.replace(run, final={}, error=""), tmp_path / "lost")
    with pytest.raises(RecordingError, match="is in one of model and tensors only"):
        load_run(tmp_path / "lost")


def test_the_schema_names_every_field_of_a_run():
    form = schema("run")
    assert set(form["properties"]["rows"]["properties"]) == set(COLUMNS)
    assert set(form["$defs"]["job"]["properties"]["settings"]["properties"]) == set(SETTINGS)
    conventions = {item.name for item in dataclasses.fields(Conventions)}
    assert set(form["properties"]["conventions"]["properties"]) == conventions
    made_anew = {"refused"}  # with the job, by the name of its scenario
    assert set(form["properties"]) - {"format", "equal"} == {item.name for item in dataclasses.fields(Run)} - made_anew


def spoil(path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


SPOILT = {
    "format 2": (lambda record: record.update(format=2), "run.json: format 2; this version reads 1"),
    "no format": (lambda record: record.pop("format"), "run.json: format None"),
    "unknown field": (lambda record: record.update(mood="good"), "run.json.*'mood' was unexpected"),
    "unknown setting": (lambda record: record["job"]["settings"].update(fp8=True), "settings: .*'fp8' was unexpected"),
    "missing column": (lambda record: record["rows"].pop("nll"), "rows: 'nll' is a required property"),
    "short column": (lambda record: record["rows"]["token"].pop(), "columns of rows have different lengths"),
    "unknown model": (
        lambda record: record["job"]["model"].update({"class": "LostLM"}),
        "class is 'LostLM'; this",
    ),
    "gradient not stored": (lambda record: record["steps"][0]["gradients"].append("x"), "gradients/x is missing"),
    "gradient not named": (lambda record: record["steps"][0]["gradients"].pop(), "unknown tensor step/0/gradients"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_recording_is_refused_with_the_file(one, fault):
    change, message = SPOILT[fault]
    spoil(one / "run.json", change)
    with pytest.raises(RecordingError, match=message):
        load_run(one)


@pytest.mark.parametrize("name", ["run.json", "tensors.safetensors", "tokenizer/tokenizer.json"])
def test_a_missing_file_is_named(one, name):
    (one / name).unlink()
    with pytest.raises(RecordingError, match=f"{name}: no such file"):
        load_run(one)


def test_a_tensor_that_nobody_asked_for_is_refused(one):
    stored = load_file(one / "tensors.safetensors")
    save_file({**stored, "step/0/gradients/extra": torch.zeros(1)}, one / "tensors.safetensors")
    with pytest.raises(RecordingError, match="unknown tensor step/0/gradients/extra"):
        load_run(one)


def test_half_a_json_file_is_refused(one):
    text = (one / "run.json").read_text()
    (one / "run.json").write_text(text[: len(text) // 2])
    with pytest.raises(RecordingError, match=r"run\.json: not valid JSON"):
        load_run(one)


def test_a_trial_with_another_form_is_refused(folder, tmp_path):
    again = shutil.copytree(folder, tmp_path / "trial")
    spoil(again / "trial.json", lambda record: record.update(verdicts=[]))
    with pytest.raises(RecordingError, match=r"trial\.json: has .*verdicts"):
        load_trial(again)


def test_nothing_is_written_over_a_recording(live, folder):
    with pytest.raises(RecordingError, match="is not empty: give a new folder"):
        save_run(live.runs[0], next(folder.glob("*accumulation")))


def test_what_cannot_be_recorded_is_named(live, tmp_path):
    job = dataclasses.replace(live.runs[0].job, reported={"losses": [object()]})
    with pytest.raises(RecordingError, match=r"job\.reported\.losses: a object cannot be recorded"):
        save_run(dataclasses.replace(live.runs[0], job=job, twin=None), tmp_path / "run")
