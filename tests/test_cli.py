"""The command line: quick where it only lists, exact in what it refuses, and quiet about everybody else."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from sftspec import SPEC_REVISION, properties
from sftspec.conformance import adapters
from sftspec.conformance.adapters import BuiltIn, TrainerError, resolve
from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.interrupts import ended_by_sigterm
from sftspec.conformance.report.form import validate
from sftspec.conformance.trial.selection import SelectionError, select

LOOP = '''
import sys, warnings
import torch
from sftspec import sft_loss

class Loop:
    """Padding and nothing else."""
    version = "3"
    claims = {"padding"}

    def __init__(self, forget: bool = False, fail_at: int | None = None):
        self.forget, self.fail_at = forget, fail_at

    def train(self, job):
        print("noise on stdout"); print("noise on stderr", file=sys.stderr); warnings.warn("noise as a warning")
        optimizer = torch.optim.SGD(job.model.parameters(), lr=job.learning_rate)
        for start in range(0, len(job.conversations) * job.epochs, job.batch_size):
            if self.fail_at == start:
                raise OSError(f"cannot write {job.workdir}/model")
            rows = [self.example(job, job.conversations[index % len(job.conversations)])
                    for index in range(start, min(start + job.batch_size, len(job.conversations) * job.epochs))]
            width = max(len(ids) for ids, _ in rows)
            ids, mask, labels = (torch.tensor([row + [fill] * (width - len(row)) for row in part]) for part, fill in (
                ([ids for ids, _ in rows], job.tokenizer.pad_token_id),
                ([[1] * len(ids) for ids, _ in rows], 0), ([labels for _, labels in rows], -100)))
            if (labels[:, 1:] != -100).any():
                sft_loss(job.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    def example(self, job, messages):
        encoded = job.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        end = job.tokenizer.eos_token_id if self.forget else None
        ids, trained = encoded["input_ids"], encoded["assistant_masks"]
        return ids, [token if on and token != end else -100 for token, on in zip(ids, trained)]
'''
pytestmark = pytest.mark.filterwarnings("ignore:noise")
END_OF_TURN = "masking/end-of-turn-is-trained"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainers") / "loop.py"
    path.write_text(LOOP)
    return path


def python(code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"NO_COLOR": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "--help"],
        ["--version"],
        ["list"],
        ["list", "step"],
        ["explain", END_OF_TURN],
        ["explain", "newline"],
    ],
)
def test_listing_and_explaining_import_nothing_that_takes_seconds(arguments):
    code = f"""
import atexit, sys
atexit.register(lambda: print([name for name in ("torch", "transformers", "hypothesis") if name in sys.modules]))
from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.interrupts import ended_by_sigterm
sys.exit(main({arguments!r}))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")


def test_the_list_has_every_property_with_its_level_and_sentence(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [item.id for item in in_order(properties.load())]
    line = next(line for line in lines if line.startswith(END_OF_TURN))
    assert line.split()[1] == "must" and line.endswith("unless it was cut off.")


def in_order(items) -> list:
    places = [module.__name__ for module in properties.modules()]
    return sorted(items, key=lambda item: places.index(item.check.__module__))


def test_explaining_shows_the_reasons_and_the_code(capsys):
    assert main(["explain", END_OF_TURN]) == 0
    said = capsys.readouterr().out
    assert (
        "trl#976" in said and "def end_of_turn_is_trained(run):" in said and "properties/masking/positions.py:" in said
    )


def test_the_version_names_the_revision(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and SPEC_REVISION in capsys.readouterr().out


REFUSED = {
    "unknown area": (["check", "trl", "--select", "maskin"], "unknown area 'maskin'; known: template, masking"),
    "unknown id": (["check", "trl", "--select", "masking/end-of-turn"], f"did you mean {END_OF_TURN}?"),
    "unknown area to list": (["list", "maskin"], "unknown area 'maskin'; known: template, masking"),
    "unknown id to explain": (["explain", "masking/eot"], "unknown property 'masking/eot'"),
    "unknown trainer": (["check", "tlr"], "unknown trainer 'tlr'; known: reference, transformers, trl, torchtune"),
    "unknown setting": (["check", "trl", "--set", "pack=bfd"], "no setting 'pack'; its settings and their defaults: "),
    "unknown value": (["check", "trl", "--set", "packing=first"], "packing='first'; known: none, bfd, bfd_split"),
    "no truth value": (["check", "trl", "--set", "padding_free=1"], "padding_free=1: expected true or false"),
    "no equals sign": (["check", "trl", "--set", "packing"], "--set packing: write KEY=VALUE"),
    "missing file": (["check", "nowhere.py"], "nowhere.py: no such file"),
    "missing name": (["check", "json.decoder:Lost"], "json.decoder has no 'Lost'"),
    "missing module": (["check", "nowhere.at_all:Name"], "nowhere.at_all cannot be imported: ModuleNotFoundError"),
    "no trainer": (["check", "collections:Counter"], "is a Counter without a method train(job)"),
    "no folder for the JSON": (["check", "trl", "--json", "no/where.json"], "there is no folder no"),
    "no recording": (["judge", "nowhere"], "nowhere/trial.json: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_exist_is_refused_in_one_line_that_says_what_does(case, capsys):
    arguments, message = REFUSED[case]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.startswith("sftspec: ") and said.err.count("\n") == 1
    assert said.out == ""


def test_a_trainer_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(adapters.BUILT_IN, "absent", BuiltIn("absent.adapter:Absent", ("no_such_package",)))
    with pytest.raises(TrainerError, match=r"absent needs no_such_package, .*pip install 'sftspec\[trl\]'"):
        resolve("absent")


def test_settings_are_converted_by_their_types(loop, tmp_path):
    candidate = resolve(f"{loop}:Loop", {"forget": "TRUE", "fail_at": "none"})
    assert (candidate.trainer.forget, candidate.trainer.fail_at) == (True, None)
    assert candidate.setting == {"forget": True, "fail_at": None}
    assert candidate.command == f"sftspec check {loop}:Loop --set forget=TRUE --set fail_at=none"
    (tmp_path / "kinds.py").write_text(
        "import dataclasses, typing\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Fields:\n"
        "    rate: float = 0.5\n    steps: typing.Optional[int] = 3\n    mood: str = 'good'\n"
        "    loss: typing.Any = print\n"
        "    def train(self, job): ...\n"
        "class Attributes:\n    speed = 4\n    def train(self, job): ...\n"
        "ready = Attributes()\n"
        "def make(depth=2): return Fields(steps=depth)\n"
    )
    kinds = str(tmp_path / "kinds.py")
    assert resolve(f"{kinds}:Fields", {"rate": "1", "steps": "none", "mood": "1"}).setting == {
        "rate": 1.0, "steps": None, "mood": "1",
    }  # fmt: skip
    assert isinstance(resolve(f"{kinds}:Fields", {"rate": "1"}).trainer.rate, float)
    assert resolve(f"{kinds}:Attributes", {"speed": "9"}).trainer.speed == 9
    assert resolve(f"{kinds}:ready", {"speed": "9"}).trainer.speed == 9
    assert resolve(f"{kinds}:make", {"depth": "7"}).trainer.steps == 7
    for place, sets, message in [
        ("Fields", {"loss": "x"}, "no setting 'loss'"),
        ("Fields", {"steps": "two"}, "expected a whole number or none"),
        ("", {}, "it defines Fields, Attributes: add :Name"),
    ]:
        with pytest.raises(TrainerError, match=message):
            resolve(f"{kinds}:{place}" if place else kinds, sets)


def test_an_object_that_is_named_stays_as_it_is(tmp_path):
    (tmp_path / "shared.py").write_text("class T:\n  speed = 4\n  def train(self, job): ...\nready = T()\n")
    resolve(f"{tmp_path}/shared.py:ready", {"speed": "9"})
    assert sys.modules["sftspec_trainer_shared"].ready.speed == 4


def test_a_broken_file_is_refused_with_its_error(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    with pytest.raises(TrainerError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        resolve(str(tmp_path / "broken.py"))


SHADOWS = {  # the trainer's file, what stands beside it, what it imports: what is said
    "a folder": ("trainer.py", "xmlrpc/__init__.py", "import xmlrpc.client", "the folder xmlrpc beside .* hides the"),
    "a file": ("trainer.py", "xmlrpc.py", "from xmlrpc import client", r"xmlrpc\.py beside .* hides the library"),
    "the trainer": ("xmlrpc.py", "x.py", "import xmlrpc; xmlrpc.client", r"xmlrpc\.py beside .* hides the library"),
    "no library": ("trainer.py", "nowhere/x.py", "import nowhere.core", "nowhere is the folder nowhere .* no library"),
}


@pytest.mark.parametrize("case", SHADOWS)
def test_what_stands_beside_a_trainer_and_hides_a_library_is_named(tmp_path, monkeypatch, case):
    name, beside, code, said = SHADOWS[case]
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("x = 1\n", encoding="utf-8")
    (tmp_path / name).write_text(f"{code}\n", encoding="utf-8")
    try:
        with pytest.raises(TrainerError, match=said):
            resolve(str(tmp_path / name))
    finally:
        for module in ("xmlrpc", "nowhere"):
            sys.modules.pop(module, None)


def test_prerequisites_are_selected_too():
    chosen = [item.id for item in select(["masking/no-position-sees-what-follows-it"])]
    assert chosen == [
        "masking/no-position-sees-what-follows-it",
        "packing/examples-do-not-see-each-other",
    ]
    with pytest.raises(SelectionError):
        select(["masking", "stepp"])
    areas = [item.area for item in select([])]
    assert areas == sorted(areas, key=properties.AREAS.index)


def test_a_trainer_that_conforms(loop, tmp_path, capsys):
    path = tmp_path / "verdicts.json"
    assert main(["check", str(loop), "--select", END_OF_TURN, "--json", str(path), "--seed", "5"]) == 0
    said = capsys.readouterr()
    assert (
        "must        1 of 1 claimed pass\n" in said.out and "Loop 3 in this setting: no must fails (exit 0)" in said.out
    )
    assert "noise" not in said.out + said.err and "\x1b" not in said.out
    document = json.loads(path.read_text(encoding="utf-8"))
    validate(document)
    assert document["trainer"]["setting"]["forget"] is False and document["seed"] == 5
    assert [item["name"] for item in document["scenarios"]][:2] == ["plain", "learned positions"]
    assert all(item["seconds"] > 0 for item in document["scenarios"])


def test_a_trainer_that_does_not(loop, capsys):
    assert main(["check", str(loop), "--set", "forget=true", "--select", END_OF_TURN]) == 1
    said = capsys.readouterr().out
    assert f"{END_OF_TURN}  fails (must)" in said and "expected  " in said
    assert f"again       sftspec check {loop} --set forget=true --seed 0 --select {END_OF_TURN}" in said


def test_a_trainer_that_raises(loop, capsys):
    assert main(["check", str(loop), "--set", "fail_at=0", "--select", END_OF_TURN]) == 2
    said = capsys.readouterr().out
    assert "error       OSError: cannot write <workdir>/model" in said
    assert "noise on stdout" in said and "noise on stderr" in said and "Traceback" in said
    assert "scenarios: plain; learned positions; " in said and "no verdict on Loop 3 (exit 2)" in said


def test_a_trainer_that_ends_the_process_gets_no_verdict(tmp_path, capsys):
    (tmp_path / "quits.py").write_text("import os\nclass Quits:\n  def train(self, job): os._exit(0)\n")
    path = tmp_path / "verdicts.json"
    asked = ["--select", END_OF_TURN, "--scenario", "plain", "--scenario", "odd turns", "--json", str(path)]
    assert main(["check", str(tmp_path / "quits.py"), *asked]) == 2
    assert "the trainer ended its process (exit 0)" in capsys.readouterr().out
    document = json.loads(path.read_text(encoding="utf-8"))
    assert [item["name"] for item in document["scenarios"]] == ["plain", "odd turns"]
    assert all("ended its process (exit 0)" in item["error"] for item in document["scenarios"])


@pytest.mark.long
def test_a_trial_is_recorded_and_judged_elsewhere(loop, tmp_path, capsys):
    folder = tmp_path / "recorded"
    assert main(["record", str(loop), "--set", "forget=true", "--out", str(folder)]) == 0
    assert "judge with: sftspec judge" in capsys.readouterr().out
    path = tmp_path / "verdicts.json"
    assert main(["judge", str(folder), "--select", "masking/end-of-turn-is-trained", "--json", str(path)]) == 1
    assert f"again       sftspec judge {folder} --select {END_OF_TURN}" in capsys.readouterr().out
    document = json.loads(path.read_text(encoding="utf-8"))
    validate(document)
    assert document["trainer"]["name"] == "Loop" and document["trainer"]["setting"]["forget"] is True


def test_an_unknown_claim_is_refused_with_the_one_that_was_meant(tmp_path, capsys):
    path = tmp_path / "typo.py"
    path.write_text(LOOP.replace('claims = {"padding"}', 'claims = {"padding", "trunctation"}'))
    assert main(["check", str(path), "--select", "masking"]) == 2
    assert "did you mean 'truncation'? known: accumulation, " in capsys.readouterr().err


UNREADABLE = {
    "claims of another kind": ('claims = {"padding"}', 'claims = "padding"', "claims is a str: give a set of names"),
    "a report of another shape": ("def train(self, job):", "def train(self, job):\n        job.report(losses=1.5)",
        "takes a list with one number for each optimizer step, not 1.5"),
    "a report that nobody reads": ("def train(self, job):", "def train(self, job):\n        job.report(dropped=2)",
        "nobody reads the report of 'dropped'; known: examples_dropped, "),
    "embeddings for ids": ("input_ids=ids", "inputs_embeds=job.model.get_input_embeddings()(ids)",
        "job.model was trained without input_ids"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_to_be_so(name, tmp_path, capsys):
    old, new, message = UNREADABLE[name]
    assert old in LOOP
    path = tmp_path / "unreadable.py"
    path.write_text(LOOP.replace(old, new))
    assert main(["check", str(path), "--select", END_OF_TURN]) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())


def test_a_trainer_that_hangs_ends_with_the_place_and_what_it_printed(tmp_path):
    path = tmp_path / "hangs.py"
    path.write_text("import time\nclass Hangs:\n    def train(self, job):\n        print('waiting for rank 1')\n"
                    "        (job.workdir / '../../../../started').touch()\n        time.sleep(600)\n")  # fmt: skip
    arguments = ["check", str(path), "--json", str(tmp_path / "verdicts.json")]
    code = f"from sftspec.conformance.commands.cli import main; raise SystemExit(main({arguments!r}))"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 2
    assert "interrupted in 'plain', " in said and "waiting for rank 1" in said
    document = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert document["scenarios"][0]["error"].startswith("interrupted: in 'plain', ")


class Terminated:
    """Its destructor is where a SIGTERM arrives: Python drops what is raised there."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10):
            time.sleep(0.001)


def test_a_sigterm_that_python_drops_is_sent_again():
    deadline = time.monotonic() + 10
    with pytest.raises(KeyboardInterrupt), ended_by_sigterm():
        Terminated()
        while time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_sigterm_of_which_a_library_makes_another_error_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt), ended_by_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException as error:
            raise ModuleNotFoundError("Could not import module 'GPT2LMHeadModel'") from error
    with pytest.raises(ModuleNotFoundError), ended_by_sigterm():
        raise ModuleNotFoundError("Could not import module 'GPT2LMHeadModel'")


def test_a_scenario_that_does_not_exist_is_refused(loop, capsys):
    assert main(["check", str(loop), "--scenario", "plan"]) == 2
    assert "--scenario 'plan' is none that this trainer is given; did you mean 'plain'?" in capsys.readouterr().err


def test_a_folder_for_the_json_is_refused_before_the_run(loop, tmp_path, capsys):
    assert main(["check", str(loop), "--json", str(tmp_path)]) == 2
    assert f"--json {tmp_path}: it is a folder; name a file in it" in capsys.readouterr().err
    (tmp_path / "verdicts.json").write_text("{}")
    assert main(["record", str(loop), "--out", str(tmp_path)]) == 2
    assert "give a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "check {loop} --scenario plain --select masking"])
def test_a_reader_that_goes_away_is_no_error(command, loop, tmp_path):
    asked = command.format(loop=loop).split()
    code = f"import sys; from sftspec.conformance.commands.cli import main; sys.exit(main({asked!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "sftspec: " not in said and "Traceback" not in said and "Broken" not in said


def test_control_sequences_of_a_trainer_are_shown_and_do_nothing(tmp_path, capsys):
    path = tmp_path / "hostile.py"
    path.write_text(
        "class Hostile:\n    name, version = 'loop\\x1b]0;owned\\x07', '1\\x1b[2J\\x9b2J'\n"
        "    def train(self, job):\n        print('\\x1b[2J')\n        raise ValueError('boom \\x1b]52;c;b3du\\x07')\n"
    )
    assert main(["check", str(path), "--scenario", "plain", "--select", "masking"]) == 2
    said = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert "loop␛]0;owned" in said and "boom ␛]52;c;b3du" in said
    assert main(["check", "no\x1b[2Jsuch"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_what_repeats_a_failure_runs_one_scenario(loop, tmp_path, capsys):
    path = tmp_path / "verdicts.json"
    asked = ["check", str(loop), "--set", "forget=true", "--select", END_OF_TURN, "--json", str(path)]
    assert main([*asked, "--scenario", "odd turns", "--scenario", "plain"]) == 1
    capsys.readouterr()
    again = json.loads(path.read_text(encoding="utf-8"))["verdicts"][0]["repro"]
    assert again.endswith(f"--select {END_OF_TURN} --scenario 'odd turns'") or again.endswith("--scenario plain")
    assert main([*shlex.split(again)[1:], "--json", str(path)]) == 1
    assert len(json.loads(path.read_text(encoding="utf-8"))["scenarios"]) == 1


def test_a_property_is_asked_in_the_scenarios_that_show_it(loop, tmp_path, capsys):
    path = tmp_path / "verdicts.json"
    asked = "step/another-seed-gives-another-order"  # and the loop does not pack
    main(["check", str(loop), "--select", asked, "--json", str(path)])
    document = json.loads(path.read_text(encoding="utf-8"))
    assert [item["name"] for item in document["scenarios"]] == ["two epochs"]


def test_a_quick_trial_says_what_it_did_not_run(loop, tmp_path, capsys):
    path = tmp_path / "verdicts.json"
    assert main(["check", str(loop), "--quick", "--select", "masking", "--json", str(path)]) in (0, 3)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {item["name"] for item in document["scenarios"]} == {"plain"}
    passing = [item for item in document["verdicts"] if item["status"] == "pass"]
    assert passing and all("quick: 1 of " in item["reason"] for item in passing)


def test_a_trainer_that_is_not_heard_stops_after_its_first_scenario(tmp_path, capsys):
    path = tmp_path / "elsewhere.py"
    path.write_text("class Elsewhere:\n    def train(self, job):\n        import copy\n        copy.copy(job)\n")
    assert main(["check", str(path), "--select", "masking", "--json", str(tmp_path / "verdicts.json")]) == 2
    document = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    errors = [item["error"] for item in document["scenarios"]]
    assert "no training call of job.model was seen" in errors[0] and len(errors) > 3
    assert set(errors[1:]) == {"not performed: nothing was heard of the trainer in 'plain'"}
    assert not any("seconds" in item for item in document["scenarios"][1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "reference", "--procceses", "2"], "did you mean --processes?"),
        (["check", "reference", "--selct=step", "--qick"], "did you mean --select, --quick?"),
        (["judge", "folder", "--colour"], "unrecognized arguments: --colour\n"),
    ],
)
def test_an_option_that_is_mistyped_is_refused_with_the_one_that_was_meant(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_what_adapters_import_of_the_suite_is_where_it_is_said_to_be():
    from sftspec.conformance import distil
    from sftspec.conformance.distilled_steps import distil as earlier
    from sftspec.conformance.provenance import Provenance
    from sftspec.conformance.trial import distiller
    from sftspec.conformance.witness import provenance

    assert distil is earlier is distiller.distil and Provenance is provenance.Provenance
    with pytest.raises(ImportError):
        from sftspec.conformance import nothing_of_that_name  # noqa: F401
