"""The book as one HTML file: every page a section, every link within it, a search that needs no server."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from sftspec.conformance.book import Page

HERE = Path(__file__).parent
REPORT_STYLE = HERE.parent / "report" / "page.css"
EXTENSIONS = ["attr_list", "md_in_html", "tables", "fenced_code"]
HEADING = re.compile(r'(<h[3-6] [^>]*?)\bid="([^"]*)"')
LINK = re.compile(r'href="([^"#:]*\.md)(?:#([^"]*))?"')


def single(made: Iterable[Page]) -> str:
    """The whole file, as text. Needs the package markdown, which MkDocs brings."""
    made = list(made)
    style = REPORT_STYLE.read_text(encoding="utf-8") + (HERE / "single.css").read_text(encoding="utf-8")
    script = (HERE / "single.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>sftspec: the book</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">\n"
        f"<style>{style}</style></head><body>\n"
        '<header><input id="search" type="search" placeholder="Search the specification" aria-label="Search">'
        f'<ol id="hits"></ol></header>\n{contents(made)}\n'
        f"<main>{''.join(map(section, made))}</main>\n<script>{script}</script></body></html>\n"
    )


def contents(made: Iterable[Page]) -> str:
    """The table of contents: one line for each section, which opens."""
    grouped: dict[str, list[Page]] = {}
    for page in made:
        grouped.setdefault(page.section[0] if page.section else "", []).append(page)
    lines = []
    for title, below in grouped.items():
        items = "".join(f'<li><a href="#{page.anchor}">{escape(page.title)}</a></li>' for page in below)
        lines.append(f"<details><summary>{title}</summary><ul>{items}</ul></details>" if title else f"<ul>{items}</ul>")
    return f"<nav>{''.join(lines)}</nav>"


def section(page: Page) -> str:
    """A page as a section: its headings one level lower, its links as anchors of this file."""
    import markdown

    body = markdown.markdown(page.text, extensions=EXTENSIONS)
    body = re.sub(r"<(/?)h([2-5])\b", lambda found: f"<{found[1]}h{int(found[2]) + 1}", body)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    body = HEADING.sub(lambda found: f'{found[1]}id="{page.anchor}:{found[2]}"', body)
    body = LINK.sub(lambda found: f'href="#{anchor_of(found, page.path)}"', body)
    return f'<section id="{page.anchor}" data-boost="{page.boost:g}"><h2>{escape(page.title)}</h2>\n{body}</section>\n'


def anchor_of(link: re.Match, page: str) -> str:
    """What a relative address is in this file: "step/laws" for a page, "step/laws:st-dup" for a heading of it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[1])).removesuffix(".md")
    return f"{path}:{link[2]}" if link[2] else path
