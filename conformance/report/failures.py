"""One failure on the terminal, in about ten lines.

The sentence of the specification, the smallest conversation that shows the fault (as tokens), what was expected and
seen, what it does to a model and who had it, and the command that shows it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from rich.console import Console
from rich.text import Text

from sftspec.conformance.report.token_strip import LEGEND, Cell, draw, lines_of, window
from sftspec.properties.catalogue import Entry, catalogue

MARGIN = 12
STRIP_LINES = 2
WHY_LINES = 3

STYLES = {
    "pass": "green",
    "fail": "bold red",
    "known-fail": "yellow",
    "stale": "bold yellow",
    "blocked": "magenta",
    "ambiguous": "bold yellow",
    "not-claimed": "dim",
    "not-measured": "cyan",
    "error": "bold white on red",
}
WARNING = "yellow"  # a `should` that fails: worse, not wrong


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """What the specification says of each property."""
    return {entry.id: entry for entry in catalogue()}


def style_of(verdict: Mapping[str, Any]) -> str:
    return WARNING if verdict["status"] == "fail" and verdict["level"] == "should" else STYLES[verdict["status"]]


def labelled(label: str, content: str | Text, width: int, style: str = "") -> Iterator[Text]:
    """A label in the margin, and what it says in lines of the width that is left."""
    text = content if isinstance(content, Text) else Text(content, style)
    for number, line in enumerate(text.wrap(Console(width=width), width - MARGIN)):
        line.rstrip()
        yield Text.assemble((f"{f'{label} ' if number == 0 else '':{MARGIN}}", "dim"), line)


def heading(text: Text, width: int) -> Text:
    return text.append(" " + "─" * max(3, width - len(text) - 1), "dim")


def pairs(values: Mapping[str, Any]) -> str:
    """Settings as they are written on the command line."""
    return " ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    )


def failures(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """Every failure (and warning), in the order of the specification."""
    failed = [verdict for verdict in document["verdicts"] if verdict["status"] == "fail"]
    if any(verdict["counterexample"]["tokens"] for verdict in failed):
        yield Text()
        yield from labelled("tokens", LEGEND, width, "dim")
    for verdict in failed:
        says = "fails (must)" if verdict["level"] == "must" else "warning (should)"
        if document["baseline"] and verdict["id"] in document["baseline"]["newer"]:
            says += f", newer than {document['baseline']['spec_revision']}: it decides nothing"
        yield Text()
        yield heading(Text.assemble((verdict["id"], style_of(verdict)), f"  {says}"), width)
        yield from failure(verdict, width)


def failure(verdict: Mapping[str, Any], width: int) -> Iterator[Text]:
    item, found = entries().get(verdict["id"]), verdict["counterexample"]
    if item is not None:
        yield from Text(item.sentence, "bold").wrap(Console(width=width), width)
    yield from labelled("where", where(found, item.seam if item else "run"), width)
    yield from row_of(found, width)
    yield from strip(found["tokens"], width)
    yield from numbers(found, width)
    drawn = "\n".join(f"{name} = {value}" for name, value in found["arguments"].items())
    if drawn:
        yield from labelled("drawn", drawn, width)
    yield from labelled("found", found["note"] or verdict["reason"] or "does not hold", width, style_of(verdict))
    if item is not None and item.why:
        yield from labelled("why", shortened(item.why, width - MARGIN, WHY_LINES), width)
    yield Text.assemble((f"{'again':{MARGIN}}", "dim"), (verdict["repro"], "cyan"))


def where(found: Mapping[str, Any], seam: str) -> str:
    """The scenario and its settings, the place in it, and of how many this is the smallest."""
    if found["scenario"] == "drawn":
        return f"the function {seam}, with drawn arguments"
    settings = pairs(found["settings"])
    parts = [f"scenario {found['scenario']!r}" + (f" ({settings})" if settings else "")]
    place = found["place"]
    if "conversation" in place:
        said = f"token {place['token']} of {place['tokens']}"
        if "message" in place:
            said += f", in message {place['message']} ({found['messages'][place['message']]['role']})"
        parts.append(f"conversation {place['conversation']}, {said}")
    elif "column" in place:
        parts.append(f"model call {place['forward']}, row {place['row']}, column {place['column']}")
    if found["failures"] > 1:
        parts.append(f"the smallest of {found['failures']:,}")
    return "; ".join(parts)


def row_of(found: Mapping[str, Any], width: int) -> Iterator[Text]:
    """What shares the row of the batch with it, if anything does."""
    if len(found["row"]) > 1:
        this = found["place"].get("conversation")
        said = Text(" | ").join(
            Text(
                f"{item['conversation']}[{item['start']}:{item['end']}]", "bold" if item["conversation"] == this else ""
            )
            for item in found["row"]
        )
        yield from labelled("its row", Text.assemble(("conversation[tokens] ", "dim"), said), width)


def strip(tokens: list[Mapping[str, Any]], width: int) -> Iterator[Text]:
    """The tokens around the wrong one, in at most two lines, with marks and targets beneath."""
    cells = [Cell(**token) for token in tokens]
    lines = lines_of(window(cells, STRIP_LINES * (width - MARGIN) - MARGIN), width - MARGIN)
    for number, line in enumerate(lines):
        for label, text in draw(line):
            label = "" if label == "tokens" and number else label
            yield Text.assemble((f"{label:{MARGIN}}", "dim"), text)


def numbers(found: Mapping[str, Any], width: int) -> Iterator[Text]:
    """An optimizer step in figures."""
    figures = found["numbers"]
    if figures:
        targets, weights = (" + ".join(map(str, figures[name])) or "0" for name in ("targets", "weights"))
        said = f"{figures['step']}: targets by micro-batch: {targets}; their weights sum to {weights}"
        rest = f"; scale {figures['scale']}, residual {figures['residual']}, learning rate {figures['learning_rate']}"
        yield from labelled("step", said + rest, width)


def shortened(text: str, width: int, lines: int) -> str:
    """The first lines of a text, ended with … where more was said."""
    kept: list[str] = []
    room = width * lines - 8 * lines
    for word in text.split():
        room -= len(word) + 1
        if room < 0:
            return " ".join([*kept, "…"])
        kept.append(word)
    return " ".join(kept)
