"""An audit on the terminal: counts, what is wrong and where, lengths, packing; then what could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from sftspec.conformance.audit.findings import UNITS
from sftspec.conformance.audit.progress import printable
from sftspec.conformance.report.failures import labelled
from sftspec.conformance.report.terminal import print_lines
from sftspec.counted import counted

BARS = " ▏▎▍▌▋▊▉█"


def print_audit(document: dict[str, Any], limit: int, console: Console) -> None:
    width = console.width
    lines = (*_head(document, width), *_findings(document, width), *_tables(document), *_lists(document, limit))
    print_lines(lines, console)


def _head(document: dict[str, Any], width: int) -> Iterator[Text]:
    files = document["files"]
    yield Text(printable(files[0] if len(files) == 1 else f"{len(files)} files") + ": what it trains", "bold cyan")
    asked = f"{document['template']}, policy {document['policy']}, max_length {document['max_length']}"
    yield from labelled("template", asked, width)
    yield from labelled("tokenizer", document["tokenizer"], width)
    for said in document["file_remarks"]:
        yield from labelled("mind", said, width, "yellow")
    for item in document["remarks"]:
        yield from labelled(
            "mind", printable(f"{item['records']:,} ×  {item['said']} ({item['first']})"), width, "yellow"
        )
    share = document["targets"] / document["kept"] if document["kept"] else 0
    yield Text()
    yield Text(
        f"{counted(document['conversations'], 'conversation')} in {counted(document['records'], 'record')},"
        f" {counted(document['kept'], 'token')}, {counted(document['targets'], 'target')}"
        f" ({share:.1%} of the tokens are trained)",
        "bold",
    )
    if document["weight"] != document["targets"]:
        weight, count = f"{document['weight']:,.2f}", f"{document['targets']:,}"
        yield Text(f"together the targets weigh {weight} in the loss, not {count}", "bold")


def _findings(document: dict[str, Any], width: int) -> Iterator[Text]:
    for item in document["findings"]:
        if not item["conversations"]:
            continue
        line = Text(f"{item['conversations']:>9,}  {item['name']:28}", "red")
        more = (
            f", {item['times']:,} {UNITS.get(item['name'], 'times')}" if item["times"] != item["conversations"] else ""
        )
        yield line.append(f"{item['share']:.2%} of the records{more}", "dim")
        yield Text(f"{'':11}{item['effect']}", "dim")
        for example in item["examples"][:3]:
            note = f"  {example['note']}" if example["note"] else ""
            yield Text(printable(f"{'':11}{example['place']}{note}")[: max(width, 60)])
    nothing = [item["name"] for item in document["findings"] if not item["conversations"]]
    yield Text(f"{'':>9}  not found: {', '.join(nothing)}", "dim")


def _tables(document: dict[str, Any]) -> Iterator[Text]:
    yield Text()
    yield Text(f"{'role':12}{'messages':>12}{'tokens':>14}{'targets':>14}", "dim")
    for role, counts in document["roles"].items():
        yield Text(f"{role:12}{counts['messages']:>12,}{counts['tokens']:>14,}{counts['targets']:>14,}")
    yield Text()
    for name, title in (("lengths", "tokens"), ("target_counts", "targets")):
        found = document[name]["percentiles"]
        values = "  ".join(f"{q} {value:,}" for q, value in found.items())
        yield Text(f"{title:8}", "dim").append(values)
    most = max((item["conversations"] for item in document["lengths"]["histogram"]), default=1)
    for item in document["lengths"]["histogram"]:
        eighths = round(item["conversations"] / most * 8 * 40)
        bar = "█" * (eighths // 8) + BARS[eighths % 8]
        yield Text(f"{item['from']:>9,} … {bar.rstrip() or '▏'} {item['conversations']:,}")
    yield Text()
    yield Text(f"{'max_length':>10}{'cut':>10}{'tokens lost':>14}{'targets lost':>14}{'no target left':>16}"
               f"{'packed rows':>13}{'padding':>9}{'boundaries':>12}", "dim")  # fmt: skip
    limits = {item["max_length"]: item for item in document["limits"]}
    for item in document["packing"]:
        cut = limits.get(item["capacity"])
        lost = (f"{cut['conversations_cut']:>10,}{cut['tokens_lost']:>14,}{cut['targets_lost']:>14,}"
                f"{cut['left_without_target']:>16,}") if cut else " " * 54  # fmt: skip
        packed = f"{item['rows']:>13,}{item['padding']:>9.1%}{item['boundaries']:>12.2%}"
        yield Text(f"{item['capacity']:>10,}{lost}{packed}")


def _lists(document: dict[str, Any], limit: int) -> Iterator[Text]:
    count = sum(item["conversations"] for item in document["findings"] if item["name"] in ("bad lines", "refused"))
    for title, rows, said, total in (
        ("could not be read or rendered", document["bad_lines"], "reason", count),
        ("found", document["where"], "note", len(document["where"])),
    ):
        if rows:
            yield Text()
            yield Text(f"{total:,} {title}", "bold")
        for row in rows[:limit]:
            yield Text(printable(f"  {row['place']}  {row[said]}"))
        if total > limit:
            yield Text(f"  {total - limit:,} more; --limit shows more, --json and --bad have them", "dim")
    for item in document["failed"]:
        yield Text()
        allowed = f", {item['allowed']:.2%} are allowed" if item["allowed"] else ""
        yield Text(f"fails: {item['finding']} in {item['share']:.2%} of the records{allowed}", "bold red")
