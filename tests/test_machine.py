"""Where and how a trainer computes: asked for on the command line, done in its process, heard in its run."""

import json
from types import SimpleNamespace

import pytest

from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.commands.cli import main
from sftspec.conformance.ledger.recording import Recorder, RecordingError, load_trial
from sftspec.conformance.trial.judge import reach_verdicts
from sftspec.conformance.trial.machine import Machine, on_machine, require_able
from sftspec.conformance.trial.scenarios import SCENARIOS, scenarios_for
from sftspec.conformance.trial.selection import select
from sftspec.conformance.trial.two_processes import put_on_trial_apart, stage_of
from sftspec.conformance.witness.model import make_model
from sftspec.conformance.witness.place import PlaceError, place

NAMES = ("accumulation",)
# Its run says which arithmetic it was: weights are read within rounding, and positions that nothing trains are exact.
READ = (
    "masking/end-of-turn-is-trained",
    "packing/hidden-states-equal-those-alone",
    "step/every-parameter-gets-its-gradient",
)


def trial_of(place, machine, names=NAMES, chosen=READ):
    with stage_of(str(place), {}, machine=machine) as stage:
        trainer = stage.trainer()
        asked = [item for item in scenarios_for(trainer.claims) if item.name in names]
        trial = put_on_trial_apart(stage, trainer, select(chosen), asked)
        return trial, stage.said["identity"]


def statuses(trial):
    return {item.property.id: item.status for item in trial.verdicts}


@pytest.mark.parametrize(
    ("place", "machine", "arithmetic"),
    [
        ("reference", Machine(autocast="bfloat16"), "bfloat16"),
        ("reference", Machine(autocast="float16", attention="sdpa:math"), "float16"),
        ("trl", Machine(dtype="bfloat16", attention="eager"), "bfloat16"),
        ("accelerate", Machine(autocast="bfloat16"), "bfloat16"),
    ],
    ids=lambda value: "-".join(value.asked.values()) if isinstance(value, Machine) else str(value),
)
def test_an_honest_trainer_passes_in_the_arithmetic_that_was_asked_for(place, machine, arithmetic):
    trial, identity = trial_of(place, machine)
    assert [run.error for run in trial.runs] == [""] * len(trial.runs)
    assert {run.arithmetic for run in trial.runs} == {arithmetic}
    found = statuses(trial)
    assert found[READ[0]] == "pass" and not {"fail", "ambiguous", "blocked"} & set(found.values())
    assert machine.asked.items() <= identity["setting"].items()


LOOP = '''
import torch
from sftspec.trainer import Pipeline

class Deaf(Pipeline):
    """Claims autocast, and does not read job.autocast."""
    def train(self, job):
        job.autocast = ""
        super().train(job)

class Forgetful(Pipeline):
    """Computes under autocast for one call, and then no more."""
    def train(self, job):
        asked, job.autocast, forward = getattr(torch, job.autocast), "", job.model.forward
        def once(*args, **given):
            job.model.forward = forward
            with torch.autocast("cpu", asked):
                return forward(*args, **given)
        job.model.forward = once
        super().train(job)

class Leaky(Pipeline):
    """Packs, and attends over the whole row."""
    def train(self, job):
        job.attention = job.attention or "sdpa"
        job.model.set_attn_implementation("sdpa")
        forward = job.model.forward
        job.model.forward = lambda position_ids=None, segment_ids=None, **given: forward(**given)
        super().train(job)
'''


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(LOOP)
    return path


@pytest.mark.parametrize(("name", "where"), [("Deaf", ""), ("Forgetful", " in 13 of 14 calls")])
def test_a_trainer_that_does_not_use_the_autocast_that_it_claims_has_no_verdict(wrong, name, where):
    trial, _ = trial_of(f"{wrong}:{name}", Machine(autocast="bfloat16"))
    said = f"witness: autocast in bfloat16 was asked for, and the trainer computed without it{where}"
    assert trial.runs[0].error == said
    assert set(statuses(trial).values()) == {"not-measured"}


def test_autocast_goes_on_in_a_trainer_that_is_built_again_to_resume():
    """The second SFTTrainer around a model computes without it, unless what the first one left is taken away."""
    asked = ["resume after one step"], ["step/resuming-equals-not-stopping"]
    trial, _ = trial_of("trl", Machine(autocast="bfloat16"), *asked)
    assert statuses(trial) == {asked[1][0]: "pass"}


def test_a_leak_is_told_from_the_rounding_of_16_bits(wrong):
    machine = Machine(autocast="bfloat16")
    trial, _ = trial_of(f"{wrong}:Leaky", machine, ["packed, accumulation"], READ[1:2])
    assert statuses(trial)["packing/hidden-states-equal-those-alone"] == "fail"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "cuda:7"}, "no device 'cuda:7' here"),
        ({"device": "nowhere"}, "no device 'nowhere' here"),
        ({"device": "meta"}, "no device 'meta' here"),
        ({"attention": "nonsense"}, "no attention 'nonsense' here"),
        ({"attention": "sdpa:nonsense"}, "known beside those of transformers: sdpa:math"),
        ({"attention": "sdpa:"}, "known beside those of transformers: sdpa:math"),
        ({"attention": "sdpa:cudnn"}, "no attention 'sdpa:cudnn' on cpu in torch.float32: No "),
        (
            {"attention": "flex_attention"},
            "'flex_attention' on cpu in torch.float32: FlexAttention does not support back",
        ),
    ],
)
def test_what_is_not_there_is_said_and_nothing_else_is_used(asked, said):
    with pytest.raises(PlaceError, match=said):
        place(SimpleNamespace(**{"model": make_model(), "device": "cpu", "attention": "", "autocast": "", **asked}))


def test_a_device_that_is_not_there_is_refused_before_anything_runs(capsys):
    assert main(["check", "reference", "--select", READ[0], "--device", "cuda:7"]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("sftspec: no device 'cuda:7' here")
    assert not said.out and "plain" not in said.err


@pytest.mark.parametrize("words", [["--dtype", "bfloat16"], ["--processes", "2"]])
def test_a_template_is_asked_for_no_machine(words, capsys):
    assert main(["check", "template", "chatml/qwen2.5", *words]) == 2
    assert f"a template computes nothing: leave out {words[0]}" in capsys.readouterr().err


def test_what_a_trainer_does_not_claim_is_not_asked_of_it():
    for machine, claim in ((Machine(dtype="float16"), "bf16"), (Machine(autocast="float16"), "autocast")):
        require_able(machine, frozenset({claim}))
        with pytest.raises(TrainerError, match=claim):
            require_able(machine, frozenset({"padding"}))


def test_a_scenario_keeps_its_own_dtype_and_is_left_out_under_autocast():
    own = {item.name for item in SCENARIOS if "dtype" in item.model}
    half = {item.name: item.model["dtype"] for item in on_machine(SCENARIOS, Machine(dtype="float16"))}
    assert own and {half[name] for name in own} == {"bfloat16"}
    assert {half[name] for name in half.keys() - own} == {"float16"}
    assert {item.name for item in on_machine(SCENARIOS, Machine(autocast="float16"))} == half.keys() - own


def test_a_recorded_run_is_judged_as_on_its_machine(tmp_path):
    machine, recorder = Machine(autocast="bfloat16", attention="eager"), Recorder(tmp_path / "run")
    with stage_of("reference", {}, machine=machine) as stage:
        trainer = stage.trainer()
        asked = [item for item in scenarios_for(trainer.claims) if item.name in NAMES]
        made = put_on_trial_apart(stage, trainer, [], asked, keep=recorder.save)
        recorder.finish(stage.said["identity"], stage.said["environment"], 0, made.refused, machine)
    trial, record = load_trial(tmp_path / "run")
    assert record["trainer"]["setting"]["autocast"] == "bfloat16"
    reach_verdicts(trial, select(READ[:1]))
    assert statuses(trial) == {READ[0]: "pass"}
    file = tmp_path / "run" / "trial.json"
    told = json.loads(file.read_text())
    assert told["machine"] == machine.asked
    for other, said in (({"autocast": "float8"}, "machine.autocast is 'float8'"), ({"speed": "1"}, "has 'speed'")):
        file.write_text(json.dumps({**told, "machine": other}))
        with pytest.raises(RecordingError, match=said):
            load_trial(tmp_path / "run")
    file.write_text(json.dumps({**told, "machine": {"autocast": "float16"}}))
    assert "was asked for" in load_trial(tmp_path / "run")[0].runs[0].error
