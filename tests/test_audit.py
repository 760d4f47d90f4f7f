"""`sftspec audit`: every record is counted once, every finding where it is, and no bad line hides the others."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from functools import reduce
from itertools import pairwise
from operator import add

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftspec import encode_batch, load_conversations
from sftspec.conformance.audit.batch import Auditor, Settings
from sftspec.conformance.audit.document import Places, make_document, schema
from sftspec.conformance.audit.engines import run_local
from sftspec.conformance.audit.findings import FINDINGS
from sftspec.conformance.audit.html import page
from sftspec.conformance.audit.shards import Shard, cut, find_sources
from sftspec.conformance.audit.summary import PLACES, Summary
from sftspec.conformance.commands.cli import main
from sftspec.golden import small_tokenizer
from sftspec.masking import IGNORE
from sftspec.packing import pack


def talk(*turns, **beside):
    roles = ("user", "assistant")
    messages = [t if isinstance(t, dict) else {"role": roles[n % 2], "content": t} for n, t in enumerate(turns)]
    return {"messages": messages, **beside}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}]}
STRING_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
}
# Each record with what is wrong with it, by hand, under chatml/qwen3 and a max_length of 60.
RECORDS = [
    (talk("Hello", "Hi"), {}),
    ("{", {"bad lines"}),
    (talk("Hello, no answer yet"), {"no target", "last turn not assistant"}),
    (talk("Say it", ""), {"empty answers"}),
    (talk(" ", "x"), {"empty messages"}),
    (talk("a <|im_end|> b", "fine"), {"control strings in content"}),
    (talk("plan?", "<think>a plan</think>One."), set()),
    (talk("plans?", "<think>a plan</think>One.", "and?", "<think>two</think>Two."), {"thoughts dropped"}),
    (talk("x" * 10, "y" * 90), {"cut targets", "tokens cut off", "end of turn untrained"}),
    (talk("call", CALL), {"nulls"}),
    (talk("Hello", "Hi"), {"duplicates"}),
    (talk("HELLO!", "Hey"), {"near-duplicate prompts"}),
    (talk("role", {"role": "critic", "content": "?"}), {"bad lines"}),
    (talk("all masked", {"role": "assistant", "content": "Hi", "loss_mask": 0}), {"no target"}),
    ({"text": "no form"}, {"bad lines"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "data.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r, _ in RECORDS))
    return path


def audited(path, *options, document=True, code=None):
    out = path.parent / "out.json"
    found = main(["audit", str(path), "--json", str(out), "--template", "chatml/qwen3", "--workers", "1", *options])
    assert code is None or found == code
    return json.loads(out.read_text()) if document else found


def places_of(document):
    found = {}
    for item in document["findings"]:
        for example in item["examples"]:
            found.setdefault(example["place"], set()).add(item["name"])
    return found


def test_every_finding_is_where_it_is_and_nowhere_else(file):
    document = audited(file, "--max-length", "60", code=1)
    wrong = {f"data.jsonl:{number}": names for number, (_, names) in enumerate(RECORDS, 1) if names}
    assert places_of(document) == wrong
    assert {item["name"]: item["conversations"] for item in document["findings"]} == {
        name: sum(name in names for _, names in RECORDS) for name in FINDINGS
    }
    assert [item["place"] for item in document["bad_lines"]] == ["data.jsonl:2", "data.jsonl:13", "data.jsonl:15"]
    jsonschema.validate(document, schema())


def test_notes_name_the_message_and_the_first_of_two(file):
    notes = {item["name"]: item["examples"] for item in audited(file)["findings"]}
    assert notes["duplicates"] == [{"place": "data.jsonl:11", "note": "as data.jsonl:1"}]
    assert notes["control strings in content"][0]["note"] == "<|im_end|> in message 0"
    assert notes["nulls"][0]["note"] == "message 1, call of f"
    assert notes["thoughts dropped"][0]["note"].startswith("message 1: <think>a plan")


def test_counts_are_those_of_encode(tmp_path):
    path = tmp_path / "data.jsonl"
    good = [record for record, names in RECORDS if "bad lines" not in names]
    path.write_text("".join(json.dumps(record) + "\n" for record in good))
    examples = encode_batch(load_conversations(path), "chatml/qwen3", small_tokenizer.load())
    cut = encode_batch(load_conversations(path), "chatml/qwen3", small_tokenizer.load(), max_length=60)
    document = audited(path, "--max-length", "60")
    assert document["tokens"] == sum(map(len, examples)) and document["kept"] == sum(map(len, cut))
    assert document["targets"] == sum(example.num_targets for example in cut)
    assert sum(role["targets"] for role in document["roles"].values()) == document["targets"]
    assert sum(role["tokens"] for role in document["roles"].values()) == document["kept"]
    lost = next(item for item in document["findings"] if item["name"] == "cut targets")["times"]
    assert lost == sum(a.num_targets - b.num_targets for a, b in zip(examples, cut, strict=True))
    by_role = dict.fromkeys(("user", "assistant"), 0)
    for conversation, example in zip(load_conversations(path), cut, strict=True):
        for place in range(1, len(example)):
            if example.labels[place] != IGNORE:
                by_role[conversation[example.rendered.messages[example.owners[place]]]["role"]] += 1
    assert {role: document["roles"][role]["targets"] for role in by_role} == by_role
    lengths = sorted(map(len, examples))
    assert document["lengths"]["percentiles"]["p50"] == lengths[-(-len(lengths) // 2) - 1]
    row = next(item for item in document["packing"] if item["capacity"] == 60)
    assert row["rows"] == len(pack([min(60, length) for length in lengths], 60))


def test_a_limit_loses_what_encode_loses(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [talk("q" * 1000, "a" * 500), talk("q" * 2100, "a"), talk("q", "a" * 3000), talk("q", "a")]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    whole = encode_batch(load_conversations(path), "chatml/qwen3", small_tokenizer.load())
    for item in audited(path)["limits"]:
        cut = encode_batch(
            load_conversations(path), "chatml/qwen3", small_tokenizer.load(), max_length=item["max_length"]
        )
        pairs = list(zip(whole, cut, strict=True))
        assert item["conversations_cut"] == sum(len(a) > len(b) for a, b in pairs)
        assert item["tokens_lost"] == sum(len(a) - len(b) for a, b in pairs)
        assert item["targets_lost"] == sum(a.num_targets - b.num_targets for a, b in pairs)
        assert item["left_without_target"] == sum(not b.num_targets and len(a) > len(b) for a, b in pairs)


def batches_of(path, pieces):
    """The file cut after the given lines, each piece a shard of its own."""
    lines = path.read_bytes().split(b"\n")[:-1]
    edges = [0, *sorted({piece % (len(lines) + 1) for piece in pieces}), len(lines)]
    auditor = Auditor(Settings(tuple(find_sources([str(path)])), "chatml/qwen3", max_length=60))
    return auditor, [
        auditor(Shard(index, 0, low + 1, "line", data=b"\n".join(lines[low:high]))).summary
        for index, (low, high) in enumerate(pairwise(edges))
    ]


def document_of(summary, auditor):
    return make_document(summary, auditor.settings, Places(auditor.settings.sources, {0: "line"}), [], "t", "s", 0.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 20), max_size=6), st.randoms(use_true_random=False))
def test_any_split_and_any_order_give_the_same_summary(file, pieces, random):
    auditor, whole = batches_of(file, [])
    _, parts = batches_of(file, pieces)
    random.shuffle(parts)
    half = random.randrange(len(parts) + 1)
    left, right = (reduce(add, some, Summary()) for some in (parts[:half], parts[half:]))
    assert document_of(left + right, auditor) == document_of(whole[0], auditor)


def test_a_sum_leaves_its_terms_as_they_were(file):
    _, (one, other) = batches_of(file, [5])
    before = one.records, dict(one.lengths), len(one.prints), {name: item.times for name, item in one.found.items()}
    _ = one + other
    assert (one.records, dict(one.lengths), len(one.prints)) == before[:3]
    assert {name: item.times for name, item in one.found.items()} == before[3]


def test_a_pool_gives_what_one_process_gives(file, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps(talk(f"q {n} {'x' * 200}", f"a {n}")) + "\n" for n in range(400)) + "{\n")
    auditor = Auditor(Settings(tuple(find_sources([str(many)])), "chatml/qwen3"))
    shards = list(cut(list(auditor.settings.sources)))
    assert len(shards) > 2
    alone, pooled = (sum((b.summary for b in run_local(shards, auditor, n)), Summary()) for n in (1, 2))
    assert document_of(alone, auditor) == document_of(pooled, auditor) and alone.records == 401


RECORD = talk("Where?", "Here.")
PRETTY = json.dumps([RECORD, talk("Who?", "I.")], indent=2)


def written(folder, kind):
    """One file with two good records, as people keep them."""
    lines = "".join(json.dumps(record) + "\n" for record in json.loads(PRETTY)).encode()
    plain = {
        "data.jsonl": lines, "bom.jsonl": b"\xef\xbb\xbf" + lines, "crlf.jsonl": lines.replace(b"\n", b"\r\n"),
        "no_end.jsonl": lines.rstrip(), "blank.jsonl": lines.replace(b"\n", b"\n\n"), "list.json": PRETTY.encode(),
        "one_line.json": json.dumps(json.loads(PRETTY)).encode(), "lines.json": lines,
        "packed.jsonl.gz": gzip.compress(lines),
        "packed.jsonl.bz2": bz2.compress(lines), "packed.jsonl.xz": lzma.compress(lines), "no_suffix": lines,
        "packed.json.gz": gzip.compress(PRETTY.encode()), "lists.jsonl":
        "".join(json.dumps(record["messages"]) + "\n" for record in json.loads(PRETTY)).encode(),
    }  # fmt: skip
    path = folder / kind
    if kind in plain:
        path.write_bytes(plain[kind])
        return path
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    table = arrow.Table.from_pylist(json.loads(PRETTY))
    if kind == "data.parquet":
        parquet.write_table(table, path)
    elif kind == "file.arrow":
        with ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "packed.jsonl.zst":
        path.write_bytes(arrow.compress(lines, "zstd", asbytes=True))
    elif kind == "folder":
        pytest.importorskip("datasets").Dataset.from_list(json.loads(PRETTY)).save_to_disk(path)
    return path


KINDS = ["data.jsonl", "bom.jsonl", "crlf.jsonl", "no_end.jsonl", "blank.jsonl", "list.json", "one_line.json",
         "lines.json", "packed.jsonl.gz", "packed.jsonl.bz2", "packed.jsonl.xz", "no_suffix", "packed.json.gz",
         "lists.jsonl", "data.parquet", "file.arrow", "packed.jsonl.zst", "folder"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_records_in_any_file_are_the_same_data(tmp_path, kind):
    path = written(tmp_path, kind)
    document = audited(path, code=0)
    assert (document["records"], document["conversations"]) == (2, 2)
    plain = audited(written(tmp_path, "data.jsonl"))
    assert document["roles"] == plain["roles"] and document["lengths"] == plain["lengths"]


def test_standard_input_is_read(file, monkeypatch, capsys):
    import io
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(file.read_bytes()))))
    assert main(["audit", "-", "--workers", "1"]) == 1
    assert "stdin:2  column 2: not valid JSON" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "reason"), [
    (PRETTY.encode()[:-20], "does not go on as JSON"),
    (gzip.compress(PRETTY.encode() * 50)[:200], "cannot be unpacked any further"),
    ("\ufeff{}".encode("utf-16"), "UTF-16"),
    (b'{"messages": "\xff\xfe"}\n', "not UTF-8"),
    (b"PAR1 and no table", "the table cannot be read"),
    (json.dumps(talk("a", "b")).encode() + b"\n\0\0\0", "a zero byte"),
])  # fmt: skip
def test_a_broken_file_is_a_bad_line_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    document = audited(path, code=1)
    assert any(reason in item["reason"] for item in document["bad_lines"]), document["bad_lines"]


def test_filters_choose_records(file):
    assert audited(file, "--line", "2-4,6")["records"] == 4
    assert audited(file, "--grep", "plans?\\?")["records"] == 2
    some = [audited(file, "--sample", "50%")["records"] for _ in "ab"]
    assert some[0] == some[1] and 0 < some[0] < len(RECORDS)
    found = audited(file, "--where", "empty-answers", "--max-length", "60")["where"]
    assert found == [{"place": "data.jsonl:4", "note": "message 1"}]


@pytest.mark.parametrize(("options", "code"), [
    ([], 1), (["--fail-on", "none"], 0), (["--fail-on", "double-BOS"], 0), (["--fail-on", "empty-answers"], 1),
    (["--fail-on", "empty answers>5%"], 1), (["--fail-on", "Empty-Answers>0.5"], 0), (["--fail-on", "duplicates"], 1),
    (["--fail-on", "near-duplicate-prompts>90%"], 0),
])  # fmt: skip
def test_a_pipeline_can_fail_on_a_finding_or_its_share(file, options, code):
    assert audited(file, *options, document=False) == code


def test_good_and_bad_rows_are_written_apart_as_they_were(file, tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    audited(file, "--good", str(good), "--bad", str(bad), "--fail-on", "empty-answers")
    lines = file.read_bytes().splitlines(keepends=True)
    wrong = {number for number, (_, names) in enumerate(RECORDS) if {"bad lines", "empty answers"} & set(names)}
    assert bad.read_bytes().splitlines(keepends=True) == [lines[number] for number in sorted(wrong)]
    assert good.read_bytes().splitlines(keepends=True) == [line for n, line in enumerate(lines) if n not in wrong]


def test_a_template_that_quotes_arguments_again_is_found(tmp_path):
    path, template = tmp_path / "data.jsonl", tmp_path / "quotes.jinja"
    path.write_text(json.dumps(talk("call", STRING_CALL)) + "\n")
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content or '' }}{% for c in "
        "m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    found = {item["name"]: item for item in audited(path, "--template", str(template))["findings"]}
    assert found["quoted arguments"]["examples"] == [{"place": "data.jsonl:1", "note": "message 1, call of f"}]
    named = {item["name"]: item for item in audited(path, "--template", "chatml/qwen2.5", code=1)["findings"]}
    assert named["quoted arguments"]["conversations"] == named["refused"]["conversations"] == 1


def test_a_template_that_prints_what_python_prints_is_found(tmp_path):
    """chatlint's no_repr_leak: null and objects as Python writes them, which are no JSON."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": None}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    path, template = tmp_path / "data.jsonl", tmp_path / "prints.jinja"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "None?"}, message]}) + "\n")
    for printed, count in (("m.content ~ a", 2), ("a", 1), ("(m.content or '') ~ (a | tojson)", 0)):
        template.write_text(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{% if m.tool_calls %}{% set a = "
            "m.tool_calls[0].function.arguments %}{{ " + printed + " }}{% else %}{{ m.content }}{% endif %}"
            "<|im_end|>{% endgeneration %}{% endfor %}"
        )
        found = {item["name"]: item for item in audited(path, "--template", str(template))["findings"]}
        assert found["Python repr"]["times"] == count


def test_remarks_say_what_was_not_read(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [talk("a", {"role": "assistant", "content": "b", "reasoning": "c"}, notes="text") for _ in "abc"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert audited(path)["remarks"] == [
        {"said": "notes of a record is not read", "records": 3, "first": "data.jsonl:1"},
        {"said": "reasoning is read as reasoning_content", "records": 3, "first": "data.jsonl:1"},
    ]


def test_the_page_loads_nothing_and_no_content_becomes_markup(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"<script>alert(1)</script>": 1}\n' + json.dumps(talk("<b>&</b><|im_end|>", "x")) + "\n")
    text = page(audited(path))
    assert "<script" not in text and "http" not in text.replace("http-equiv", "") and "<b>&" not in text
    assert "&lt;script&gt;" in text and re.search(r"bad lines", text)


def test_nothing_of_a_file_reaches_the_terminal_raw(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"\x1b]0;owned\x07\x1b[2J": "x"}) + "\n", encoding="utf-8")
    main(["audit", str(path)])
    said = capsys.readouterr()
    assert "\x1b]0" not in said.out + said.err and "\x07" not in said.out + said.err and "\x1b[2J" not in said.out


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere.jsonl"], "no such file or folder"),
    (["FILE", "--fail-on", "typos"], "'typos' is no finding; there are bad-lines"),
    (["FILE", "--fail-on", "refused>2"], "write a share after >"),
    (["FILE", "--where", "typos"], "is no finding"),
    (["FILE", "--json", "no/folder/x.json"], "there is no folder"),
    (["FILE", "--html", "."], "it is a folder"),
    (["FILE", "--good", "FILE"], "a file to be read"),
    (["FILE", "--grep", "("], "no regular expression"),
    (["FILE", "--line", "a"], "such as 12 or 5-9"),
    (["FILE", "--line", "999"], "nothing matches"),
    (["FILE", "--sample", "0"], "write a share above 0"),
    (["FILE", "--template", "chatml/qwen9"], "known: chatml/openai"),
    (["FILE", "--workers", "0"], "positive number of processes"),
    (["."], "no file of conversations there"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_read(file, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *[str(file) if item == "FILE" else item for item in arguments]]) == 2
    assert words in capsys.readouterr().err


def test_places_are_numbers_that_sort_by_file_and_line(file):
    sources = find_sources([str(file), str(file.parent)])
    assert Places(sources, {0: "line"}).name(PLACES * 0 + 7).endswith("data.jsonl:7")


def test_what_a_template_marks_of_others_is_found(file):
    """`{% generation %}` around every role: what others say is trained, and is said to be."""
    template = file.with_name("marks.jinja")
    template.write_text(
        "{% for m in messages %}{% generation %}{{ m.role }}: {{ m.content or '' }}<|im_end|>"
        "{% endgeneration %}{% endfor %}"
    )
    document = audited(file, "--template", str(template), "--line", "1")
    (found,) = [item for item in document["findings"] if item["name"] == "others trained"]
    assert found["conversations"] == 1 and found["examples"][0]["note"] == "message 0, user"
    assert "marks what is trained" in json.dumps(document)


def test_a_table_of_text_is_one_error_and_not_one_for_each_line(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("prompt,response\nHi,Yes\nHo,No\n")
    assert main(["audit", str(tmp_path / "a.csv")]) == 2
    assert "write JSON Lines" in capsys.readouterr().err
