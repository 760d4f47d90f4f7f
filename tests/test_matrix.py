"""Trainers on trial in many settings: what is kept is not tried again, one that fails stops nothing, and the page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sftspec.conformance.adapters import BUILT_IN, options_of, resolve
from sftspec.conformance.adapters.field import FIELD
from sftspec.conformance.commands.cli import main
from sftspec.conformance.environments.lock import read_lock
from sftspec.conformance.matrix import results
from sftspec.conformance.matrix.page import markdown, page
from sftspec.conformance.matrix.run import command_of, in_a_process, run, run_matrix
from sftspec.conformance.matrix.settings import NOT_HERE, SETTINGS, Setting

DOCUMENT = Path(__file__).parent / "documents" / "verdicts-2.json"
KEPT = Path(__file__).parents[1] / "conformance" / "results"


def a_document() -> dict:
    """Verdicts as `sftspec check --json` writes them: of a wrong packer, written once and kept."""
    return json.loads(DOCUMENT.read_text(encoding="utf-8"))


def written(trainer: str, setting: Setting, target: Path) -> str:
    target.write_text(json.dumps(a_document()), encoding="utf-8")
    return ""


@pytest.mark.long
def test_the_reference_is_judged_in_a_process_and_then_kept(tmp_path, monkeypatch):
    """On one scenario; a second run tries nothing, `again` tries it."""
    tried = []
    judge = in_a_process(["--scenario", "two epochs", "--select", "step/rate-zero-changes-nothing"])

    def counted(trainer, setting, target):
        tried.append(trainer)
        return judge(trainer, setting, target)

    assert run_matrix(["reference"], tmp_path, counted) == 1
    assert run_matrix(["reference"], tmp_path, counted) == 0
    (kept,) = results.all_results(tmp_path)
    assert tried == ["reference"] and kept["version"] == results.version_of("reference")
    assert [item["id"] for item in kept["settings"][0]["verdicts"]] == ["step/rate-zero-changes-nothing"]
    assert kept["settings"][0]["cpu_seconds"] > 0
    assert run_matrix(["reference"], tmp_path, written, again=True) == 1


def test_a_command_is_measured_by_itself_and_ended_at_its_limit(tmp_path):
    with open(tmp_path / "said", "wb") as said:
        code, spent = run([sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], said, 60)
        assert code == 0 and 1 <= spent < 2
        code, spent = run([sys.executable, "-c", "import time; time.sleep(60)"], said, 0.5)
        assert code is None and spent < 1


def test_one_that_fails_is_kept_with_its_reason_and_tried_again(tmp_path):
    def judge(trainer, setting, target):
        if trainer == "accelerate":
            raise OSError("the disk is full")
        return "no environment" if trainer == "litgpt" else written(trainer, setting, target)

    names = ["accelerate", "litgpt", "torchtune"]
    total = sum(len(SETTINGS[name]) for name in names)
    assert run_matrix(names, tmp_path, judge, workers=2) == total
    errors = {item["trainer"]: {entry["error"] for entry in item["settings"]} for item in results.all_results(tmp_path)}
    assert errors == {"accelerate": {"OSError: the disk is full"}, "litgpt": {"no environment"}, "torchtune": {""}}
    assert run_matrix(names, tmp_path, written) == total - len(SETTINGS["torchtune"])


def test_what_was_interrupted_is_not_kept(tmp_path):
    def judge(trainer, setting, target):
        said = written(trainer, setting, target)
        document = json.loads(target.read_text(encoding="utf-8"))
        document["scenarios"][0]["error"] = "interrupted: in 'rate zero', 2 s after it began"
        target.write_text(json.dumps(document), encoding="utf-8")
        return said

    assert run_matrix(["reference"], tmp_path, judge) == 1 and results.all_results(tmp_path) == []
    assert run_matrix(["reference"], tmp_path, written) == 1


def test_a_process_without_a_document_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("SFTSPEC_ENVS", str(tmp_path))
    said = in_a_process()("litgpt", Setting(), tmp_path / "out.json")
    assert "make it with: sftspec env create litgpt" in said


@pytest.mark.parametrize("trainer", SETTINGS)
def test_every_setting_of_the_table_is_one_that_its_trainer_has(trainer):
    for setting in SETTINGS[trainer]:
        if trainer in FIELD:
            module, _, name = BUILT_IN[trainer].place.partition(":")
            target = getattr(__import__(module, fromlist=[name]), name)
            assert setting.asked.keys() <= options_of(target).keys()
        elif trainer == "reference":
            resolve(trainer, setting.asked)


def test_a_result_belongs_to_the_version_of_the_lock():
    assert results.path_of(Path("R"), "litgpt").parts[-2:] == ("litgpt", "0.5.13.json")
    for name, (_, _, distribution) in FIELD.items():
        assert read_lock(name).version_of(distribution), f"{name}.lock does not pin {distribution!r}"


def test_the_page_shows_each_setting_with_its_evidence_and_the_command():
    entry = results.entry_from(a_document(), Setting({"packed": "true"}))
    chosen = results.entry_from(a_document(), Setting({"train_on_input": "true"}, "it <says> so"))
    kept = [{"trainer": "torchtune", "version": "0.6.1", "settings": [entry, chosen]}]
    html, text = page(kept, "2026-12"), markdown(kept, "2026-12")
    wrong = [item for item in entry["verdicts"] if item["status"] == "fail"]
    assert wrong and len(json.dumps(entry)) < len(DOCUMENT.read_text()) / 2
    for item in wrong:
        assert item["id"] in text and item["again"] in text and f"<summary>{item['id']}" in html
    assert "sftspec env create torchtune &amp;&amp; sftspec check" in html
    assert html.index("packed=true") < html.index("wrong by choice") < html.index("train_on_input=true")
    assert "it &lt;says&gt; so" in html and "<script" not in html and not re.search(r'(src|href)="http', html)
    assert all(why in text and what in html for _, what, why in NOT_HERE)
    assert command_of("torchtune", Setting({"packed": "true"})) == ["check", "torchtune", "--set", "packed=true"]


def test_the_line_of_a_quick_result_is_quick_and_its_seconds_are_said():
    entry = {**results.entry_from(a_document(), Setting(), quick=True), "cpu_seconds": 82}
    text = markdown([{"trainer": "litgpt", "version": "0.5.13", "settings": [entry]}], "2026-12")
    assert "--quick`" in text and "82 CPU s" in text


def test_what_is_committed_is_of_this_form(capsys):
    """Every result reads, names a failure with its command, and belongs to a trainer that there is."""
    found = [item for folder in KEPT.glob("2*") for item in results.all_results(KEPT, folder.name)]
    assert found
    for item in found:
        assert item["format"] == results.FORMAT and item["trainer"] in BUILT_IN and item["settings"]
        for entry in item["settings"]:
            wrong = [verdict for verdict in entry.get("verdicts", ()) if verdict["status"] == "fail"]
            assert all(verdict["again"].startswith("sftspec check ") for verdict in wrong)
            assert not re.search(r"/(root|home|work|tmp)/", json.dumps(entry)), item["trainer"]


def test_a_trainer_that_is_none_is_refused(capsys):
    assert main(["matrix", "--trainers", "litgtp"]) == 2
    assert "unknown trainer 'litgtp'" in capsys.readouterr().err
