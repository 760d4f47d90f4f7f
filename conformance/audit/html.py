"""An audit as one self-contained page: no script, nothing loaded, no content that becomes markup; good on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from sftspec.conformance.audit.findings import UNITS
from sftspec.conformance.audit.progress import printable
from sftspec.counted import counted

LISTED = 500  # bad lines on the page; the JSON has more

STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --page: #f6f7f9; --card: #fff; --line: #d9dee6; --quiet: #5d6879;
  --bar: #178a3d; --bad: #b42318; --soft: #eef1f5 }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --page: #14171c; --card: #1c2027; --line: #343a45;
  --quiet: #9aa5b5; --bar: #4fd07c; --bad: #ff9a90; --soft: #262b34 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { margin: 0; font-size: 1.45rem } h2 { margin: 2rem 0 .6rem; font-size: 1.1rem }
.quiet { color: var(--quiet) } .bad { color: var(--bad) }
.sizes { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; margin: 1.1rem 0 }
.sizes div, .card { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
.sizes b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums }
.card { margin: .6rem 0 } .card h3 { margin: 0; font-size: 1rem; display: flex; gap: .6rem; align-items: baseline;
  flex-wrap: wrap } .card h3 b { color: var(--bad); font-variant-numeric: tabular-nums }
.card h3 span { font-weight: 400; font-size: .9rem }
.card ul { margin: .3rem 0 0; padding-left: 1.1rem } code, .place { font: 13px ui-monospace, monospace }
.wide { overflow-x: auto } table { width: 100%; border-collapse: collapse; background: var(--card);
  border: 1px solid var(--line) }
td, th { padding: .3rem .6rem; text-align: right; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums;
  white-space: nowrap } td:first-child, th:first-child { text-align: left } th { color: var(--quiet); font-weight: 500 }
td.text { white-space: normal; text-align: left; min-width: 12rem }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .15rem .6rem; align-items: center;
  font-size: .85rem; font-variant-numeric: tabular-nums } .bars i { height: .8rem; background: var(--bar);
  border-radius: .2rem; min-width: 2px } .bars span:nth-child(3n+1) { text-align: right; color: var(--quiet) }
"""


def page(document: dict[str, Any]) -> str:
    """The whole page, as text."""
    title = (
        escape(printable(document["files"][0])) if len(document["files"]) == 1 else f"{len(document['files'])} files"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}: what it trains</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}: what it trains</h1>",
            *_head(document),
            *_findings(document),
            *_lengths(document),
            *_roles(document),
            *_bad_lines(document),
            f'<p class="quiet">sftspec {escape(document["sftspec"]["version"])}, form {document["form"]}</p>',
            "</body></html>\n",
        ]
    )


def _text(value: str) -> str:
    return escape(printable(value))


def _head(document: dict[str, Any]) -> Iterator[str]:
    cut = f", max_length {document['max_length']:,}" if document["max_length"] else ""
    said = f"template {document['template']}, tokenizer {document['tokenizer']}, policy {document['policy']}{cut}"
    yield f'<div class="quiet">{_text(said)}</div>'
    for item in document["failed"]:
        yield f'<div class="bad"><b>fails</b>: {item["finding"]} in {item["share"]:.2%} of the records</div>'
    share = document["targets"] / document["kept"] if document["kept"] else 0
    sizes = {
        "records": f"{document['records']:,}", "conversations": f"{document['conversations']:,}",
        "tokens": f"{document['kept']:,}", "targets": f"{document['targets']:,}",
        "of the tokens are trained": f"{share:.1%}",
    }  # fmt: skip
    yield '<div class="sizes">' + "".join(f"<div><b>{size}</b>{name}</div>" for name, size in sizes.items()) + "</div>"
    remarks = [
        f"{item['said']}: {counted(item['records'], 'record')}, first {item['first']}" for item in document["remarks"]
    ]
    if all_remarks := [*document["file_remarks"], *remarks]:
        yield "<ul>" + "".join(f"<li>{_text(said)}</li>" for said in all_remarks) + "</ul>"


def _findings(document: dict[str, Any]) -> Iterator[str]:
    yield "<h2>What is wrong</h2>"
    for item in document["findings"]:
        if item["conversations"]:
            times = (
                f", {item['times']:,} {UNITS.get(item['name'], 'times')}"
                if item["times"] != item["conversations"]
                else ""
            )
            yield (
                f'<div class="card"><h3><b>{item["conversations"]:,}</b> {escape(item["name"])} '
                f'<span class="quiet">{item["share"]:.2%} of the records{times}</span></h3>'
                f'<div class="quiet">{escape(item["effect"])}</div><ul>'
            )
            for example in item["examples"]:
                yield f'<li><span class="place">{_text(example["place"])}</span> {_text(example["note"])}</li>'
            yield "</ul></div>"
    nothing = [item["name"] for item in document["findings"] if not item["conversations"]]
    yield f'<p class="quiet">Not found: {escape(", ".join(nothing))}.</p>'


def _lengths(document: dict[str, Any]) -> Iterator[str]:
    yield '<h2>Tokens of a conversation</h2><div class="card bars">'
    bins = document["lengths"]["histogram"]
    most = max((item["conversations"] for item in bins), default=1)
    for item in bins:
        width = item["conversations"] / most
        bar = f'<i style="width: {width:.1%}"></i>'
        yield f"<span>from {item['from']:,}</span>{bar}<span>{item['conversations']:,}</span>"
    yield "</div>"
    found = {"tokens": document["lengths"]["percentiles"], "targets": document["target_counts"]["percentiles"]}
    rows = [[name, *(f"{value:,}" for value in values.values())] for name, values in found.items()]
    yield from _table(["percentile", *found["tokens"]], rows)
    yield "<h2>What a max_length would cut</h2>"
    names = ("max_length", "conversations_cut", "tokens_lost", "targets_lost", "left_without_target")
    rows = [[f"{item[name]:,}" for name in names] for item in document["limits"]]
    yield from _table([name.replace("_", " ") for name in names], rows)
    yield "<h2>Packed, by best fit</h2>"
    rows = [
        [f"{item['capacity']:,}", f"{item['rows']:,}", f"{item['padding']:.1%}", f"{item['boundaries']:.2%}"]
        for item in document["packing"]
    ]
    yield from _table(["row of", "rows", "padding", "boundaries, of all tokens"], rows)


def _roles(document: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Who speaks, and what is trained</h2>"
    rows = [[_text(role), *(f"{value:,}" for value in counts.values())] for role, counts in document["roles"].items()]
    yield from _table(["role", "messages", "tokens", "targets"], rows)


def _bad_lines(document: dict[str, Any]) -> Iterator[str]:
    if rows := document["bad_lines"]:
        yield "<h2>What could not be read or rendered</h2>"
        yield '<div class="wide"><table><tr><th>place</th><th>reason</th></tr>'
        for row in rows[:LISTED]:
            yield f'<tr><td class="place">{_text(row["place"])}</td><td class="text">{_text(row["reason"])}</td></tr>'
        yield "</table></div>"
        if len(rows) > LISTED:
            yield f'<p class="quiet">{len(rows) - LISTED:,} more; --json has them.</p>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield '<div class="wide"><table><tr>' + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table></div>"
