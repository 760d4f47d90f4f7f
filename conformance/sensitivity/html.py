"""The kill matrix as a heat map: one self-contained page, no script, readable in print and without colour.

One table an area: a mutant a row, a property a column, the share of its evidence that fails in the scenario in which
most of it does. What a mutant's entry names is framed; figures stand in the cells, so that colour is never the only
sign. Columns that no mutant of the area makes fail are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from html import escape

from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.sensitivity.signatures import Mark, Signature
from sftspec.counted import counted

STYLE = """
:root { color-scheme: light; }
body { margin: 2rem; font: 14px/1.4 system-ui, sans-serif; color: #1d2430; background: #fff }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem } .quiet { color: #667085 }
table { border-collapse: collapse; font-size: 12px }
th { font-weight: normal; text-align: left; white-space: nowrap; padding: 0 .5rem 0 0 }
thead th { height: 15rem; vertical-align: bottom; padding: 0 }
thead th div { width: 1.7rem } thead span { display: block; width: 1.7rem; writing-mode: vertical-rl;
  transform: rotate(180deg); overflow: hidden; max-height: 24rem }
td { width: 1.7rem; min-width: 1.7rem; height: 1.25rem; padding: 0; text-align: center; font-size: 10px;
  border: 1px solid #eef0f4; font-variant-numeric: tabular-nums }
td.named { outline: 2px solid #1d2430; outline-offset: -2px }
td.missed { background: #b42318; color: #fff; font-weight: bold }
tbody tr:hover { background: #f2f5fb }
"""


def strength(mark: Mark) -> float:
    """The largest share of evidence that fails in one scenario."""
    return max(mark.scenarios.values())


def shade(value: float) -> str:
    """From a light to a strong orange; the cube root tells one in a thousand from nothing."""
    depth = value ** (1 / 3)
    return f"rgb({round(255 - 35 * depth)},{round(240 - 150 * depth)},{round(220 - 190 * depth)})"


def page(rows: Mapping[str, Signature], seed: int, whole: bool = True) -> str:
    """The whole page, as text. whole: a row has every property that fails, and not only what the bug's entry names."""
    killers = {identifier for row in rows.values() for identifier in row}
    head = f"{counted(len(rows), 'planted bug')}; properties that fail on any: {len(killers)}; seed {seed}"
    head += "" if whole else "; only the properties that a bug's entry names were asked"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>sftspec: the kill matrix</title>',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<style>{STYLE}</style></head><body><h1>The kill matrix</h1><p class='quiet'>{head}. A figure is the "
            "percentage of a property's evidence that fails, in the scenario in which most does; a frame marks what "
            "the bug's entry names.</p>",
            *(line for area, names in itertools.groupby(rows, key=_area) for line in table(area, list(names), rows)),
            "</body></html>\n",
        ]
    )


def _area(name: str) -> str:
    return name.partition("/")[0]


def table(area: str, names: list[str], rows: Mapping[str, Signature]) -> Iterator[str]:
    entries = {item.name: item for item in load_mutants()}
    shown = {identifier for name in names for identifier in (*rows[name], *entries[name].killed_by)}
    columns = sorted(shown, key=lambda item: (_area(item) != area, item))
    yield f"<h2>{escape(area)}: {counted(len(names), 'bug')}</h2><table><thead><tr><th></th>"
    for item in columns:
        yield f"<th title='{escape(item)}'><div><span>{escape(item.removeprefix(area + '/'))}</span></div></th>"
    yield "</tr></thead><tbody>"
    for name in names:
        entry = entries[name]
        yield f"<tr><th title='{escape(entry.breaks, quote=True)}'>{escape(name.partition('/')[2])}</th>"
        yield "".join(cell(rows[name].get(item), item in entry.killed_by) for item in columns) + "</tr>"
    yield "</tbody></table>"


def cell(mark: Mark | None, named: bool) -> str:
    if mark is None:
        return "<td class='named missed'>0</td>" if named else "<td></td>"
    value = strength(mark)
    figure = "<1" if value < 0.005 else f"{100 * value:.0f}"
    return f"<td{' class=named' if named else ''} style='background:{shade(value)}'>{escape(figure)}</td>"
