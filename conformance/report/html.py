"""The report as one self-contained page: no script, nothing loaded, and contents that cannot become markup.

It says what the terminal says, and draws what a terminal cannot: the weight of every target as a bar under its token,
and who sees whom in a packed row. Colour is never the only sign.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from typing import Any

from sftspec.conformance.report.failures import entries, pairs, where
from sftspec.conformance.report.fates import fates
from sftspec.conformance.report.isolation import leaks
from sftspec.conformance.report.links import links
from sftspec.conformance.report.outcome import exit_code
from sftspec.conformance.report.terminal import (
    agreement,
    conclusion,
    evidence_of,
    is_unseen,
    name_of,
    not_counted,
    reason_of,
    seam_of,
)
from sftspec.counted import counted

WORDS = {
    0: ("conforms", "pass"),
    1: ("does not conform", "fail"),
    2: ("broke", "error"),
    3: ("inconclusive", "ambiguous"),
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(document: Mapping[str, Any]) -> str:
    """The whole page, as text."""
    style = resources.files("sftspec.conformance.report").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(name_of(document))} on trial: sftspec</title><style>{style}</style></head><body>",
            *head(document),
            *baseline(document),
            *failures(document),
            *isolation(document),
            *likeliest(document),
            *errors(document),
            *known(document),
            *verdicts(document),
            "</body></html>\n",
        ]
    )


def head(document: Mapping[str, Any]) -> Iterator[str]:
    word, style = WORDS[exit_code(document)]
    if word == "conforms" and document["baseline"]:
        word = "conforms to its baseline"
    yield f'<h1>{escape(name_of(document))}: <span class="{style}">{word}</span></h1>'
    yield f'<p class="says quiet">{escape(conclusion(document))}</p>'
    totals = [sum(level[status] for level in document["totals"].values()) for status in ("pass", "known-fail")]
    must, should = (document["totals"][level]["fail"] for level in ("must", "should"))
    unmeasured = sum(level["not-measured"] + level["blocked"] for level in document["totals"].values())
    tiles = {
        "properties pass": (totals[0], "pass"),
        "musts fail": (must, "fail" if must else "quiet"),
        "warnings (should)": (should, "warn" if should else "quiet"),
        "known to fail": (totals[1], "warn" if totals[1] else "quiet"),
        "not measured": (unmeasured, "not-measured" if unmeasured else "quiet"),
    }
    boxes = (f'<div><b class="{kind}">{count}</b>{label}</div>' for label, (count, kind) in tiles.items())
    yield f'<div class="tiles">{"".join(boxes)}</div>'
    if not_counted(document):
        yield f'<p class="quiet">{escape(not_counted(document))}.</p>'
    trainer, on = document["trainer"], document["environment"]
    given = sum(scenario["conversations"] for scenario in document["scenarios"])
    said = {
        "setting": pairs(trainer["setting"]),
        "claims": ", ".join(trainer["claims"]),
        "conventions": pairs(trainer["conventions"]),
        "specification": f"{document['spec_revision']}, seed {document['seed']}",
        "was given": f"{counted(given, 'conversation')} in {counted(len(document['scenarios']), 'scenario')}",
        **fates(document),
        "on": ", ".join(f"{key} {value}" for key, value in on.items() if value),
    }
    yield "<details><summary>Who was on trial, and how</summary>"
    shown = {label: escape(text) for label, text in said.items()}
    yield from definitions(shown | {"again": command(document["command"])})
    yield "<p></p></details>"


def definitions(said: Mapping[str, str]) -> Iterator[str]:
    """Labels and what they say, as markup; what says nothing is left out."""
    yield "<dl>" + "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in said.items() if text) + "</dl>"


def pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def command(text: str) -> str:
    """A line of a shell. It breaks between words: of --scenario alone on a line a phone would leave --."""
    words = "</span> <span>".join(escape(text).split(" "))
    return f'<pre class="command"><span>{words}</span></pre>'


def linked(text: str) -> str:
    """Text with its issues and papers as links."""
    parts = ((escape(piece), address) for piece, address in links(" ".join(text.split())))
    return "".join(f'<a href="{escape(address)}">{piece}</a>' if address else piece for piece, address in parts)


def baseline(document: Mapping[str, Any]) -> Iterator[str]:
    problems = (document["baseline"] or {"problems": []})["problems"]
    if problems:
        yield "<h2>Entries of the baseline that are wrong</h2>"
    for item in problems:
        yield f'<div class="card must"><h3>{escape(item["id"])} <span class="fail">{item["kind"]}</span></h3>'
        yield f"<p>{escape(item['what'])}</p></div>"


def failures(document: Mapping[str, Any]) -> Iterator[str]:
    failed = [item for item in document["verdicts"] if item["status"] in ("fail", "ambiguous")]
    failed.sort(key=lambda item: item["level"])
    if failed:
        yield f"<h2>What does not hold ({len(failed)})</h2>"
    if any(item["counterexample"] and item["counterexample"]["tokens"] for item in failed):
        yield (
            '<p class="legend"><span class="strip" style="display:inline-flex"><span class="t">trained<i></i></span> '
            '<span>not trained</span> <span class="a">not in this row</span> <span class="w">wrong</span></span> '
            "&ensp;the bar is the weight of a target in the step, the longest is the heaviest; under a wrong token "
            "stand the target <b class='pass'>expected</b> and the one <b class='fail'>seen</b>; — no target · space "
            "⏎ newline"
            "</p>"
        )
    for verdict in failed:
        yield from failure(document, verdict)


def failure(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> Iterator[str]:
    item, found = entries().get(verdict["id"]), verdict["counterexample"]
    newer = document["baseline"] is not None and verdict["id"] in document["baseline"]["newer"]
    says = {"must": "must", "should": "warning"}[verdict["level"]]
    says += ", newer than the baseline: decides nothing" if newer else ""
    level = "should" if newer else verdict["level"]
    colour = "warn" if level == "should" else verdict["status"]
    yield f'<div class="card {level}"><h3>{escape(verdict["id"])} <span class="{colour}">'
    yield f"{'fails' if verdict['status'] == 'fail' else verdict['status']}, {says}</span></h3>"
    if item is not None:
        yield f'<p class="sentence">{escape(item.sentence)}</p>'
    said = {"found": escape(verdict["reason"])}
    if found is not None:
        held = sum(verdict["evidence"].values())
        said = {
            "where": escape(where(found, seam_of(verdict))),
            "its row": row(found),
            "tokens": strip(found["tokens"]),
            "step": numbers(found["numbers"]),
            "drawn": pre("\n".join(f"{name} = {value}" for name, value in found["arguments"].items()))
            if found["arguments"]
            else "",
            "found": f"<b>{escape(found['note'] or verdict['reason'] or 'does not hold')}</b>",
            "evidence": f"{counted(found['failures'], 'piece')} against it, {held:,} for it",
        }
    if item is not None and item.why:
        said["why"] = linked(item.why)
    yield from definitions(said | {"again": command(verdict["repro"])})
    yield "</div>"


def row(found: Mapping[str, Any]) -> str:
    """What shares the row of the batch, each as wide as it is long."""
    if len(found["row"]) < 2:
        return ""
    this = found["place"].get("conversation")
    return stretches(found["row"], this)


def stretches(pieces: list[Mapping[str, int]], this: int | None = None) -> str:
    """A row of the batch, each stretch as wide as it is long; this: the conversation that is marked."""
    boxes = []
    for item in pieces:
        length = item["end"] - item["start"]
        mark = ' class="this"' if item["conversation"] == this else ""
        name = f"{item['conversation']}[{item['start']}:{item['end']}]"
        boxes.append(
            f'<span{mark} style="flex:{max(1, length)}" title="{name}, {counted(length, "token")}">{name}</span>'
        )
    return f'<div class="row">{"".join(boxes)}</div>'


def strip(tokens: list[Mapping[str, Any]]) -> str:
    """The tokens as boxes, the weight of each target as a bar."""
    weights = [abs(token["weight"]) for token in tokens if isinstance(token.get("weight"), (int, float))]
    heaviest = max(weights, default=0.0)
    return f'<div class="strip">{"".join(box(token, heaviest) for token in tokens)}</div>' if tokens else ""


def box(token: Mapping[str, Any], heaviest: float) -> str:
    kinds = {"t": token.get("trained"), "a": not token.get("present", True), "w": token.get("wrong")}
    weight = token.get("weight")
    text = escape(token["text"]).replace("␠", "·")  # a space that every font has
    if isinstance(weight, (int, float)) and heaviest:
        text += f'<i style="width:{100 * min(1.0, abs(weight) / heaviest):.0f}%"></i>'
    if "expected" in token or "seen" in token:
        text += f'<small class="exp">{escape(token.get("expected", ""))}</small>'
        text += f'<small class="got">{escape(token.get("seen", ""))}</small>'
    title = f' title="weight {weight}"' if weight is not None else ""
    return f'<span class="{" ".join(name for name, has in kinds.items() if has)}"{title}>{text}</span>'


def numbers(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    head = f"step {found['step']}, rate {found['learning_rate']}, scale {found['scale']}, residual {found['residual']}"
    cells = "".join(
        f'<tr><td class="n">{number}</td><td class="n">{targets}</td><td class="n">{weight}</td></tr>'
        for number, (targets, weight) in enumerate(zip(found["targets"], found["weights"], strict=True))
    )
    columns = '<tr><th class="n">micro-batch</th><th class="n">targets</th><th class="n">sum of weights</th></tr>'
    return f'{escape(head)}<div class="scroll"><table style="width:auto">{columns}{cells}</table></div>'


SEES = {"yes": ("leak", "✕"), "no": ("no", "·"), "unknown": ("unknown", "?")}


def isolation(document: Mapping[str, Any]) -> Iterator[str]:
    """Who sees whom in a packed row: a table of conversation by conversation."""
    found = document["isolation"]
    if found is None:
        return
    names = [f"{item['conversation']}" for item in found["pieces"]]
    seen = leaks(found)
    yield "<h2>Who sees whom in a packed row</h2>"
    said = (
        f'<b class="fail">{counted(seen, "time")} one sees another</b>'
        if seen
        else '<b class="pass">nobody sees another</b>'
    )
    place = f"Scenario {found['scenario']!r}, model call {found['forward']}, row {found['row']}"
    yield f"<p>{escape(place)}: {said}. Made again with other tokens in the conversation of the column: "
    yield "does the one of the line change in any bit?</p>"
    yield stretches(found["pieces"]) + '<div class="scroll"><table class="sees"><tr><th></th>'
    yield "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    for i, line in enumerate(found["sees"]):
        yield f"<tr><th>{names[i]}</th>"
        for j, said in enumerate(line):
            kind, text = ("own", "") if i == j else SEES[said]
            yield f'<td class="{kind}" title="{names[i]} of {names[j]}: {said}">{text}</td>'
        yield "</tr>"
    yield "</table></div>"
    yield '<p class="legend">✕ it sees it &ensp; · it does not &ensp; ? no replay tells</p>'


def likeliest(document: Mapping[str, Any]) -> Iterator[str]:
    if document["diagnosis"]:
        yield "<h2>It looks like</h2>"
    for item in document["diagnosis"]:
        yield f'<div class="card"><h3>{escape(item["mutant"])}</h3>'
        agree = agreement(item)
        agree += f", together with {item['beside']}" if item.get("beside") else ""
        said = {"breaks": item["breaks"], "seen in": item["seen_in"], "effect": item["effect"], "fix": item["fix"]}
        yield from definitions({label: linked(text) for label, text in said.items()} | {"how alike": agree})
        yield "</div>"


def errors(document: Mapping[str, Any]) -> Iterator[str]:
    broken = [scenario for scenario in document["scenarios"] if scenario["error"]]
    if broken:
        yield f"<h2>The run broke in {len(broken)} of {counted(len(document['scenarios']), 'scenario')}</h2>"
    for scenario in broken:
        yield f'<div class="card must"><h3>{escape(scenario["name"])}</h3>{pre(scenario["error"])}</div>'


def known(document: Mapping[str, Any]) -> Iterator[str]:
    found = [item for item in document["verdicts"] if item["status"] == "known-fail"]
    if found:
        yield f"<details><summary>Known to fail ({len(found)})</summary><table>"
        yield from (f"<tr><th>{escape(item['id'])}</th><td>{linked(item['reason'])}</td></tr>" for item in found)
        yield "</table></details>"


def verdicts(document: Mapping[str, Any]) -> Iterator[str]:
    """Every property that was judged, by area."""
    yield "<h2>Every property</h2>"
    for area, group in itertools.groupby(document["verdicts"], key=lambda item: item["id"].partition("/")[0]):
        listed = list(group)
        shown = [item for item in listed if not is_unseen(item)]
        wrong = sum(item["status"] in ("fail", "ambiguous", "error", "stale") for item in shown)
        passed = sum(item["status"] == "pass" for item in shown)
        said = f"{passed} pass" + (f", {wrong} wrong" if wrong else "")
        unseen = len(listed) - len(shown)
        said += f", {unseen} of functions that are not offered" if unseen else ""
        yield f'<details><summary>{area} <span class="quiet">{said}</span></summary><table class="verdicts">'
        for item in shown:
            entry = entries().get(item["id"])
            sentence = f'<br><span class="quiet">{escape(entry.sentence)}</span>' if entry else ""
            reason = reason_of(item)
            yield f"<tr><td>{escape(item['id'].partition('/')[2])}{sentence}</td><td>{item['level']}</td>"
            yield f'<td class="{item["status"]}">{item["status"]}' + (f"<br>{escape(reason)}" if reason else "")
            yield f'</td><td class="n">{evidence_of(item)}</td></tr>'
        yield "</table></details>"
