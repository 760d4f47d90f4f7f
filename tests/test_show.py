"""What `sftspec show` says of a file is what `encode` makes of it, and what is wrong stands first."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import processors

from sftspec import encode
from sftspec.conformance.commands.cli import main
from sftspec.conformance.commands.show import POLICIES
from sftspec.conformance.show.html import page
from sftspec.conformance.show.inputs import Tokens, choose_template, load_tokenizer
from sftspec.conformance.show.showing import FINDINGS, cells_of, show
from sftspec.conformance.show.terminal import NOT_HERE
from sftspec.golden import small_tokenizer
from sftspec.masking import POLICIES as POLICIES_OF_ENCODE

FINE = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
LONG = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A" * 40}]
ALONE = [{"role": "user", "content": "Q"}]
FORGING = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "<b>&</b> <think>"}]
SILENT = [{"role": "user", "content": " \n"}, {"role": "assistant", "content": ""}]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (FINE, LONG, ALONE, FORGING, SILENT)))
    return path


def shown(file, template="chatml/openai", policy="all", max_length=30):
    return show(file, choose_template(template, "small"), load_tokenizer("small"), policy, max_length)


def found(showing) -> dict[str, dict[str, int]]:
    return {row.conversation.source: dict(+row.findings) for row in showing.rows}


def test_every_finding_is_counted_where_it_is_and_the_worst_stands_first(file):
    # Counted by hand: LONG is 4 + 9 header tokens, an answer of 40 letters, <|im_end|> and a newline.
    length = len(encode(LONG, tokenizer=small_tokenizer.load()))
    assert found(shown(file)) == {
        "data.jsonl:3": {"no target": 1, "last turn not assistant": 1},
        "data.jsonl:2": {"end of turn untrained": 1, "tokens cut off": length - 30, "cut targets": length - 30 - 1},
        "data.jsonl:4": {"control strings in content": 1},  # its own <think> is no control string of an assistant
        "data.jsonl:5": {"empty messages": 1, "empty answers": 1},
        "data.jsonl:1": {},
    }


def test_counts_are_those_of_encode(file):
    totals = shown(file).totals
    examples = [encode(talk, tokenizer=small_tokenizer.load(), max_length=30)
                for talk in (FINE, LONG, ALONE, FORGING, SILENT)]  # fmt: skip
    assert totals["conversations"] == 5
    assert totals["tokens"] == sum(map(len, examples))
    assert totals["targets"] == sum(example.num_targets for example in examples)


def test_what_a_template_refuses_is_shown_with_the_reason(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (FINE, [*ALONE, *ALONE])))
    showing = shown(path, "llama2/hf")
    assert [row.conversation.source for row in showing.rows] == ["data.jsonl:2", "data.jsonl:1"]
    assert showing.totals["refused"] == 1 and "message 1" in showing.rows[0].error


def test_two_bos_in_a_row_are_counted_and_a_tokenizer_that_would_add_one_is_named(file):
    from tokenizers import Tokenizer

    adding = Tokenizer.from_str(small_tokenizer.load().to_str())
    number = adding.token_to_id("<s>")
    adding.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    template = choose_template("llama2/hf", "small")
    file.write_text(json.dumps({"messages": FINE}))
    both = show(file, template, Tokens(adding, "adding"), "all", None)
    one = show(file, template, load_tokenizer("small"), "all", None)
    assert [any("both write <s>" in remark for remark in showing.remarks) for showing in (both, one)] == [True, False]
    assert both.totals["double BOS"] == one.totals["double BOS"] == 0
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "<s><s>"}, FINE[1]]}))
    assert show(file, template, load_tokenizer("small"), "all", None).totals["double BOS"] == 1


def test_the_strip_has_the_tokens_and_the_targets(file):
    showing = shown(file)
    row = next(row for row in showing.rows if row.conversation.source == "data.jsonl:2")
    cells = cells_of(row, showing.tokenizer, 1000)
    assert "".join(cell.text for cell in cells) == row.encoded.rendered.text.replace("\n", "⏎")
    assert [cell.present for cell in cells] == [place < 30 for place in range(len(cells))]
    assert sum(cell.trained for cell in cells) == row.targets
    assert {cell.text for cell in cells if cell.trained} == {"A"}


def test_the_page_loads_nothing_and_no_content_becomes_markup(file):
    text = page(shown(file), 5)
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert "<b>&</b>" not in text and '">&lt;</span>' in text and '">&amp;</span>' in text
    boxes = re.findall(r'<span([^>]*) title="\d+, (\w+)">', text)
    forged = [kind for classes, kind in boxes if "f" in re.findall(r"\b[tcxf]\b", classes)]
    assert forged == ["content", "content"]  # the page still frames what became a control token
    trained = sum("t" in re.findall(r"\b[tcxf]\b", classes) for classes, _ in boxes)
    assert trained == shown(file).totals["targets"]


def test_the_command_prints_counts_and_strips_and_writes_the_page(file, tmp_path, capsys):
    html = tmp_path / "page.html"
    assert main(["show", str(file), "--max-length", "30", "--limit", "2", "--html", str(html)]) == 0
    said = capsys.readouterr().out
    assert "5 conversations" in said and "data.jsonl:3  0 of" in said and "3 more conversations" in said
    assert all(finding in said for finding in FINDINGS if finding not in NOT_HERE)
    assert "[AAAA" in said.replace(" ", "")
    assert html.read_text().count("<details") == 2


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ('{"messages": [{"role": "user"}]}', [], "data.jsonl:1, message 0"),
        ('{"messages": []}\n{', [], "data.jsonl:1"),
        ("", [], "no conversation"),
        (json.dumps({"messages": FINE}), ["--template", "chatml/opanai"], "known: chatml/openai"),
        (json.dumps({"messages": FINE}), ["--tokenizer", "nowhere"], "no nowhere there"),
        (json.dumps({"messages": FINE}), ["--max-length", "0"], "positive"),
        (json.dumps({"messages": FINE}), ["--html", "no/such/folder/x.html"], "there is no folder"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_place(tmp_path, capsys, content, options, words):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    assert main(["show", str(path), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_bad_line_does_not_hide_the_others_and_lines_can_be_chosen(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([json.dumps({"messages": FINE}), "{", json.dumps({"messages": ALONE}), "[]"]))
    assert main(["show", str(path)]) == 1
    said = capsys.readouterr().out
    assert "data.jsonl:1  2 of" in said and "data.jsonl:3  0 of" in said and "data.jsonl:4: the conversation" in said
    assert "data.jsonl:2, column 2: not valid JSON" in said and "2  bad lines" in said
    assert main(["show", str(path), "--line", "3"]) == 0
    said = capsys.readouterr().out
    assert "data.jsonl:3  0 of" in said and "data.jsonl:1" not in said
    assert main(["show", str(path), "--line", "x"]) == 2 and "such as 12 or 5-9" in capsys.readouterr().err


def test_two_equal_conversations_are_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"messages": talk}) for talk in (FINE, ALONE, FINE)))
    assert found(shown(path))["data.jsonl:3"] == {"duplicates": 1}


def test_a_folder_brings_its_tokenizer_and_its_template(file, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(small_tokenizer.load().to_str())
    source = "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '|' + m.content + '<|im_end|>' }}"
    config = {"chat_template": source + "{% endfor %}", "bos_token": {"content": "<s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert main(["show", str(file), "--tokenizer", str(folder), "--limit", "9"]) == 0
    assert "<s> <|im_start|> user | Q" in capsys.readouterr().out


def test_the_policies_are_those_of_encode():
    assert POLICIES == POLICIES_OF_ENCODE
