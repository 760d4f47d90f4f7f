"""The frozen words: what each id has meant, revision by revision of the specification. An id never changes meaning.

`REVISION.json` holds the level and the sentence of every property. `REVISION-changes.json` says what became of the ids
of earlier revisions. `python -m sftspec.properties.revisions` writes both, and the second may be edited by hand:

    retired   an id that is no more, the ids that carry its demand on, and why
    reworded  an id whose sentence reads otherwise and demands the same, and why

A revision is closed by the next `SPEC_REVISION`; until then an id that is new in it may still change. Whatever else
differs from an earlier revision is refused: a new meaning takes a new id. `long_sentences.json` lists those over
25 words that are still to be shortened; it can only shrink.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sftspec import SPEC_REVISION
from sftspec.properties.catalogue import catalogue

FOLDER = Path(__file__).parent
COMMAND = "python -m sftspec.properties.revisions"
LONGEST = 25  # words of a sentence

Words = Mapping[str, Mapping[str, str]]  # id -> {"level": …, "sentence": …}


def current() -> dict[str, dict[str, str]]:
    """What the source says now, by id."""
    return {item.id: {"level": item.level, "sentence": item.sentence} for item in catalogue()}


def frozen(revision: str = SPEC_REVISION) -> dict[str, dict[str, str]]:
    """What the file of a revision says, by id."""
    return _read(f"{revision}.json", {"properties": {}})["properties"]


def earlier() -> dict[str, Words]:
    """The words of each revision before this one, oldest first."""
    files = sorted(path.stem for path in FOLDER.glob("????-??.json"))
    return {revision: frozen(revision) for revision in files if revision < SPEC_REVISION}


def changes() -> dict[str, dict[str, Any]]:
    """What is declared, of all revisions together: {"retired": {id: …}, "reworded": {id: …}}."""
    together: dict[str, dict[str, Any]] = {"retired": {}, "reworded": {}}
    for path in sorted(FOLDER.glob("????-??-changes.json")):
        for kind, found in _read(path.name, {}).items():
            together[kind].update(found)
    return together


def undeclared(now: Words, before: Mapping[str, Words], declared: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each difference from an earlier revision that nobody declared, and what to do about it.

    now       the words as they are
    before    the words of each earlier revision
    declared  what `changes` returns
    """
    for revision, words in before.items():
        for identifier, old in words.items():
            new, where = now.get(identifier), f"{identifier} ({revision})"
            if new is None and identifier not in declared["retired"]:
                yield f'{where} is gone. Say what carries it on: {COMMAND} retired {identifier} "WHY" SUCCESSOR …'
            elif new is not None and identifier in declared["retired"]:
                yield f"{where} was retired, and an id is never used again: give the property another name"
            elif new is not None and new["level"] != old["level"]:
                yield f"{where} was a {old['level']}. Another level is another meaning: give the property a new id"
            elif new is not None and new["sentence"] != old["sentence"] and identifier not in declared["reworded"]:
                yield (
                    f"{where} reads otherwise. If it demands the same: {COMMAND} reworded {identifier} "
                    f'"WHY". If not: give the property a new id, and retire this one'
                )
    for identifier, entry in declared["retired"].items():
        for successor in entry["successors"]:
            if successor not in now and successor not in declared["retired"]:
                yield f"{identifier} is carried on by {successor}, which does not exist"


def long_sentences(now: Words) -> list[str]:
    """The ids whose sentence has more than 25 words."""
    return sorted(identifier for identifier, words in now.items() if len(words["sentence"].split()) > LONGEST)


def write() -> None:
    """Write the file of this revision, and take what has become short off the list of long sentences."""
    now = current()
    _write(f"{SPEC_REVISION}.json", {"revision": SPEC_REVISION, "properties": dict(sorted(now.items()))})
    known = _read("long_sentences.json", [])
    _write("long_sentences.json", [identifier for identifier in long_sentences(now) if identifier in known])


def declare(kind: str, identifier: str, entry: Any) -> None:
    """Add a line to what this revision retires or rewords."""
    if not any(identifier in words for words in earlier().values()):
        raise ValueError(f"{identifier} is in no earlier revision: it may still change without a word")
    name = f"{SPEC_REVISION}-changes.json"
    declared = {"retired": {}, "reworded": {}} | _read(name, {})
    declared[kind][identifier] = entry
    _write(name, {kind: dict(sorted(found.items())) for kind, found in declared.items()})


def _read(name: str, default: Any) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _write(name: str, content: Any) -> None:
    (FOLDER / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
