"""The page, the Markdown summary and the difference say what the document says, and nothing in it becomes markup."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from sftspec.conformance.commands.cli import main
from sftspec.conformance.report.difference import changes, is_worse
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.form import json_text, read_document, validate
from sftspec.conformance.report.html import page
from sftspec.conformance.report.isolation import leaks, line_of
from sftspec.conformance.report.links import links
from sftspec.conformance.report.markdown import markdown
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.properties import load
from sftspec.properties.ledger.run import Piece, Replay, Row
from sftspec.trainer import Pipeline

RECORDED = Path(__file__).parent / "documents" / "verdicts-1.json"
EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>`x`"


@pytest.fixture(scope="module")
def document() -> dict:
    return read_document(RECORDED)


def packed(trainer) -> dict:
    chosen = [item for item in load("packing") if item.id == "packing/examples-do-not-see-each-other"]
    trial = put_on_trial(trainer, chosen, scenarios=[item for item in SCENARIOS if item.name == "packed"])
    return make_document(trial, identify(trainer, {}), "sftspec check reference --seed 0", 0)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(text: str) -> Tags:
    found = Tags()
    found.feed(text)
    assert not found.open
    return found


def test_the_page_loads_nothing_runs_nothing_and_says_every_failure(document):
    found = read(page(document))
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"script", "link", "img", "iframe", "form"}
    assert {address.split("/")[2] for tag, said in found.tags if tag == "a" for address in [said["href"]]} <= {
        "github.com", "arxiv.org",
    }  # fmt: skip
    failed = [item for item in document["verdicts"] if item["status"] == "fail"]
    for item in failed:
        assert item["id"] in found.text and item["repro"] in found.text
        assert item["counterexample"]["note"] in found.text
    assert "does not conform" in found.text and f"What does not hold ({len(failed)})" in found.text


def test_what_a_trainer_says_stays_text(document):
    evil = copy.deepcopy(document)
    evil["trainer"].update(name=EVIL, setting={EVIL: EVIL})
    evil["command"] = EVIL
    evil["scenarios"][0].update(name=EVIL, error=EVIL)
    for verdict in evil["verdicts"]:
        verdict["repro"] = EVIL
        if verdict["counterexample"]:
            verdict["counterexample"].update(note=EVIL, scenario=EVIL, arguments={EVIL: EVIL})
            verdict["counterexample"]["tokens"][0].update(text=EVIL, expected=EVIL, seen=EVIL)
    validate(evil)
    found = read(page(evil))
    assert not {tag for tag, _ in found.tags} & {"script", "img"} and EVIL in found.text
    said = markdown(evil)
    assert not re.search(r"<(?!/?(details|summary)>)", re.sub(r"(`+) .*? \1|`[^`\n]*`", "", said))


def test_markdown_names_what_fails_and_what_came_of_it(document):
    said = markdown(document)
    assert said.startswith("## ❌ sftspec: Loop 3 in this setting does not conform")
    for item in document["verdicts"]:
        assert (f"### `{item['id']}`: fail (must)" in said) == (item["status"] == "fail")


def test_the_picture_of_a_packed_row_shows_a_leak():
    clean = packed(Pipeline())
    assert clean["isolation"] is not None and leaks(clean["isolation"]) == 0
    assert all(said in ("no", "yes") for line in clean["isolation"]["sees"] for said in line)
    assert "nobody sees another" in page(clean)

    leaky = packed(next(item for item in load_mutants() if item.name == "packing/third-segment-leaks").make())
    assert leaks(leaky["isolation"]) > 0 and "one sees another" in page(leaky)


def test_only_what_a_replay_tells_is_said():
    pieces = [Piece(n, (Row(0, 0, 0, 0, n, 1, 0, n, 0),)) for n in range(3)]

    def replay(changed: str, moved: str) -> Replay:
        return Replay(0, *(frozenset((0, int(n)) for n in side) for side in (changed, moved)))

    assert line_of(pieces[2], pieces, [replay("0", "02"), replay("1", "1")]) == ["yes", "no", "yes"]
    assert line_of(pieces[2], pieces, [replay("01", "012")]) == ["unknown", "unknown", "yes"]
    assert line_of(pieces[2], pieces, [replay("01", "012"), replay("1", "1")]) == ["yes", "no", "yes"]
    assert line_of(pieces[2], pieces, [replay("012", "012")]) == ["unknown", "unknown", "yes"]


def test_issues_and_papers_become_links():
    text = "A mask (trl#1230, axolotl#732; no-such-repository" + "#1), arXiv:2305.11206."
    found = [(piece, address) for piece, address in links(text) if address]
    assert "".join(piece for piece, _ in links(text)) == text
    assert found == [
        ("trl#1230", "https://github.com/huggingface/trl/issues/1230"),
        ("axolotl#732", "https://github.com/axolotl-ai-cloud/axolotl/issues/732"),
        ("arXiv:2305.11206", "https://arxiv.org/abs/2305.11206"),
    ]


def test_the_difference_names_each_change_and_gates(document, tmp_path, capsys):
    mended = copy.deepcopy(document)
    verdict = next(item for item in mended["verdicts"] if item["status"] == "fail")
    verdict.update(status="pass", counterexample=None)
    places = []
    for name, found in (("old", document), ("new", mended)):
        places.append(tmp_path / f"{name}.json")
        places[-1].write_text(json_text(found), encoding="utf-8")
    assert main(["diff", *map(str, places)]) == 0
    said = capsys.readouterr().out
    assert f"{verdict['id']}  must    fail → pass\n" in said and "1 property changed, 0 musts got worse" in said
    assert main(["diff", *map(str, reversed(places))]) == 1
    assert "pass → fail  worse" in capsys.readouterr().out
    assert changes(document, document) == []
    assert is_worse("must", "pass", "not-measured") and not is_worse("must", "pass", "known-fail")
    assert not is_worse("should", "pass", "fail") and not is_worse("must", "fail", "ambiguous")


def test_files_that_cannot_be_written_are_refused_before_the_run(tmp_path, capsys):
    for option, place, message in (
        ("--html", tmp_path, "it is a folder"), ("--markdown", tmp_path / "no" / "x.md", "there is no folder"),
        ("--json", tmp_path / "no" / "x.json", "there is no folder"),
    ):  # fmt: skip
        assert main(["baseline", "check", str(RECORDED), option, str(place)]) == 2
        assert message in capsys.readouterr().err


def test_the_summary_of_a_ci_job_is_appended_to(document, tmp_path, monkeypatch):
    summary, empty = tmp_path / "summary.md", tmp_path / "b.toml"
    summary.write_text("before\n")
    empty.write_text(f'spec_revision = "{document["spec_revision"]}"\n')
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    check = ["baseline", "check", str(RECORDED), "--baseline", str(empty)]
    assert main([*check, "--markdown", str(summary), "--html", str(tmp_path / "r.html")]) == 1
    assert summary.read_text().startswith("before\n## ❌ sftspec") and (tmp_path / "r.html").exists()


def test_a_narrow_terminal_is_no_crash(document):
    from sftspec.conformance.report.terminal import report_lines

    assert list(report_lines(document, Console(width=40).width, {}))
