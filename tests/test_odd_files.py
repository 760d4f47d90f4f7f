"""Files as users have them that are no JSON Lines of a known form: each says what it is, and what to do."""

from __future__ import annotations

import gzip
import json

import pytest

from sftspec.conformance.audit.batch import Auditor, Settings
from sftspec.conformance.audit.shards import cut, find_sources
from sftspec.conformance.audit.summary import PLACES, Summary

TALK = [{"role": "user", "content": "Zürich?"}, {"role": "assistant", "content": "21 °C."}]
LINE = json.dumps({"messages": TALK}, ensure_ascii=False)


def in_messages(value):
    return json.dumps({"messages": value}, ensure_ascii=False)


ODD = {
    "UTF-16 without a mark": (LINE.encode("utf-16-le"), 1, "UTF-16; save it as UTF-8"),
    "lines that end in CR": (f"{LINE}\r{LINE}\r", 1, "end in CR alone: save the file with LF"),
    "commas between lines": (f"{LINE},\n{LINE}\n", 1, "remove the comma"),
    "two values in a line": (f"{LINE}\n{LINE} {LINE}\n", 2, "one value a line"),
    "repr": (f"{LINE}\n{ {'messages': TALK}!r}\n", 2, "json.dumps"),
    "CSV": ("prompt,completion\nHi,Hello\n", 1, "CSV, YAML and plain text are not read"),
    "zip": (b"PK\x03\x04" + bytes(40), 1, "unpack it"),
    "LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", 1, "git lfs pull"),
    "a page": ("<!DOCTYPE html><html></html>\n", 1, "a download that failed"),
    "nested deeply": ('{"messages":' + "[" * 5000 + "]" * 5000 + "}\n", 1, "flatten it"),
    "JSON in a string": (json.dumps({"conversations": json.dumps(TALK)}), 1, "parse it first"),
    "a list for each field": (in_messages({"role": ["user"], "content": ["Hi"]}), 1, "a list for each field"),
    "conversations in one record": (in_messages([TALK, TALK]), 1, "a record holds one conversation"),
    "a role in capitals": (in_messages([TALK[0] | {"role": "User"}]), 1, "'User'; write user"),
    "records inside an object": (json.dumps({"data": [{"messages": TALK}]}), 1, "write the list under data alone"),
    "a preference of OpenAI": (json.dumps({"input": {}, "preferred_output": TALK}), 1, "write the preferred answer"),
    "a tree": (json.dumps({"message_id": "a", "role": "prompter", "text": "Hi"}), 1, "write each path from its root"),
}


def audited(path) -> Summary:
    auditor = Auditor(Settings(tuple(find_sources([str(path)])), "chatml/openai"))
    return sum((auditor(shard).summary for shard in cut(list(auditor.settings.sources))), Summary())


@pytest.mark.parametrize(("content", "line", "said"), ODD.values(), ids=ODD)
def test_an_odd_file_says_what_it_is_and_what_to_do(content, line, said, tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    place, words = audited(path).bad[0]
    assert place % PLACES == line and said in words


def test_what_was_unpacked_before_a_packed_file_breaks_off_is_read(tmp_path):
    whole = "".join(f"{in_messages([TALK[0], TALK[1] | {'content': str(number)}])}\n" for number in range(5000))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(whole.encode())[:-100])
    summary = audited(path)
    ((place, said),) = summary.bad
    assert 4000 < summary.conversations < 5000 and place % PLACES == summary.conversations + 1
    assert "cannot be unpacked any further" in said


def test_prompt_and_response_are_a_conversation(tmp_path):
    path = tmp_path / "foundry.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "response": "Hello"}))
    summary = audited(path)
    assert not summary.bad and summary.roles["user"][0] == summary.roles["assistant"][0] == 1
