"""Text as Markdown: what looks like markup is escaped, and each id, issue and paper becomes a link."""

from __future__ import annotations

import inspect
import posixpath
import re

from sftspec.conformance.book.places import FILES, places
from sftspec.conformance.report.links import NAMED, address_of
from sftspec.properties.articles import BOUND, LAW, ROW, TRAP

MARKUP = re.compile(r"[\\`*_{}\[\]<>&|#~]")
PROPERTY = re.compile(r"\b[a-z_]+/[a-z0-9-]+\b")
IDS = "|".join(kind.pattern for kind in (PROPERTY, LAW, TRAP, BOUND, ROW))
PIECE = re.compile(rf"(?P<code>`[^`]+`)|\[(?P<text>[^]]*)\]\((?P<to>[^)]*)\)|(?P<named>{NAMED.pattern})|(?P<id>{IDS})")

# In a formula: z_s and S_{k} are lowered, N^2 and V^(1/3) are raised. A name of several letters is none (reward_fn).
LOWERED = re.compile(r"(?<![A-Za-z_])([A-Za-zΑ-ωℓπ∏Σ]\u0304?|\))_(\{[^}]*\}|\([a-z]\)|[A-Za-z0-9]+)(?![A-Za-z_])")
RAISED = re.compile(r"\^(\([^()]*\)|[A-Za-z0-9]+)")


def escaped(text: str) -> str:
    """The text as Markdown that reads as it is.

    >>> escaped("a * b <|im_end|>")
    'a &#42; b &#60;&#124;im&#95;end&#124;&#62;'
    """
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)


def code(text: str) -> str:
    """A code span, in tables too."""
    return f"<code>{escaped(text)}</code>"


def to(place: str, page: str) -> str:
    """The address of a place ("step/laws.md#st-dup") as seen from a page ("step/index.md")."""
    path, _, name = place.partition("#")
    relative = posixpath.relpath(path, posixpath.dirname(page) or ".")
    return f"{relative}#{name}" if name else relative


def link(name: str, page: str, text: str = "") -> str:
    """A link to the place of an id, or the id itself where it has none."""
    place = places().get(name)
    said = escaped(text or name)
    return f"[{said}]({to(place, page)})" if place else said


def prose(text: str, page: str) -> str:
    """One paragraph, with links.

    >>> prose("see ST-DUP and trl#976", "step/laws.md")
    'see [ST-DUP](laws.md#st-dup) and [trl&#35;976](https://github.com/huggingface/trl/issues/976)'
    """
    said, end = [], 0
    for piece in PIECE.finditer(text):
        said += [escaped(text[end : piece.start()]), _piece(piece, page)]
        end = piece.end()
    return "".join([*said, escaped(text[end:])])


def _piece(piece: re.Match, page: str) -> str:
    if piece["code"]:
        name = piece["code"].strip("`")
        return link(name, page) if name in places() and "/" in name else code(name)
    if piece["to"] is not None:
        place = places().get(piece["text"]) or FILES.get(piece["to"].partition("#")[0])
        target = to(place, page) if place else piece["to"]
        return f"[{escaped(piece['text'])}]({target})"
    if piece["named"]:
        address = address_of(piece)
        return f"[{escaped(piece['named'])}]({address})" if address else escaped(piece["named"])
    return link(piece["id"], page)


def formula(text: str, page: str) -> str:
    """A formula with its indices lowered and its exponents raised; words around it as prose."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(_math(part[1:-1]) if part.startswith("`") else prose(part, page) for part in parts)


def _math(text: str) -> str:
    lowered = LOWERED.sub(lambda found: f"{found[1]}\x01{found[2].strip('{}')}\x02", text)
    raised = RAISED.sub(lambda found: f"\x03{found[1]}\x04", lowered)
    said = escaped(raised)
    for mark, tag in zip("\x01\x02\x03\x04", ("<sub>", "</sub>", "<sup>", "</sup>"), strict=True):
        said = said.replace(mark, tag)
    return f'<span class="math">{said}</span>'


def docstring(text: str | None, page: str) -> str:
    """The paragraphs of a docstring; those that are indented or set in columns stay as they are."""
    said = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        lines = paragraph.splitlines()
        if any(re.search(r"^\s|\S {2,}\S", line) for line in lines) or paragraph.startswith(">>>"):
            said.append("\n".join(["```text", *lines, "```"]))
        else:
            said.append(prose(" ".join(line.strip() for line in lines), page))
    return "\n\n".join(said)


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns without a head; the cells are Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows if said)])
