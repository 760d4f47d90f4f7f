"""A showing on the terminal: counts, what is wrong and where, then the strips, the worst first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from sftspec.conformance.audit.progress import printable
from sftspec.conformance.report.failures import heading, labelled
from sftspec.conformance.report.terminal import print_lines
from sftspec.conformance.report.token_strip import LEGEND, draw, lines_of
from sftspec.conformance.show.showing import FINDINGS, Showing, Shown, cells_of
from sftspec.counted import counted

NOT_HERE = ("near-duplicate prompts",)  # what `audit` alone looks for
LINES, TOKENS = 12, 1000  # of one conversation's strip; the page has more


def print_showing(showing: Showing, limit: int, console: Console) -> None:
    print_lines((*summary(showing, console.width), *strips(showing, limit, console.width)), console)


def summary(showing: Showing, width: int) -> Iterator[Text]:
    totals = showing.totals
    yield Text(f"{showing.file}: what is trained", "bold cyan")
    asked = f"{showing.template.name}, policy {showing.policy}, max_length {showing.max_length}"
    yield from labelled("template", asked, width)
    size = f"{showing.tokenizer.name}, {showing.tokenizer.inner.get_vocab_size():,} tokens"
    yield from labelled("tokenizer", size, width)
    for remark in showing.remarks:
        yield from labelled("mind", printable(remark), width, "yellow")
    share = totals["targets"] / totals["tokens"] if totals["tokens"] else 0
    yield Text()
    yield Text(
        f"{counted(totals['conversations'], 'conversation')}, {counted(totals['tokens'], 'token')},"
        f" {counted(totals['targets'], 'target')} "
        f"({share:.1%} of the tokens are trained)",
        "bold",
    )
    for finding, effect in FINDINGS.items():
        if finding in NOT_HERE:
            continue
        count, concerned = totals[finding], showing.concerned(finding)
        line = Text(f"{count:>9,}  {finding:28}", "red" if count else "dim")
        yield line.append(
            f"in {concerned:,} of {counted(totals['conversations'], 'conversation')}" if count else "", "dim"
        )
        if count:
            yield Text(f"{'':11}{effect}", "dim")


def strips(showing: Showing, limit: int, width: int) -> Iterator[Text]:
    rows = showing.rows[:limit]
    if rows:
        yield Text()
        yield from labelled("tokens", LEGEND, width, "dim")
    for row in rows:
        yield Text()
        yield heading(Text.assemble((printable(row.conversation.source), "bold"), f"  {says(row)}"), width)
        yield from strip(row, showing, width)
    if rows and len(showing.rows) > limit:
        yield Text()
        yield Text(
            f"{counted(len(showing.rows) - limit, 'more conversation')}, none of them worse: --limit shows more", "dim"
        )


def says(row: Shown) -> str:
    """Sizes, and what is wrong."""
    if row.encoded is None:
        return "refused"
    found = [name if row.findings[name] == 1 else f"{row.findings[name]:,} × {name}" for name in +row.findings]
    weighing = f", weighing {row.weight:,.2f}" if row.weight != row.targets else ""
    return "; ".join([f"{row.targets:,} of {counted(row.kept, 'token')} trained{weighing}", *found])


def strip(row: Shown, showing: Showing, width: int) -> Iterator[Text]:
    if row.error:
        yield from labelled("", printable(row.error), width, "red")
    lines = list(lines_of(cells_of(row, showing.tokenizer, TOKENS), width))
    for line in lines[:LINES]:
        yield from (text for label, text in draw(line) if label == "tokens")
    if len(lines) > LINES:
        more = len(row.encoded or ()) - sum(map(len, lines[:LINES]))
        yield Text(f"… {counted(more, 'more token')}; --html shows them", "dim")
