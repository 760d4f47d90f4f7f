"""The report on the terminal: every verdict in a table, every failure so that a stranger understands it.

A failure is about ten lines: the sentence of the specification, the smallest conversation that shows it (as tokens),
what was expected and seen, what it does to a model, and the command that shows it again. It is printed from the
document alone (document.py), so that a file from a cluster reads like a run at hand.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from sftspec.conformance.report.failures import (
    STYLES,
    entries,
    failures,
    heading,
    labelled,
    pairs,
    shortened,
    style_of,
)
from sftspec.conformance.report.fates import fates
from sftspec.conformance.report.json_values import without_paths
from sftspec.conformance.report.outcome import (
    EXIT_BROKEN,
    EXIT_CONFORMS,
    EXIT_FAILS,
    EXIT_INCONCLUSIVE,
    exit_code,
    too_little,
)
from sftspec.conformance.report.printable import printable
from sftspec.counted import counted

PLAIN_WIDTH = 100
PRINTED_LINES = 12


def make_console(stream: IO[str]) -> Console:
    """Colours on a terminal that has them and where NO_COLOR is not set; elsewhere plain text of 100 columns."""
    console = Pipe(file=stream, highlight=False)
    return console if console.is_terminal else Pipe(file=stream, highlight=False, width=PLAIN_WIDTH)


class Pipe(Console):
    """A console that raises BrokenPipeError when its reader has gone; rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise


def print_lines(lines: Iterable[Text], console: Console) -> None:
    """Print lines as they are, with what is not printable shown."""
    for line in lines:
        line.rstrip()
        line.plain = printable(line.plain)
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def print_report(document: Mapping[str, Any], console: Console, output: Mapping[str, str] | None = None) -> None:
    """Print a document. output: what the trainer printed, by scenario; shown where it broke."""
    print_lines(report_lines(document, console.width, output or {}), console)


def name_of(document: Mapping[str, Any]) -> str:
    return f"{document['trainer']['name']} {document['trainer']['version']}".strip()


def report_lines(document: Mapping[str, Any], width: int, output: Mapping[str, str]) -> Iterator[Text]:
    yield from header(document, width)
    shown = [verdict["id"].partition("/")[2] for verdict in document["verdicts"] if not is_unseen(verdict)]
    size = max(map(len, shown), default=0)
    for area, verdicts in itertools.groupby(document["verdicts"], key=lambda item: item["id"].partition("/")[0]):
        yield from area_table(area, list(verdicts), size, width)
    yield from failures(document, width)
    yield from likeliest(document, width)
    yield from errors(document, width, output)
    yield from refusals(document, width)
    yield from baseline_problems(document, width)
    yield from summary(document, width)


def header(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    trainer, versions = document["trainer"], document["environment"]
    yield Text(f"{name_of(document)} on trial", "bold cyan")
    scenarios = counted(len(document["scenarios"]), "scenario")
    lines = {
        "setting": pairs(trainer["setting"]),
        "claims": ", ".join(trainer["claims"]),
        "conventions": pairs(trainer["conventions"]),
        "spec": f"{document['spec_revision']}, seed {document['seed']}, {scenarios}",
        "on": ", ".join(f"{key} {value}" for key, value in versions.items() if value),
    }
    for label, said in lines.items():
        if said:
            yield from labelled(label, said, width)


def area_table(area: str, verdicts: list[Mapping[str, Any]], size: int, width: int) -> Iterator[Text]:
    """One line a property; a reason that does not fit beside it stands beneath (in full in the JSON)."""
    unseen = [verdict for verdict in verdicts if is_unseen(verdict)]
    yield Text()
    yield Text.assemble((f"{area:{size}}", "bold"), (f"  level   {'status':12}  evidence", "dim"))
    for verdict in verdicts:
        if is_unseen(verdict):
            continue
        line = Text(f"{verdict['id'].partition('/')[2]:{size}}  {verdict['level']:6}  ")
        line.append(f"{verdict['status']:12}", style_of(verdict)).append(f"  {evidence_of(verdict):>8}")
        reason = reason_of(verdict)
        if len(line) + 2 + len(reason) <= width:
            yield line.append(f"  {reason}", "dim")
        else:
            yield line
            yield Text(f"    {shortened(reason, width - 4, 1)}", "dim")
    if unseen:
        seams = ", ".join(sorted({seam_of(verdict) for verdict in unseen}))
        said = f"{len(unseen)} not-claimed: they read functions that the trainer does not expose ({seams})"
        yield from (Text(line, "dim") for line in textwrap.wrap(said, width, subsequent_indent="    "))


def is_unseen(verdict: Mapping[str, Any]) -> bool:
    """Does the property read a function that the trainer does not expose?"""
    return verdict["status"] == "not-claimed" and seam_of(verdict) != "run"


def seam_of(verdict: Mapping[str, Any]) -> str:
    return entries()[verdict["id"]].seam if verdict["id"] in entries() else "run"


def evidence_of(verdict: Mapping[str, Any]) -> str:
    """Pieces of evidence that hold; where they are too few, of how many."""
    count = sum(verdict["evidence"].values())
    if verdict["status"] == "not-measured" and verdict["id"] in entries():
        return f"{count}/{entries()[verdict['id']].floor}"
    return f"{count:,}" if count else "–"


def reason_of(verdict: Mapping[str, Any]) -> str:
    """The reason, unless the line says it already."""
    item = entries().get(verdict["id"])
    if verdict["status"] == "fail":
        count = verdict["counterexample"]["failures"]
        return verdict["reason"] or f"{count:,} {'does' if count == 1 else 'do'} not hold"
    if verdict["status"] == "not-claimed" and item is not None:
        return f"no claim {item.claim!r}"
    return "" if verdict["status"] == "not-measured" and item is not None else verdict["reason"]


def errors(document: Mapping[str, Any], width: int, output: Mapping[str, str]) -> Iterator[Text]:
    """What broke, once for all scenarios that it broke, with the end of what the trainer printed."""
    broken: dict[str, list[Mapping[str, Any]]] = {}
    for scenario in document["scenarios"]:
        if scenario["error"]:
            broken.setdefault(re.sub(r"\d+", "#", scenario["error"]), []).append(scenario)
    for number, scenarios in enumerate(broken.values()):
        yield Text()
        yield heading(Text("the run broke", STYLES["error"]), width)
        names = [scenario["name"] for scenario in scenarios]
        shown = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
        yield from labelled("in", f"{len(names)} of {counted(len(document['scenarios']), 'scenario')}: {shown}", width)
        yield from labelled("error", scenarios[0]["error"], width, "red")
        said = without_paths(output.get(names[0], "")).strip().splitlines()[-PRINTED_LINES:]
        if said and number == 0:
            yield from labelled("it printed", "\n".join(said), width, "dim")
    for verdict in document["verdicts"]:
        if verdict["status"] == "error":
            yield Text()
            yield heading(Text(f"{verdict['id']} broke", STYLES["error"]), width)
            yield from labelled("error", verdict["reason"], width, "red")


def likeliest(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """The planted bugs that fail most alike; or that none does."""
    failing = sum(verdict["status"] in ("fail", "ambiguous") for verdict in document["verdicts"])
    if not failing:
        return
    yield Text()
    if not document["diagnosis"]:
        alone = len(document["verdicts"]) == 1
        none = (
            "more has to be asked to tell"
            if alone
            else "not known: one property that fails does not tell by which bug"
            if failing == 1
            else "no planted bug (sftspec mutants) fails in so similar a way that its name would help"
        )
        yield from labelled("looks like", none, width)
    for place, item in enumerate(document["diagnosis"]):
        agree = agreement(item)
        beside = item.get("beside")
        said = f"{item['mutant']} ({agree}{f', together with {beside}' if beside else ''}): {item['breaks']}"
        if place == 0 or beside:
            said += f" Seen in: {item['seen_in']}; effect: {item['effect']}; fix: {item['fix']}."
        yield from labelled(
            ("and" if beside else "or") if place else "looks like", said, width, "" if place else "bold"
        )


def agreement(item: Mapping[str, Any]) -> str:
    """How far a planted bug fails as the trainer does."""
    agree = "agrees" if item["agree"] == 1 else "agree"
    return f"{item['agree']} of {counted(item['of'], 'failing property')} {agree}, likeness {item['likeness']:.2f}"


def refusals(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """What became of the conversations that it did not take, in four words (sftspec.properties.masking.untaken)."""
    for number, (how, said) in enumerate(fates(document).items()):
        yield from (() if number else (Text(),))
        yield from labelled("" if number else "data", f"{how}: {said}", width)


def baseline_problems(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """The entries of the baseline that do not say what is so."""
    for problem in (document["baseline"] or {"problems": []})["problems"]:
        yield Text()
        yield heading(Text.assemble((problem["id"], STYLES["fail"]), f"  {problem['kind']} in the baseline"), width)
        yield from labelled("found", problem["what"], width)


WORDS = {
    "fail": "fail", "known-fail": "known to fail", "stale": "stale in the baseline", "ambiguous": "ambiguous",
    "blocked": "blocked", "not-measured": "not measured", "error": "broke",
}  # fmt: skip


def score(counts: Mapping[str, int]) -> str:
    """Such as "37 of 37 claimed pass, 2 not measured": what was not measured is no part of the 37."""
    measured = sum(counts[status] for status in ("pass", "fail", "known-fail", "stale", "ambiguous"))
    others = [f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status]]
    return ", ".join([f"{counts['pass']} of {measured} claimed pass", *others])


def not_counted(document: Mapping[str, Any]) -> str:
    """What is neither passed nor failed, because the trainer does not offer or claim it."""
    unseen = sum(map(is_unseen, document["verdicts"]))
    unclaimed = sum(level["not-claimed"] for level in document["totals"].values()) - unseen
    said = [f"functions you do not offer are not counted ({unseen})"] if unseen else []
    said += [f"what you do not claim is not counted ({unclaimed})"] if unclaimed else []
    return "; ".join(said)


def summary(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """How many pass, must and should apart, what is not counted, and what the exit code says."""
    yield Text()
    for level, counts in document["totals"].items():
        if sum(counts.values()) > counts["not-claimed"]:
            yield from labelled(level, score(counts), width)
    if not_counted(document):
        yield from labelled("", not_counted(document), width, "dim")
    yield from labelled("", conclusion(document), width, "bold")


def conclusion(document: Mapping[str, Any]) -> str:
    """What came of it, in a sentence with the exit code."""
    must, code, who = document["totals"]["must"], exit_code(document), f"{name_of(document)} in this setting"
    if code == EXIT_BROKEN:
        said = f"the run itself broke in {broken_in(document)}: no verdict on {name_of(document)}"
        said += f"; {must['fail']} must fail in what did run" if must["fail"] else ""
    elif code == EXIT_INCONCLUSIVE:
        said = f"{who}: inconclusive, {too_little(document)}"
    elif document["baseline"]:
        wrong = len(document["baseline"]["problems"])
        said = f"{who} {'conforms' if code == EXIT_CONFORMS else 'does not conform'} to {document['baseline']['file']}"
        unlisted = sum(
            item["level"] == "must"
            and item["status"] in ("fail", "ambiguous")
            and item["id"] not in document["baseline"]["newer"]
            for item in document["verdicts"]
        )
        found = [f"{counted(unlisted, 'failure')} that it does not excuse"] if unlisted else []
        found += [f"{wrong} of its entries {'is' if wrong == 1 else 'are'} wrong"] if wrong else []
        said += f": {', '.join(found)}" if found else ""
    elif code == EXIT_FAILS:
        said = f"{who} does not conform: {score(must)}"
    else:
        said = f"{who}: no must fails"
    return f"{said} (exit {code}), {document['seconds']:.0f} s"


def broken_in(document: Mapping[str, Any]) -> str:
    broken = sum(bool(scenario["error"]) for scenario in document["scenarios"])
    properties = sum(level["error"] for level in document["totals"].values())
    return counted(broken, "scenario") if broken else counted(properties, "property")
