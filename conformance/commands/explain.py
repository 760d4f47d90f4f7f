"""`sftspec explain ID|WORD`: one entry of the specification in full, or all that mention a word, the best first.

An id is that of a property, a law (ST-DUP), a trap (H7), a bound (BOUND-LOSS) or a bug (M-01, trl#976). Nothing here
imports torch: it answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import sftspec
from sftspec.counted import counted
from sftspec.properties.articles import BOUND, ISSUE, LAW, ROW, TRAP, Article, article, articles, plain
from sftspec.properties.catalogue import Entry, catalogue
from sftspec.properties.revisions import changes

SHOWN = 15  # hits of a search
FIRST = {"word": 1.5, "law": 1.3, "bound": 1.2}  # of hits that are equally near
STOP = re.compile("a|an|and|are|by|do|does|for|from|happens|how|in|is|it|of|on|or|the|to|what|when|which|who|why")

# What is meant as an id, and not as a word to search for.
ID = re.compile("|".join([r"[\w-]+/[\w-]+", *(kind.pattern for kind in (LAW, TRAP, BOUND, ROW, ISSUE))]), re.I)


class ExplainError(ValueError):
    """Neither an id nor a word that anything mentions; says what is near."""


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID|WORD", nargs="+", help="masking/…, ST-DUP, H7, BOUND-LOSS, trl#976; or words")


def run_explain(args: argparse.Namespace) -> int:
    asked = " ".join(args.id)
    print("\n".join(explanation(asked)))
    return 0


def explanation(asked: str) -> Iterator[str]:
    """The lines that answer."""
    entries = {item.id: item for item in catalogue()}
    retired, found = changes()["retired"], article(asked)
    if asked in entries:
        yield from of_property(entries[asked])
    elif asked in retired:
        yield f"{asked} is retired: {retired[asked]['why']}\n"
        yield from hits(entries.get(name) or name for name in retired[asked]["successors"])
    elif found and found.kind != "word":
        yield from of_article(found, entries.values())
    elif ID.fullmatch(asked):
        raise ExplainError(unknown(asked, [*entries, *articles()]))
    else:
        yield from of_words(asked, found, entries.values())


def of_words(asked: str, word: Article | None, entries: Iterable[Entry]) -> Iterator[str]:
    """A word of the glossary, and what mentions the words that were asked for; in full if it is one thing alone."""
    matches = [item for item in search(asked, [*articles().values(), *entries]) if item is not word]
    if word:
        yield f"{word.id}: {plain(word.sentence)}\n"
    elif not matches:
        raise ExplainError(unknown(asked, [*(item.id for item in entries), *articles(), *words_of(entries)]))
    if len(matches) == 1:
        (only,) = matches
        yield from of_property(only) if isinstance(only, Entry) else of_article(only, entries)
        return
    yield from hits(matches[:SHOWN])
    rest = len(matches) - SHOWN
    if matches:
        yield f"\n{f'{rest} more, another word narrows it; ' if rest > 0 else ''}in full: sftspec explain ID"


def unknown(asked: str, known: Iterable[str]) -> str:
    kind = "property" if "/" in asked and "#" not in asked else "id or word"
    names = {name.lower(): name for name in known}
    tried = dict.fromkeys([asked.lower(), *words(asked)])
    near = [name for text in tried for name in difflib.get_close_matches(text, names, 3, 0.6)]
    close = [names[name] for name in dict.fromkeys(near)][:3]
    hint = f"did you mean {', '.join(close)}?" if close else "`sftspec list` shows the properties"
    return f"unknown {kind} {asked!r}; {hint}"


def of_property(item: Entry) -> Iterator[str]:
    """Sentence, reason, what it reads, the laws it enforces, what it mentions, and its code."""
    yield f"{item.id}\n\n{item.sentence}\n\n{item.why}\n"
    says = {
        "level": item.level,
        "reads": "a recorded run" if item.seam == "run" else f"the function {item.seam}",
        "claim": item.claim,
        "needs": ", ".join(item.needs),
        "floor": counted(item.floor, "piece of evidence"),
    }
    yield "".join(f"{name:6} {said}\n" for name, said in says.items() if said)
    for law in filter(None, map(article, item.laws)):
        yield f"{law.id}  {plain(law.sentence)}"
        yield from fields(law, "formula", "equal", "source", "reference")
        yield ""
    mentioned: dict[str, list[str]] = {}
    for name in TRAP.findall(item.why) + ISSUE.findall(item.why):
        if found := article(name):
            mentioned.setdefault(found.id, []).append(name)
    for identifier, names in mentioned.items():
        seen = "" if names == [identifier] else f" ({', '.join(names)})"
        yield f"{identifier}{seen}  {plain(articles()[identifier].sentence)}"
    if mentioned:
        yield ""
    yield f"{item.place}\n\n{item.code}"


def of_article(item: Article, entries: Iterable[Entry]) -> Iterator[str]:
    """A law with its properties, a trap or a bug with those that mention it, a bound with the laws held to it."""
    yield f"{item.id}  ({item.kind})\n\n{plain(item.sentence)}\n"
    yield from fields(item, *item.fields)
    laws = [other for other in articles().values() if other.kind == "law" and item.id in bounds_of(other)]
    if item.kind == "law":
        related: list[Article | Entry] = [entry for entry in entries if item.id in entry.laws]
    else:
        related = [*laws, *(entry for entry in entries if item in map(article, names_in(entry.why)))]
    if related:
        yield "\nenforced by" if item.kind == "law" else "\nsee"
        yield from hits(related)
    yield f"\n{item.place}"


def fields(item: Article, *names: str) -> Iterator[str]:
    """The named fields, aligned and wrapped; a bound with its sentence, a function with its line."""
    for name in names:
        if name in item.fields:
            said = plain(item.fields[name])
            if name == "equal":
                said = "; ".join([said, *map(standing, bounds_of(item))])
            if name == "reference":
                said = located(said)
            yield textwrap.fill(f"{name:10} {said}", width() or 110, subsequent_indent=" " * 11)


def bounds_of(item: Article) -> list[str]:
    """The bounds within which two sides of a law are equal."""
    said = item.fields.get("equal", "")
    return ["BOUND-EXACT"] * said.startswith("exact") + list(dict.fromkeys(BOUND.findall(said)))


def standing(bound: str) -> str:
    """A bound, where it stands and what it says."""
    return f"{bound} ({articles()[bound].place}): {articles()[bound].sentence}"


def located(reference: str) -> str:
    """'sftspec/step.py:sft_loss' with the line: 'sftspec/step.py:46 sft_loss'."""
    path, _, name = reference.partition(":")
    lines = (Path(sftspec.__file__).parent / Path(path).name).read_text(encoding="utf-8").splitlines()
    line = next(number for number, line in enumerate(lines, 1) if re.match(rf"(def|class) {name}\b", line))
    return f"{path}:{line} {name}"


def names_in(text: str) -> list[str]:
    return [name for kind in (LAW, TRAP, BOUND, ROW, ISSUE) for name in kind.findall(text)]


def hits(found: Iterable[Article | Entry | str]) -> Iterator[str]:
    """One line for each: id and sentence."""
    pairs = [(item, "") if isinstance(item, str) else (item.id, plain(item.sentence)) for item in found]
    longest = min(44, max((len(name) for name, _ in pairs), default=0))
    for name, sentence in pairs:
        yield f"{name:{longest}}  {sentence}".rstrip()[: width()]


def width() -> int | None:
    """Columns of the terminal; None where the output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def search(asked: str, documents: Iterable[Article | Entry]) -> list[Article | Entry]:
    """The documents that mention all of the words, or else any, the best first.

    A word counts for more in an id or a sentence than elsewhere, and as it stands more than in another form.
    """
    terms = [term for term in words(asked) if not STOP.fullmatch(term)] or words(asked)
    scored = []
    for item in documents:
        found = [score(term, item) for term in terms]
        if any(found):
            scored.append((all(found), sum(found), item))
    complete = any(whole for whole, _, _ in scored)
    ranked = sorted((entry for entry in scored if entry[0] or not complete), key=lambda entry: -entry[1])
    return [item for _, _, item in ranked]


def score(term: str, item: Article | Entry) -> float:
    rest = item.why if isinstance(item, Entry) else " ".join(item.fields.values())
    parts = ((4, item.id), (3, item.sentence), (1, rest))
    best = max(weight * nearness(term, word) for weight, text in parts for word in [*words(text), ""])
    return best * FIRST.get(item.kind if isinstance(item, Article) else "", 1.0)


def nearness(term: str, word: str) -> float:
    """1 for the word itself, less for another form of it ("truncated"), 0 for another word."""
    if word == term:
        return 1.0
    if word.startswith(term) and len(term) > 2:
        return 0.8
    stem = max(5, len(term) - 3)
    return 0.5 if len(term) > 5 and word[:stem] == term[:stem] else 0.0


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", plain(text).lower())


def words_of(entries: Iterable[Entry]) -> set[str]:
    texts = [*(item.sentence for item in entries), *(item.sentence for item in articles().values())]
    return {word for text in texts for word in words(text) if len(word) > 4}
