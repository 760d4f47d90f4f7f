"""Many templates on trial: kept as soon as known, not judged again, and what is known survives an interrupt."""

from __future__ import annotations

import functools
import json

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.template import Question, judge_place
from sftspec.conformance.report.template_page import compact_json, kept_documents, template_page
from sftspec.conformance.trial.template_matrix import Kept, Place, judged
from tests.test_template_trial import CHATML, LLAMA3

PROPERTY = "template/a-generation-prompt-opens-the-answer"
ASKED = Question(None, None, (PROPERTY,))
SOURCES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mute": CHATML.split("{% if add_generation_prompt")[0],
    "endless": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
}


@pytest.fixture
def folder(tmp_path):
    templates = tmp_path / "templates"
    templates.mkdir()
    for name, source in SOURCES.items():
        (templates / f"{name}.jinja").write_text(source)
    return templates


def places(folder):
    return [Place(str(path), path.stem) for path in sorted(folder.glob("*.jinja"))]


def statuses(results):
    return {item.name: documents[0]["verdicts"][0]["status"] for item, documents in results}


def test_what_was_judged_is_not_judged_again_unless_it_changed(folder, tmp_path):
    kept, asked = Kept(tmp_path / "kept", {"select": [PROPERTY]}), []

    def judge(item):
        asked.append(item.name)
        return judge_place(item, ASKED)

    first = statuses(judged(places(folder), judge, kept, workers=1))
    assert first == {"chatml": "pass", "llama3": "pass", "mute": "fail", "endless": "not-measured"}
    (folder / "mute.jinja").write_text(CHATML)  # mended
    (tmp_path / "kept" / "llama3.json").write_text('{"key": ')  # half a file
    asked.clear()
    assert statuses(judged(places(folder), judge, kept, workers=1)) == {**first, "mute": "pass"}
    assert sorted(asked) == ["llama3", "mute"]
    other = Kept(tmp_path / "kept", {"select": ["template"]})
    assert all(other.read(item) is None for item in places(folder))


def test_several_processes_find_the_same(folder):
    judge = functools.partial(judge_place, asked=ASKED)
    some = [item for item in places(folder) if item.name != "endless"]
    apart = statuses(judged(some, judge, Kept(None, {}), workers=2))
    assert apart == {"chatml": "pass", "llama3": "pass", "mute": "fail"}


def test_an_interrupt_leaves_what_is_known(folder, tmp_path, monkeypatch, capsys):
    real = judge_place

    def interrupted(item, **options):
        if item.name == "mute":
            raise KeyboardInterrupt
        return real(item, **options)

    monkeypatch.setattr("sftspec.conformance.commands.template.judge_place", interrupted)
    (folder / "endless.jinja").unlink()
    command = ["check", "template", str(folder), "--select", PROPERTY, "--keep", str(tmp_path / "kept")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "interrupted; 2 of 3 templates are judged" in said.err and "2 templates on trial" in said.out
    monkeypatch.undo()
    assert main(command) == 1
    assert "3 templates on trial" in capsys.readouterr().out


def test_the_page_and_the_small_file_hold_every_status(folder, tmp_path):
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    command = ["check", "template", str(folder), "--select", PROPERTY, "--keep", str(kept), "--markdown", str(page)]
    assert main(command) == 1
    documents = list(kept_documents(kept))
    assert page.read_text() == template_page(sorted(documents, key=lambda item: item["trainer"]["name"]))
    assert f"| `{PROPERTY}` | 2 | 1 | 0 | 1 |" in page.read_text() and "Nothing fails: 2" in page.read_text()
    assert "Nothing can be measured: 1\n\nendless" in page.read_text()
    found = json.loads(compact_json(documents))
    assert {name: each["statuses"] for name, each in found["templates"].items()} == {
        "chatml": "p", "endless": "-", "llama3": "p", "mute": "F",
    }  # fmt: skip
