"""A showing as one self-contained page: no script, nothing loaded, and contents that cannot become markup.

A token is a box of its own: trained ones are green, tokens that are cut off are struck through, control tokens are
framed, in red where a content made them. Colour is never the only sign: trained text is underlined, forged control
tokens are doubly framed, so that the page can be printed and read by anyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

from sftspec.conformance.report.token_strip import Cell
from sftspec.conformance.show.showing import FINDINGS, Showing, Shown, cells_of
from sftspec.conformance.show.terminal import says
from sftspec.counted import counted
from sftspec.masking import Encoded
from sftspec.spans import DATA_KINDS

TOKENS = 6000  # of one conversation; ten megabytes in one message are no page

STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --page: #f6f7f9; --card: #fff; --line: #d9dee6; --quiet: #667085;
  --trained: #c9f0d3; --under: #178a3d; --bad: #b42318; --badge: #fdebe9; --control: #8aa2c8; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --page: #14171c; --card: #1c2027; --line: #343a45;
  --quiet: #97a1b1; --trained: #14492a; --under: #4fd07c; --bad: #ff9a90; --badge: #43201d; --control: #5b7299; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.5rem } h2 { margin: 2rem 0 .6rem; font-size: 1.1rem }
.quiet { color: var(--quiet) } .bad { color: var(--bad) }
.sizes { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.sizes div { flex: 1 9rem; padding: .7rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem }
.sizes b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.bar { height: .5rem; border-radius: .25rem; background: var(--line); overflow: hidden }
.bar i { display: block; height: 100%; background: var(--under) }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line) }
td, th { padding: .35rem .8rem; text-align: left; border-top: 1px solid var(--line) }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } tr.none { color: var(--quiet) }
details { margin: .6rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
summary { padding: .6rem 1rem; cursor: pointer } summary b { margin-right: .6rem }
.badge { display: inline-block; margin-left: .4rem; padding: 0 .5rem; border-radius: 1rem; background: var(--badge);
  color: var(--bad); font-size: .85em }
.turn { display: grid; grid-template-columns: 6.5rem 1fr; gap: .8rem; padding: .4rem 1rem;
  border-top: 1px solid var(--line) }
.role { color: var(--quiet); font-size: .85em; padding-top: .2rem }
.strip { font: 13px/1.75 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
.strip span, .legend span { margin: 0 1px; padding: 1px 2px; border-radius: 3px; background: color-mix(in srgb,
  var(--line) 45%, transparent); unicode-bidi: isolate }
.strip .t, .legend .t { background: var(--trained); border-bottom: 2px solid var(--under) }
.strip .c, .legend .c { outline: 1px solid var(--control) }
.strip .f, .legend .f { outline: 3px double var(--bad); color: var(--bad) }
.strip .x, .legend .x { text-decoration: line-through; opacity: .6 }
.legend { font-size: .9em } .legend span { font-family: ui-monospace, monospace }
"""


def page(showing: Showing, limit: int) -> str:
    """The whole page, as text."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(showing.file)}: what is trained</title><style>{STYLE}</style></head><body>",
            *head(showing),
            *findings(showing),
            *conversations(showing, limit),
            "</body></html>\n",
        ]
    )


def head(showing: Showing) -> Iterator[str]:
    totals = showing.totals
    share = totals["targets"] / totals["tokens"] if totals["tokens"] else 0
    yield f"<h1>{escape(showing.file)}: what is trained</h1>"
    said = f"template {showing.template.name}, tokenizer {showing.tokenizer.name}, policy {showing.policy}"
    cut = f", max_length {showing.max_length}" if showing.max_length else ""
    yield f'<div class="quiet">{escape(said + cut)}</div>'
    for remark in showing.remarks:
        yield f'<div class="bad">{escape(remark)}</div>'
    sizes = {name: f"{totals[name]:,}" for name in ("conversations", "tokens", "targets")}
    sizes["of the tokens are trained"] = f"{share:.1%}"
    yield '<div class="sizes">' + "".join(f"<div><b>{size}</b>{name}</div>" for name, size in sizes.items()) + "</div>"
    yield f'<div class="bar"><i style="width: {share:.1%}"></i></div>'


def findings(showing: Showing) -> Iterator[str]:
    yield '<h2>What is wrong</h2><table><tr><th class="n">times</th><th class="n">conversations</th>'
    yield "<th>what</th><th>what it does</th></tr>"
    for name, effect in FINDINGS.items():
        count = showing.totals[name]
        quiet = "" if count else ' class="none"'
        numbers = f'<td class="n">{count:,}</td><td class="n">{showing.concerned(name):,}</td>'
        yield f"<tr{quiet}>{numbers}<td>{name}</td><td>{escape(effect)}</td></tr>"
    yield "</table>"


def conversations(showing: Showing, limit: int) -> Iterator[str]:
    rows = showing.rows[:limit]
    yield f"<h2>Conversations, the worst first ({len(rows):,} of {len(showing.rows):,})</h2>"
    yield (
        '<p class="legend"><span class="t">trained</span> <span>not trained</span> <span class="c">control token</span>'
        ' <span class="f">control token made by a content</span> <span class="x">cut off</span> &ensp; · space &ensp; '
        "⏎ newline &ensp; a box is one token; "
        "trained means: the position before it is scored on it</p>"
    )
    for row in rows:
        yield from card(row, showing)


def card(row: Shown, showing: Showing) -> Iterator[str]:
    sizes, *wrong = says(row).split("; ")
    badges = "".join(f'<span class="badge">{escape(name)}</span>' for name in wrong)
    yield f"<details open><summary><b>{escape(row.conversation.source)}</b>{sizes}{badges}</summary>"
    if row.encoded is None:
        yield f'<div class="turn"><div class="role">refused</div><div class="bad">{escape(row.error)}</div></div>'
    else:
        yield from turns(row, row.encoded, showing)
    yield "</details>"


def turns(row: Shown, encoded: Encoded, showing: Showing) -> Iterator[str]:
    """The tokens, a line for each message; what belongs to no message is the template's."""
    rendered = encoded.rendered
    cells = cells_of(row, showing.tokenizer, TOKENS)
    placed = zip(cells, encoded.owners, encoded.input_ids, strict=False)
    for message, group in groupby(placed, key=lambda item: rendered.messages[item[1]]):
        role = row.conversation[message]["role"] if message >= 0 else "template"
        boxes = "".join(box(cell, token, rendered.kinds[owner], showing) for cell, owner, token in group)
        yield f'<div class="turn"><div class="role">{role}</div><div class="strip">{boxes}</div></div>'
    if len(encoded) > TOKENS:
        more = counted(len(encoded) - TOKENS, "more token")
        yield f'<div class="turn"><div></div><div class="quiet">… {more}</div></div>'


def box(cell: Cell, token: int, kind: str, showing: Showing) -> str:
    control = token in showing.tokenizer.vocabulary.control_ids
    classes = {"t": cell.trained, "x": not cell.present, "c": control, "f": control and kind in DATA_KINDS}
    names = " ".join(name for name, has in classes.items() if has)
    attribute = f' class="{names}"' if names else ""
    text = escape(cell.text).replace("␠", "·")  # a space that every font has
    # A line break where the text has one: the page is read as the conversation, not as a list of tokens.
    weight = f", weighs {cell.weight:g}" if cell.trained and cell.weight != 1 else ""
    ends = "<br>" if cell.text.endswith("⏎") else ""
    return f'<span{attribute} title="{token}, {kind}{weight}">{text}</span>{ends}'
