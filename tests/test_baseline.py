"""The baseline: two known failures are green, a third is red, a mended one is red until its entry goes."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.gate import baseline as module
from sftspec.conformance.gate.baseline import BaselineError, hold_against, parse_baseline, written
from sftspec.conformance.report.form import read_document, validate
from sftspec.conformance.report.outcome import exit_code

RECORDED = Path(__file__).parent / "documents" / "verdicts-1.json"  # three musts of masking fail in it
ORIGIN, END = "masking/every-position-has-an-origin", "masking/end-of-turn-is-trained"
TODAY = datetime.date(2026, 11, 28)


@pytest.fixture
def document() -> dict:
    return read_document(RECORDED)


def failing(document: dict) -> list[str]:
    return [item["id"] for item in document["verdicts"] if item["status"] == "fail"]


def baseline_of(*lines: str):
    return parse_baseline("\n".join(('spec_revision = "2026-12"', *lines)), "baseline.toml")


def known(*ids: str, section: str = "known-failing") -> tuple[str, ...]:
    return f"[{section}]", *(f'"{name}" = "known since May"' for name in ids)


def status_of(document: dict, identifier: str) -> str:
    return next(item["status"] for item in document["verdicts"] if item["id"] == identifier)


def kinds(document: dict) -> list[tuple[str, str]]:
    return [(item["id"], item["kind"]) for item in document["baseline"]["problems"]]


def test_what_is_listed_is_green_and_what_is_not_is_red(document):
    first, *others = failing(document)
    assert others
    held = hold_against(document, baseline_of(*known(*failing(document))), TODAY)
    validate(held)
    assert exit_code(document) == 1 and exit_code(held) == 0
    assert {status_of(held, name) for name in failing(document)} == {"known-fail"}
    assert held["totals"]["must"]["known-fail"] == 1 + len(others) and held["totals"]["must"]["fail"] == 0
    held = hold_against(document, baseline_of(*known(*others)), TODAY)
    assert exit_code(held) == 1 and failing(held) == [first]


def test_an_entry_of_what_passes_is_stale(document):
    held = hold_against(document, baseline_of(*known(*failing(document), ORIGIN)), TODAY)
    validate(held)
    assert exit_code(held) == 1 and status_of(held, ORIGIN) == "stale" and kinds(held) == [(ORIGIN, "stale")]


def test_what_passes_in_part_of_a_trial_is_not_stale(document):
    """Under --quick the scenario in which it fails may be one that was not run."""
    entries = baseline_of(*known(*failing(document), ORIGIN))
    assert status_of(document, ORIGIN) == "pass"
    held = hold_against({**document, "partial": "--quick"}, entries, TODAY)
    validate(held)
    assert status_of(held, ORIGIN) == "pass" and exit_code(held) == 0 and not kinds(held)
    assert exit_code(hold_against(document, entries, TODAY)) == 1
    text = "\n".join(('spec_revision = "2026-12"', *known(*failing(document), ORIGIN)))
    assert ORIGIN in written({**document, "partial": "--quick"}, text) and ORIGIN not in written(document, text)


def test_an_entry_of_what_is_not_claimed_is_stale(document):
    unclaimed = next(item["id"] for item in document["verdicts"] if item["status"] == "not-claimed")
    assert kinds(hold_against(document, baseline_of(*known(unclaimed)), TODAY)) == [(unclaimed, "stale")]


def test_what_is_flaky_may_pass_and_may_fail(document):
    held = hold_against(document, baseline_of(*known(*failing(document), ORIGIN, section="known-flaky")), TODAY)
    assert exit_code(held) == 0 and status_of(held, ORIGIN) == "pass" and not failing(held)


def test_an_entry_that_cannot_be_confirmed_stays(document):
    for verdict in document["verdicts"]:
        if verdict["id"] == ORIGIN:
            verdict["status"] = "not-measured"
    held = hold_against(document, baseline_of(*known(ORIGIN)), TODAY)
    assert status_of(held, ORIGIN) == "not-measured" and not kinds(held)


def test_an_entry_of_what_was_not_judged_is_left_alone(document):
    held = hold_against(document, baseline_of(*known(*failing(document), "step/the-loss-is-cross-entropy")), TODAY)
    assert exit_code(held) == 0 and not kinds(held)


def test_an_unknown_entry_is_named_with_the_one_that_was_meant(document):
    held = hold_against(document, baseline_of(*known(*failing(document), END[:-1])), TODAY)
    assert exit_code(held) == 1 and kinds(held) == [(END[:-1], "unknown")]
    assert f"did you mean {END}?" in held["baseline"]["problems"][0]["what"]


@pytest.mark.parametrize("day, code", [("2026-11-27", 1), ("2026-11-28", 0)])
def test_an_entry_excuses_to_the_end_of_its_day(document, day, code):
    first, *others = failing(document)
    entry = f'"{first}" = {{ reason = "mended in 2.4", until = {day} }}'
    held = hold_against(document, baseline_of(*known(*others), entry), TODAY)
    assert exit_code(held) == code and kinds(held) == [(first, "expired")][:code]
    assert status_of(held, first) == ("fail" if code else "known-fail")


def test_what_is_newer_than_the_baseline_is_reported_and_turns_nobody_red(document, monkeypatch):
    first, *others = failing(document)
    every = {item["id"] for item in document["verdicts"]}
    monkeypatch.setattr(module, "ids_of_revision", lambda revision, source: frozenset(every - {first}))
    held = hold_against(document, baseline_of(*known(*others)), TODAY)
    validate(held)
    assert exit_code(held) == 0 and status_of(held, first) == "fail" and held["baseline"]["newer"] == [first]


def test_an_entry_of_a_retired_id_speaks_of_what_carries_it_on(document, monkeypatch):
    first, second, third = failing(document)
    retired = {"masking/old": {"successors": [first, ORIGIN]}, "masking/done": {"successors": [ORIGIN]}}
    monkeypatch.setattr(module.revisions, "changes", lambda: {"retired": retired, "reworded": {}})
    held = hold_against(document, baseline_of(*known("masking/old", second, third)), TODAY)
    assert exit_code(held) == 0 and status_of(held, ORIGIN) == "pass"
    held = hold_against(document, baseline_of(*known(first, second, third, "masking/done")), TODAY)
    assert kinds(held) == [("masking/done", "stale")]
    assert "take the entry of masking/done out of baseline.toml" in held["baseline"]["problems"][0]["what"]


def test_the_revision_decides_which_properties_count(document):
    text = written(document).replace("2026-12", "2026-11")
    assert parse_baseline(text, "b.toml").spec_revision == "2026-11"
    assert written(document, text) == text.replace("2026-11", "2026-12")


UNREADABLE = {
    "[known-failing": "not valid TOML",
    f'[known-failing]\n"{END}" = "x"\n"{END}" = "y"': "its id in quotes and there once",
    'mood = "good"': "unknown key 'mood'",
    'spec_revision = "1999-01"\n[known-failing]': "spec revision '1999-01' is unknown",
    "[known-failing]": 'write spec_revision = "2026-12"',
    f'spec_revision = "2026-12"\n[known-failing]\n"{END}" = ""': f"{END}: say why",
    f'spec_revision = "2026-12"\n[known-failing]\n"{END}" = 3': f"{END}: say why",
    f'spec_revision = "2026-12"\n[known-failing]\n"{END}" = {{ reason = "x", till = 1 }}': "unknown key 'till'",
    f'spec_revision = "2026-12"\n[known-failing]\n"{END}" = {{ reason = "x", until = "2027" }}': "a day without quotes",
    f'spec_revision = "2026-12"\n[known-failing]\n"{END}" = "x"\n[known-flaky]\n"{END}" = "x"': "stands in",
    'spec_revision = "2026-12"\nknown-failing = 3': "write a table",
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(BaselineError) as error:
        parse_baseline(text, "baseline.toml")
    assert "baseline.toml: " in str(error.value) and UNREADABLE[text] in str(error.value)


def test_a_written_baseline_makes_its_document_green(document):
    text = written(document)
    assert exit_code(hold_against(document, parse_baseline(text, "b.toml"))) == 0
    assert all(f'"{name}" = "not looked at yet: ' in text for name in failing(document))
    assert written(document, text) == text


def test_renewing_keeps_reasons_and_comments_and_drops_what_passes(document):
    first, *others = failing(document)
    head = 'spec_revision = "2026-12"\n[known-failing] # ours\n# see issue 7\n'
    old = f'{head}"{first}" = "ours"\n"{ORIGIN}" = "x"'
    text = written(document, old)
    assert f'# see issue 7\n"{first}" = "ours"' in text and ORIGIN not in text and "[known-failing] # ours" in text
    assert list(parse_baseline(text, "b.toml").entries) == [*others, first]
    spread = old + f'\n[known-flaky."{END}"]\nreason = "x"\n[known-failing."{ORIGIN}"]'
    with pytest.raises(BaselineError, match="not valid TOML"):
        written(document, spread)


def test_an_entry_over_several_lines_is_left_to_its_owner(document):
    text = f'spec_revision = "2026-12"\n[known-failing."{ORIGIN}"]\nreason = "x"\n'
    with pytest.raises(BaselineError, match=f"{ORIGIN} is not written in one line; take it out by hand"):
        written(document, text)


def test_a_document_is_held_against_one_baseline(document):
    held = hold_against(document, baseline_of())
    with pytest.raises(BaselineError, match=r"held against baseline\.toml before"):
        hold_against(held, baseline_of())


def test_the_commands_write_and_check_on_a_document(document, tmp_path, capsys):
    path, document_path = tmp_path / "b.toml", tmp_path / "d.json"
    document_path.write_text(json.dumps(document), encoding="utf-8")
    check = ["baseline", "check", str(document_path), "--baseline", str(path)]
    assert main(check) == 2 and "no such file; `sftspec baseline write" in capsys.readouterr().err
    assert main(["baseline", "write", str(document_path), "--baseline", str(path)]) == 0
    assert "3 known to fail; check with: sftspec check" in capsys.readouterr().out
    assert main(check) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "10 of 13 claimed pass, 3 known to fail" in said and "conforms to b.toml (exit 0)" in said
    assert "what you do not claim is not counted" in said
    mended = copy.deepcopy(document)
    verdict = next(item for item in mended["verdicts"] if item["status"] == "fail")
    verdict.update(status="pass", counterexample=None)
    mended["totals"]["must"].update({"pass": 11, "fail": 2})
    document_path.write_text(json.dumps(mended), encoding="utf-8")
    assert main(check) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"{verdict['id']} stale in the baseline" in said and "does not conform to b.toml: 1 of its entries" in said
    assert main([*check, "--select", "masking"]) == 2


def test_a_run_that_broke_writes_no_baseline(document, tmp_path, capsys):
    document["scenarios"][0]["error"] = "OSError: no"
    (tmp_path / "d.json").write_text(json.dumps(document), encoding="utf-8")
    path = tmp_path / "b.toml"
    assert main(["baseline", "write", str(tmp_path / "d.json"), "--baseline", str(path)]) == 2
    assert not path.exists() and "the run broke" in capsys.readouterr().out


def test_a_baseline_is_written_into_a_folder_that_is_there(tmp_path, capsys):
    assert main(["baseline", "write", str(RECORDED), "--baseline", str(tmp_path / "none" / "b.toml")]) == 2
    assert f"b.toml: there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


def test_what_an_editor_of_windows_wrote_is_read_and_keeps_its_line_ends(document, tmp_path):
    path, trial = tmp_path / "known.toml", tmp_path / "trial.json"
    text = written(document)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    trial.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert main(["baseline", "write", str(trial), "--baseline", str(path)]) == 0
    assert path.read_bytes() == text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["baseline", "check", "trial.json", "--baseline", "deep.toml"], "deep.toml: not valid TOML: it is nested too"),
        (["diff", "deep.json", "trial.json"], "deep.json: not valid JSON (it is nested too deeply)"),
        (["check", "reference", "--json", "n" * 300], "File name too long"),
        (["check", "reference", "--html", "loop/page"], "there is no folder loop|Too many levels"),
        (["check", "reference", "--json", "same", "--html", "./same"], "--json is written there; name another file"),
        (["baseline", "write", "trial.json", "--baseline", "/proc/sys/kernel/ostype"], "/proc/sys/kernel/ostype|TOML"),
    ],
)
def test_an_odd_file_is_one_sentence(document, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.json").write_text(json.dumps(document))
    (tmp_path / "deep.toml").write_text(f'spec_revision = "2026-12"\nx = {"[" * 3000}{"]" * 3000}\n')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "loop").symlink_to("loop")
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert any(part in printed for part in said.split("|")) and printed.count("\n") == 1, printed
