"""The frozen words: an id means what it meant, and what differs from an earlier revision is declared."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from sftspec import SPEC_REVISION
from sftspec.properties import revisions
from sftspec.properties.revisions import COMMAND, __main__, changes, current, earlier, frozen, undeclared

EOT = "masking/end-of-turn-is-trained"


def test_the_words_are_those_of_the_file():
    written, now = frozen(), current()
    differ = sorted(name for name in {*written, *now} if written.get(name) != now.get(name))
    assert not differ, f"{differ} differ from properties/revisions/{SPEC_REVISION}.json. Write it anew: {COMMAND}"


def test_what_differs_from_an_earlier_revision_is_declared():
    found = list(undeclared(current(), earlier(), changes()))
    assert not found, "\n".join(found)


def test_sentences_are_short():
    known = json.loads((revisions.FOLDER / "long_sentences.json").read_text())
    long = revisions.long_sentences(current())
    grown = sorted(set(long) - set(known))
    assert not grown, f"{grown}: at most {revisions.LONGEST} words. What else is demanded is a property of its own"
    assert known == long, f"some are short now, take them off the list: {COMMAND}"


CHANGES = {
    "a new sentence": (lambda now, said: now[EOT].update(sentence="Else."), f"{EOT} (2026-11) reads otherwise"),
    "a new level": (lambda now, said: now[EOT].update(level="should"), f"{EOT} (2026-11) was a must"),
    "a new level that is called a rewording": (
        lambda now, said: (now[EOT].update(level="should"), said["reworded"].update({EOT: "why"})),
        f"{EOT} (2026-11) was a must",
    ),
    "an id that is gone": (lambda now, said: now.pop(EOT), f"{EOT} (2026-11) is gone"),
    "an id that is used again": (
        lambda now, said: said["retired"].update(
            {EOT: {"successors": ["masking/first-token-of-an-answer-is-trained"], "why": ""}}
        ),
        f"{EOT} (2026-11) was retired",
    ),
    "a successor that is not there": (
        lambda now, said: (now.pop(EOT), said["retired"].update({EOT: {"successors": ["masking/else"], "why": ""}})),
        f"{EOT} is carried on by masking/else, which does not exist",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_undeclared_change_is_refused(name):
    change, expected = CHANGES[name]
    now, declared = deepcopy(dict(earlier()["2026-11"])), {"retired": {}, "reworded": {}}
    change(now, declared)
    (found,) = undeclared(now, earlier(), declared)
    assert found.startswith(expected)


def test_a_declared_change_is_not():
    other = "masking/end-of-turn-has-weight"
    now = deepcopy(dict(earlier()["2026-11"]))
    now.pop(EOT)
    now[other] = {"level": "must", "sentence": "New."}
    first = next(iter(now))
    now[first]["sentence"] = "The same."
    declared = {"retired": {EOT: {"successors": [other], "why": "it was two"}}, "reworded": {first: "shorter"}}
    assert list(undeclared(now, earlier(), declared)) == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the files, in which the words of one id of an earlier revision are not what they are now."""
    for path in revisions.FOLDER.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    old = json.loads((tmp_path / "2026-11.json").read_text())
    old["properties"][EOT]["sentence"] = "Otherwise."
    old["properties"]["masking/gone"] = {"level": "must", "sentence": "Gone."}
    (tmp_path / "2026-11.json").write_text(json.dumps(old))
    (tmp_path / f"{SPEC_REVISION}-changes.json").unlink()
    monkeypatch.setattr(revisions, "FOLDER", tmp_path)
    return tmp_path


def test_the_command_writes_the_words_and_takes_declarations(folder, capsys):
    before = len(list(undeclared(current(), earlier(), {"retired": {}, "reworded": {}})))
    assert __main__.main([]) == 1
    assert capsys.readouterr().out.endswith(f"{before} undeclared changes\n")
    assert revisions.frozen() == current()
    __main__.main(["reworded", EOT, "shorter"])
    __main__.main(["retired", "masking/gone", "it was two", EOT])
    assert capsys.readouterr().out.endswith(f"{before - 2} undeclared changes\n")
    assert changes()["retired"]["masking/gone"] == {"successors": [EOT], "why": "it was two"}
    with pytest.raises(ValueError, match="masking/new is in no earlier revision"):
        __main__.main(["reworded", "masking/new", "shorter"])
    assert __main__.main(["forget", EOT]) == 2


def test_the_list_of_long_sentences_only_shrinks(folder):
    (folder / "long_sentences.json").write_text(json.dumps(["masking/gone", *revisions.long_sentences(current())[1:]]))
    revisions.write()
    assert json.loads((folder / "long_sentences.json").read_text()) == revisions.long_sentences(current())[1:]
