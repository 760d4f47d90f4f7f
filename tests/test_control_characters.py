"""Whatever a file or a template holds, a terminal and a page get no control character; a reader may go at any time."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from sftspec.conformance.commands.cli import main

TITLE, CLEAR = "\x1b]0;owned\x07", "\x1b[2J\x9b2J"
TURN = [{"role": "user", "content": f"hi {CLEAR}"}, {"role": "assistant", "content": f"a{TITLE} b"}]
ODD = [{"role": f"us{CLEAR}er", "content": "x"}]
TEMPLATE = "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + CLEAR + "<|im_end|>\n{% endfor %}"


@pytest.fixture
def files(tmp_path):
    data, template = tmp_path / f"d{CLEAR}.jsonl", tmp_path / f"t{TITLE}.jinja"
    data.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (TURN, ODD)), encoding="utf-8")
    template.write_text(TEMPLATE, encoding="utf-8")
    return data, template


@pytest.mark.parametrize("command", ["show", "audit", "check template"])
def test_control_characters_are_shown_and_do_nothing(files, tmp_path, capsys, command):
    data, template = files
    page = tmp_path / "page.html"
    words = {
        "show": ["show", str(data), "--template", "chatml/qwen2.5"],
        "audit": ["audit", str(data), "--template", "chatml/qwen2.5"],
        "check template": [
            "check",
            "template",
            str(template),
            "--select",
            "template/a-call-has-one-text-in-every-form",
        ],
    }[command]
    main([*words, "--html", str(page), *([] if command == "show" else ["--json", str(tmp_path / "found.json")])])
    printed = capsys.readouterr()
    assert len(printed.out) > 200 and page.stat().st_size > 1000
    for text in (
        printed.out,
        printed.err,
        *(item.read_text(encoding="utf-8") for item in (page, *tmp_path.glob("*.json"))),
    ):
        assert not re.search("[\x1b\x07\x9b]", text)


@pytest.mark.parametrize("command", ["show", "audit"])
def test_a_reader_that_goes_early_is_no_error(tmp_path, command):
    data = tmp_path / "many.jsonl"
    row = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}) + "\n"
    data.write_text(row * 2000, encoding="utf-8")
    words = [sys.executable, "-m", "sftspec.conformance.commands.cli", command, str(data), "--limit", "2000"]
    process = subprocess.Popen(
        [*words, "--template", "chatml/qwen2.5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() in (0, 141) and "Traceback" not in said and "trainer" not in said


@pytest.mark.parametrize("command", ["check template", "audit", "show"])
def test_a_folder_for_a_file_is_refused_before_the_run(files, tmp_path, capsys, command):
    data, template = files
    words = {
        "show": ["show", str(data), "--template", "chatml/qwen2.5", "--html"],
        "audit": ["audit", str(data), "--template", "chatml/qwen2.5", "--json"],
        "check template": ["check", "template", str(template), "--json"],
    }[command]
    assert main([*words, str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert not printed.out and "it is a folder" in printed.err and printed.err.count("\n") == 1
