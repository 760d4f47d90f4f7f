"""Properties as somebody's own tests: by option, by decorator, in several processes, with one trial for all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

import sftspec
from sftspec.conformance import adapters
from sftspec.conformance.adapters import TrainerError, candidate_for, resolve
from sftspec.conformance.gate.properties_as_tests import outcome_of
from sftspec.conformance.gate.pytest_plugin import suite_of
from sftspec.conformance.gate.shared_trial import document_once
from sftspec.conformance.report.form import read_document, validate

PLUGIN = "sftspec.conformance.gate.pytest_plugin"
RATE = "step/rate-zero-changes-nothing"
DIES = """
class Dies:
    claims = {"padding"}
    def train(self, job): os._exit(3)
"""
SELECT = "packing/no-pack-exceeds-its-capacity"
TRAINER = """
import os, pathlib

def one_by_one(lengths, capacity, **options):
    with open(pathlib.Path(__file__).with_name("asked"), "a") as file:
        file.write(f"{os.getpid()}\\n")
    return [[place] for place in range(len(lengths))]

def in_pairs(lengths, capacity, **options):
    return [list(range(start, min(start + 2, len(lengths)))) for start in range(0, len(lengths), 2)]

class Packer:
    name, claims, parts = "packer", {"padding"}, {"pack": one_by_one}
    pairs = False

    def __init__(self, pairs: bool = False):
        if pairs:
            self.parts = {"pack": in_pairs}

    def train(self, job):
        raise NotImplementedError
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "packer.py").write_text(TRAINER)
    return tmp_path


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """pytest as its user runs it; the plugin is named where this copy's entry points are not installed."""
    known = any(item.name == PLUGIN for item in entry_points(group="pytest11"))
    plugin = [] if known else ["-p", PLUGIN]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *plugin,
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        "-rA",
        *arguments,
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.long
def test_workers_share_one_trial_and_junit_names_each_property(folder):
    trainer = ("--sft-trainer", "packer.py", "--sft-select", SELECT)
    done = pytest_in(folder, *trainer, "-n", "2", "--junitxml", "junit.xml", "--testrunuid", folder.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert len(set((folder / "asked").read_text().split())) == 1
    assert not list(Path(tempfile.gettempdir()).glob(f"sftspec-tests-{folder.name}*"))
    junit = (folder / "junit.xml").read_text()
    assert f'name="{SELECT}"' in junit and 'name="conclusion"' in junit and 'failures="0"' in junit


@pytest.mark.long
def test_what_fails_is_explained_and_what_is_known_is_expected(folder):
    trainer = ("--sft-trainer", "packer.py", "--sft-set", "pairs=true", "--sft-select", SELECT)
    done = pytest_in(folder, *trainer)
    assert done.returncode == 1
    assert f"{SELECT}  fails (must)" in done.stdout and "1 failed, 1 passed" in done.stdout
    assert f"again       sftspec check packer.py --set pairs=true --seed 0 --select {SELECT}" in done.stdout
    (folder / "b.toml").write_text(
        f'spec_revision = "{sftspec.SPEC_REVISION}"\n[known-failing]\n"{SELECT}" = "in pairs"\n'
    )
    done = pytest_in(folder, *trainer, "--sft-baseline", "b.toml")
    assert done.returncode == 0 and "1 passed, 1 xfailed" in done.stdout and "in pairs" in done.stdout


@pytest.mark.long
def test_the_decorator_makes_a_test_of_each_property(folder):
    (folder / "test_packer.py").write_text(f'''
import sftspec
from packer import Packer

@sftspec.parametrize_with_properties(Packer, settings={{"pairs": True}}, select=["{SELECT}"])
def test_packer(check):
    check()
''')
    done = pytest_in(folder, "test_packer.py")
    assert f"FAILED test_packer.py::test_packer[{SELECT}]" in done.stdout
    assert "PASSED test_packer.py::test_packer[conclusion]" in done.stdout


def test_a_trainer_that_cannot_be_imported_is_a_sentence_and_no_end_of_pytest(folder):
    (folder / "dies.py").write_text("import os\nos._exit(3)\n")
    done = pytest_in(folder, "--sft-trainer", "dies.py", "--sft-python", sys.executable, "--sft-select", RATE)
    assert done.returncode == 4 and "dies.py cannot be imported: the trainer ended its process (exit 3)" in done.stderr


@pytest.mark.long
def test_a_trainer_that_ends_its_process_is_a_sentence_and_no_end_of_pytest(folder):
    (folder / "test_own.py").write_text(f"""import os, sftspec
{DIES}
@sftspec.parametrize_with_properties(Dies, select=["{RATE}"])
def test_own(check): check()
""")
    done = pytest_in(folder, "test_own.py")
    assert done.returncode == 1 and "the trainer ended its process (exit 3)" in done.stdout, done.stdout
    with pytest.raises(TrainerError, match="only a trainer that is named by its place"):
        sftspec.parametrize_with_properties(object(), python="python3")


@pytest.mark.long
def test_what_cannot_be_had_is_refused_before_anything_runs(folder):
    for more in ((), ("-n", "2")):
        done = pytest_in(folder, "--sft-trainer", "nobody", *more)
        assert done.returncode == 4 and "unknown trainer 'nobody'; known: reference, " in done.stderr
    file = str(folder / "packer.py")
    for changes, message in (
        ({"--sft-set": ["pair=true"]}, "no setting 'pair'"),
        ({"--sft-set": ["pair"]}, "--sft-set pair: write KEY=VALUE"),
        ({"--sft-select": ["pakcing"]}, "unknown area 'pakcing'"),
        ({"--sft-baseline": folder / "b.toml"}, "b.toml: no such file"),
    ):
        asked = {
            "--sft-trainer": file,
            "--sft-python": "",
            "--sft-set": [],
            "--sft-select": [],
            "--sft-seed": 0,
            "--sft-baseline": None,
        }
        with pytest.raises(pytest.UsageError, match=message):
            suite_of(SimpleNamespace(getoption=(asked | changes).get))


def test_without_the_option_it_adds_nothing_and_imports_nothing_heavy(folder):
    (folder / "test_own.py").write_text("import sys\ndef test_own(): assert 'torch' not in sys.modules\n")
    done = pytest_in(folder)
    assert done.returncode == 0 and "1 passed" in done.stdout


def test_the_python_call_returns_the_document(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    from packer import Packer

    document = sftspec.check(Packer, settings={"pairs": True}, select=[SELECT])
    validate(document)
    assert document["command"] == "sftspec check packer:Packer --set pairs=true --seed 0"
    assert sftspec.exit_code(document) == 1 and document["trainer"]["setting"] == {"pairs": True}
    assert sftspec.exit_code(sftspec.check(Packer(), select=[SELECT])) == 0
    with pytest.raises(TrainerError, match="packer:Packer has no setting 'pears'; its settings: pairs"):
        sftspec.check(Packer, settings={"pears": True})
    with pytest.raises(TrainerError, match="without a method train"):
        sftspec.check(object())


def test_another_package_offers_its_trainer_by_name(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    offered = adapters.EntryPoint("theirs", "packer:Packer", adapters.ENTRY_POINTS)
    monkeypatch.setattr(adapters, "entry_points", lambda group: (offered,))
    assert resolve("theirs", {"pairs": "true"}).command == "sftspec check theirs --set pairs=true"
    assert candidate_for("theirs", {"pairs": True}).trainer.name == "packer"
    with pytest.raises(TrainerError, match=r"known: reference, transformers, trl, .*theirs, "):
        resolve("ours")


def test_what_making_a_trial_raised_is_raised_for_all_who_ask():
    calls = []

    def make() -> dict:
        calls.append(1)
        raise TrainerError("no")

    for _ in range(2):
        with pytest.raises(TrainerError, match="no"):
            document_once("a key of this test", make)
    assert len(calls) == 1


def test_every_status_has_its_outcome():
    document = read_document(Path(__file__).parent / "documents" / "verdicts-1.json")
    found = {item["status"]: outcome_of(document, item["id"])[0] for item in document["verdicts"]}
    assert found == {"pass": "pass", "fail": "fail", "not-claimed": "skip"}
    must, verdict = document["verdicts"][0], dict(document["verdicts"][0])
    for status, level, outcome in (
        ("known-fail", "must", "xfail"), ("stale", "must", "fail"),
        ("ambiguous", "must", "fail"), ("error", "should", "fail"),
        ("ambiguous", "should", "xfail"), ("blocked", "must", "skip"), ("not-measured", "must", "skip"),
    ):  # fmt: skip
        verdict.update(status=status, level=level, reason="why")
        said, text = outcome_of({**document, "verdicts": [verdict]}, must["id"])
        assert said == outcome and re.search("why", text)
    document["scenarios"][0]["error"] = "OSError: no"
    assert outcome_of(document, "conclusion") == (
        "fail", "the run itself broke in 1 scenario: no verdict on Loop 3; 3 must fail in what did run (exit 2), "
        f"{document['seconds']:.0f} s\nplain: OSError: no",
    )  # fmt: skip
