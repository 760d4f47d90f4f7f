"""A recording from a stranger: of the job that was asked, whole, and refused in a sentence where it is not."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.ledger.asked import require_scenarios
from sftspec.conformance.ledger.recording import load_trial
from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.trial.scenarios import scenarios_for
from sftspec.tests.benchmarks import fuzz_recordings
from sftspec.tests.benchmarks.fuzz_recordings import BASES, Watch, fuzz, is_fault, judged, outcome, record
from sftspec.tests.benchmarks.spoilt_files import ESCAPE, SENTINEL, Evil

PADDING = frozenset({"padding"})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings") / "trial"
    record(folder)
    return folder


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "trial")


def edit(path, change) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_the_recording_of_a_wrong_trainer_fails(recorded):
    assert judged(recorded)[0] == "fail"


RUNS = {
    "another's": (lambda runs: [f"../trial/{name}" for name in runs], "stand in this folder"),
    "twice": (lambda runs: runs * 2, "is named twice"),
    "no list": (lambda runs: runs[0], "stand in this folder"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs_are_plain_names_each_once(copy, case):
    change, message = RUNS[case]
    edit(copy / "trial.json", lambda trial: trial.update(runs=change(trial["runs"])))
    with pytest.raises(RecordingError, match=rf"trial\.json: .*{message}"):
        load_trial(copy)


def test_a_convention_that_is_none_is_refused(copy):
    nan = {"$float": "nan"}
    edit(copy / "trial.json", lambda trial: trial["trainer"]["conventions"].update(denominator=nan))
    with pytest.raises(RecordingError, match=r"trial\.json: denominator is nan; known"):
        load_trial(copy)


def test_every_scenario_that_the_claims_ask_for_is_there_once(recorded):
    names = [scenario.name for scenario in scenarios_for(PADDING)]
    require_scenarios(names, PADDING, "trial.json")
    for wrong, message in (
        ([], "'plain' is missing"), (names[1:], "'plain' is missing"), (names + names[:1], "'plain' is there 2 times"),
        ([*names, "packed"], "ask for no scenario 'packed'"),
    ):  # fmt: skip
        with pytest.raises(RecordingError, match=f"trial.json: .*{message}"):
            require_scenarios(wrong, PADDING, "trial.json")
    with pytest.raises(RecordingError, match=r"trial\.json: the run of scenario 'plain' is missing"):
        load_trial(recorded, complete=True)


SPOILT = {
    "an easier job": (lambda run: run["job"]["settings"].update(learning_rate=0.5), "asks 0.0"),
    "a conversation of its own": (
        lambda run: run["job"]["conversations"][1]["messages"][0].update(content="x"),
        r"job\.conversations\[1\] is none of scenario",
    ),
    "another model": (lambda run: run["job"]["model"]["config"].update(hidden_size=8), "the witness has 320"),
    "a scenario of its own": (lambda run: run.update(scenario="mine"), "is none of this version"),
    "a row left out": (lambda run: [column.pop() for column in run["rows"].values()], "positions, and the ledger"),
    "a token that was not there": (lambda run: run["rows"]["token"].__setitem__(3, 7), "does not stand in row"),
    "a conversation too many": (lambda run: run["rows"]["example"].__setitem__(3, 99), "has no token"),
    "a huge number": (lambda run: run["rows"]["column"].__setitem__(3, 10**30), "no whole number in its range"),
    "a truth for a number": (lambda run: run["rows"]["row"].__setitem__(3, False), "no whole number in its range"),
    "targets elsewhere": (
        lambda run: run["rows"].update(target=[*run["rows"]["target"][1:], None]),
        "a target has a fit, and what is",
    ),
    "a fit of its own": (lambda run: run["rows"]["fit"].__setitem__(3, "perfect"), "fit is 'perfect'; known"),
    "a model surer than any that is read": (
        lambda run: run["rows"].update(nll=[0] * len(run["rows"]["nll"])),
        r"nll is 0; no target is read that has less",
    ),
    "a call too far": (lambda run: run["replays"][0].update(forward=99), "model calls"),
    "other conventions": (lambda run: run["conventions"].update(separator=True), r"are not those of trial\.json"),
    "a way to cut text of its own": (lambda run: run.update(cut={"tokenization": "segmented"}), "cut is|has no token"),
    "a conversation in other tokens": (lambda run: run.update(recut={"0": [5] * 400}), r"recut is \{0: .* say \{\}"),
    "an origin of its own": (lambda run: run["rows"]["offset"].__setitem__(3, 0), "its model call says token 3 of"),
    "a count that is none": (
        lambda run: run["job"]["reported"].update(examples_dropped={"$float": "nan"}),
        r"reported\.examples_dropped is no whole number",
    ),
    "a loss of no step": (
        lambda run: run["job"]["reported"].update(losses={"a": 1.0}),
        r"reported\.losses is no list of a number for each step",
    ),
    "a report of its own": (lambda run: run["job"]["reported"].update(loss=[1.0]), r"loss is read by nobody"),
    "a dtype of its own": (lambda run: run["forwards"][0].update(autocast="load"), r"forwards\[0\]\.autocast"),
    "a lost list": (lambda run: run["forwards"][0].update(lost=[[0]]), r"forwards\[0\]\.lost\[0\]"),
    "a lost conversation that is none": (lambda run: run["forwards"][0].update(lost=[99]), "lost names a conversation"),
    "a second run": (lambda run: run.update(twin=True), "no such file"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_was_not_asked_or_cannot_be_is_refused(copy, case):
    change, message = SPOILT[case]
    edit(next(copy.glob("*/run.json")), change)
    with pytest.raises(RecordingError, match=rf"run\.json: .*{message}"):
        load_trial(copy)


def test_what_breaks_while_verdicts_are_made_is_one_sentence_that_names_the_folder(recorded, monkeypatch, capsys):
    def breaks(*words):
        raise KeyError("a place that nobody thought of")

    incomplete = load_trial(recorded)
    monkeypatch.setattr("sftspec.conformance.ledger.recording.load_trial", lambda folder, complete: incomplete)
    monkeypatch.setattr("sftspec.conformance.trial.judge.reach_verdicts", breaks)
    assert main(["judge", str(recorded)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sftspec: {recorded}: no verdict can be made of it (KeyError") and said.count("\n") == 1


TEXTS = {
    '{"format": 1, "format": 1}': "a key stands twice",
    "[" * 100_000: "nested too deeply",
    '{"format": NaN}': "NaN is no number of JSON",
    '{"format": 1e999}': "is too large",
    '{"format": {"$float": "1"}}': '"nan", "inf" or "-inf"',
    '{"format": ' + "1" * 5000 + "}": "not valid JSON",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_json_is_strict(copy, text):
    (copy / "trial.json").write_text(text)
    with pytest.raises(RecordingError, match=rf"trial\.json: not valid JSON|{TEXTS[text]}"):
        load_trial(copy)


def test_a_link_and_a_pipe_are_no_files_of_a_recording(copy):
    path = next(copy.glob("*/run.json"))
    path.rename(copy / "elsewhere")
    path.symlink_to(copy / "elsewhere")
    with pytest.raises(RecordingError, match="it is a link"):
        load_trial(copy)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RecordingError, match="no such file"):
        load_trial(copy)


def test_a_file_larger_than_any_is_not_read(copy):
    with (copy / "trial.json").open("ab") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(RecordingError, match=r"trial\.json: 68,157,440 bytes; at most"):
        load_trial(copy)


def test_mutated_recordings_do_nothing_that_none_may(tmp_path):
    tally = fuzz(60, seconds=60, seed=1, room=tmp_path, bases=BASES[:1])
    assert not tally.faults and tally.counts["refused"] > 20 and tally.counts["fail"] > 5


def unpickled(folder):
    pickle.loads(pickle.dumps(Evil(str(folder / SENTINEL))))
    raise RecordingError(f"{folder}: refused, but too late")


def passes(folder):
    return judged(folder)[0].replace("fail", "pass"), ""


FAULTS = {
    "TRACEBACK KeyError: 'x'": lambda folder: {}["x"],
    "HANG": lambda folder: time.sleep(60),
    "UNNAMED": lambda folder: (_ for _ in ()).throw(RecordingError("something is wrong")),
    "CODE pickle.find_class": unpickled,
    "CONTROL": lambda folder: ("fail", f"loop {ESCAPE}"),
    "WRONG PASS": passes,
}


@pytest.mark.parametrize("said", FAULTS)
def test_what_none_may_do_is_seen(copy, monkeypatch, said):
    monkeypatch.setattr(fuzz_recordings, "WAIT", 0.5)
    monkeypatch.setattr(fuzz_recordings, "judged", lambda folder, name, prints: FAULTS[said](folder))
    found = outcome(copy, watch=Watch())
    assert found.startswith(said) and is_fault(found) and not is_fault("refused") and not is_fault("fail")


def test_judging_takes_at_most_the_time_that_it_is_given(recorded, capsys):
    assert main(["judge", str(recorded), "--timeout", "0.001"]) == 2
    assert "not judged within 0.001 s; --timeout gives it more" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("gigabytes", "said"), [(1, "takes more than 1 GB of memory"), (8, "")])
def test_judging_takes_at_most_the_memory_that_it_is_given(gigabytes, said):
    code = (
        "import pathlib\nfrom sftspec.conformance.commands.limits import limited\n"
        f"with limited(pathlib.Path('run'), 60, {gigabytes}):\n    bytearray(2 * 2**30)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) == (not said) and said in ended.stderr
