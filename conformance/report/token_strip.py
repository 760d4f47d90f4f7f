"""A conversation as its tokens: which are trained, which ought to be, and where the two differ.

A token is shown as trained when the position before it was trained on it (labels are aligned with input_ids). White
space is made visible. What stands there must be readable without colour too: [trained], (not in this row), and ^ under
what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

VISIBLE = str.maketrans({" ": "␠", "\n": "⏎", "\t": "⇥", "\r": "␍"})
NO_TARGET = "—"
LEGEND = "[trained]  not trained  (not in this row)  ^ wrong  — no target  ␠ space  ⏎ newline"


@dataclass(frozen=True)
class Cell:
    """One token of a strip.

    text            the token, white space made visible
    trained         the position before it was trained on some target
    present         it stands in the rows that the model saw
    wrong           the counterexample is here
    expected, seen  the target that the specification gives and the one that was trained, where they differ
    weight          of the target in the optimizer's gradient
    """

    text: str
    trained: bool = False
    present: bool = True
    wrong: bool = False
    expected: str = ""
    seen: str = ""
    weight: float = field(default=0.0, compare=False)


@lru_cache(maxsize=1)
def byte_of_symbol() -> dict[str, int]:
    """The byte behind each symbol of a byte-level vocabulary: printable ones stand for themselves (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def visible(tokenizer: Any, token: int) -> str:
    """A token's text; a token that is only a part of a character is shown as its bytes, such as \\xf0."""
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        symbols = str(tokenizer.convert_ids_to_tokens(token))
        return "".join(
            f"\\x{byte_of_symbol()[symbol]:02x}" if symbol in byte_of_symbol() else symbol for symbol in symbols
        )
    shown = text.translate(VISIBLE)
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in shown) or f"token {token}"


def strip_of(run: Any, subject: Any, weights: bool = False) -> list[Cell]:
    """The cells of the conversation behind a counterexample; [] if no conversation is behind it.

    subject  a Row, a Piece or a Token of the run
    weights  the property is about the weight of targets: mark the target, not the position before it
    """
    example = getattr(subject, "example", None)
    if example is None:
        return []
    if example < 0:
        return _strip_of_line(run, subject)
    return _strip_of_example(run, subject, example, weights)


def _strip_of_line(run: Any, subject: Any) -> list[Cell]:
    """A row of the batch, for a position that no conversation has."""
    cells = []
    line = run.lines[subject.forward, subject.row]
    for row, before in zip(line, [None, *line], strict=False):
        cell = Cell(visible(run.job.tokenizer, row.token), before is not None and before.target is not None)
        cells.append(replace(cell, wrong=row is subject))
    if subject.target is not None and subject.column + 1 < len(line):
        cells[subject.column] = replace(cells[subject.column], wrong=False)
        target = visible(run.job.tokenizer, subject.target)
        cells[subject.column + 1] = replace(cells[subject.column + 1], wrong=True, expected=NO_TARGET, seen=target)
    return cells


def _strip_of_example(run: Any, subject: Any, example: int, weights: bool) -> list[Cell]:
    rows = rows_of(run, subject, example)
    stream = run.streams[example]
    cells = []
    for offset in range(len(stream)):
        row, expected = rows.get(offset - 1, (None, None))
        cell = Cell(visible(run.job.tokenizer, stream.input_ids[offset]), present=offset in rows)
        cells.append(_with_targets(run, cell, row, expected))
    last, _ = rows.get(len(stream) - 1, (None, None))
    if last is not None and last.target is not None:
        following = run.places[last.forward].get((last.row, last.column + 1))
        text = visible(run.job.tokenizer, last.target if following is None else following.token)
        cells.append(_with_targets(run, Cell(text, present=False), last, None))
    return _mark(cells, subject, rows, weights)


def rows_of(run: Any, subject: Any, example: int) -> dict[int, tuple[Any, int | None]]:
    """By offset, the row that the ledger has of it and the target expected there: those of a Piece if it is one."""
    whole = not hasattr(subject, "rows")
    pieces = [piece for piece in run.pieces if piece.example == example] if whole else [subject]
    forward = getattr(subject, "forward", None)
    rows: dict[int, tuple[Any, int | None]] = {}
    for piece in sorted(pieces, key=lambda piece: piece.rows[0].forward != forward):
        for row in piece.rows:
            rows.setdefault(row.offset, (row, run.expected_target(piece, row)))
    return rows


def _with_targets(run: Any, cell: Cell, row: Any, expected: int | None) -> Cell:
    """The cell with what the row before it was trained on, against what was expected."""
    if row is None:
        return cell
    if row.target is not None:
        cell = replace(cell, weight=row.weight)
    if row.target == expected:
        return replace(cell, trained=row.target is not None)
    shown = [NO_TARGET if token is None else visible(run.job.tokenizer, token) for token in (expected, row.target)]
    return replace(cell, trained=row.target is not None, wrong=True, expected=shown[0], seen=shown[1])


def _mark(cells: list[Cell], subject: Any, rows: dict, weights: bool) -> list[Cell]:
    """Mark what is wrong: targets where the counterexample is about them, else the place of the subject itself."""
    if hasattr(subject, "rows"):
        places = [place for place in (subject.start, subject.end - 1) if 0 < place < len(cells) - 1]
        about_targets = any(cells[min(row.offset + 1, len(cells) - 1)].seen for row in subject.rows)
    else:
        following = cells[min(subject.offset + 1, len(cells) - 1)]
        about_targets = subject.offset in rows and bool(following.seen)
        places = [min(subject.offset + weights, len(cells) - 1)]
    if about_targets:
        return cells
    clean = [replace(cell, wrong=False, expected="", seen="") for cell in cells]
    for place in places:
        clean[place] = replace(clean[place], wrong=True)
    return clean


def window(cells: list[Cell], room: int) -> list[Cell]:
    """The cells around the first wrong one that fit into `room` columns; … stands for what was cut."""
    sizes = [_width(cell) + 1 for cell in cells]
    if sum(sizes) <= room:
        return cells
    focus = next((place for place, cell in enumerate(cells) if cell.wrong), 0)
    start = end = focus
    used = 4
    while (start > 0 or end < len(cells)) and used <= room:
        # Two tokens before for each one after: what led there explains more than what follows.
        before = start > 0 and (end >= len(cells) or (focus - start) <= 2 * (end - focus))
        start, end = (start - 1, end) if before else (start, end + 1)
        used += sizes[start if before else end - 1]
    kept = cells[start:end]
    gap = Cell("…")
    return [*([gap] if start > 0 else []), *kept, *([gap] if end < len(cells) else [])]


def _width(cell: Cell) -> int:
    from rich.cells import cell_len

    return max(cell_len(text) for text in (cell.text, cell.expected, cell.seen))


def lines_of(cells: Iterable[Cell], width: int) -> Iterator[list[Cell]]:
    """The cells in lines of at most `width` columns."""
    line: list[Cell] = []
    used = 0
    for cell in cells:
        if line and used + _width(cell) + 3 > width:
            yield line
            line, used = [], 0
        line.append(cell)
        used += _width(cell) + 1
    if line:
        yield line


STYLES = {"trained": "black on green", "untrained": "dim", "absent": "dim strike"}
WRONG = {"trained": "bold white on red underline", "untrained": "bold red underline", "absent": "bold red strike"}


def draw(line: list[Cell]) -> list[tuple[str, Text]]:
    """One line of a strip as rows of text: tokens, marks, and the targets expected and seen where they differ."""
    from rich.text import Text

    rows = {name: Text(no_wrap=True) for name in ("tokens", "", "expected", "seen")}
    inside = ""
    for cell in line:
        state = "trained" if cell.trained else "untrained" if cell.present else "absent"
        between, width = _between(inside, state), _width(cell)
        for name, text in rows.items():
            text.append(between if name == "tokens" else " " * len(between), "dim")
        rows["tokens"].append(_pad(cell.text, width), WRONG[state] if cell.wrong else STYLES[state])
        rows[""].append(("^" if cell.wrong else " ") * width, "bold red")
        rows["expected"].append(_pad(cell.expected, width), "green")
        rows["seen"].append(_pad(cell.seen, width), "red")
        inside = state
    rows["tokens"].append(_between(inside, "untrained").rstrip(), "dim")
    for text in rows.values():
        text.rstrip()
    return [(name, text) for name, text in rows.items() if name == "tokens" or text.plain.strip()]


def _between(before: str, after: str) -> str:
    """What stands between two tokens: a blank, or the brackets of what begins and ends there."""
    if before == after:
        return " "
    closing = {"trained": "]", "absent": ")"}.get(before, "")
    opening = {"trained": "[", "absent": "("}.get(after, "")
    return closing + opening or (" " if before else "")


def _pad(text: str, width: int) -> str:
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))
