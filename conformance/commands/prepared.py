"""`sftspec audit --prepared ROWS`: rows of ids and labels, judged by the properties of a run, or by what rows show."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sftspec.counted import counted

FORM = "sftspec-prepared/1"
# Without the conversations these speak for themselves.
WRONG_ALONE = ("labels of other tokens", "padding trained", "boundaries trained", "ids outside the vocabulary",
               "positions astray")  # fmt: skip


def run_prepared(args: Namespace) -> int:
    """Audit prepared rows. Exit code 1: a must property fails, or a row is broken in itself; 2: a property broke."""
    from sftspec.conformance.audit.prepared import row_findings
    from sftspec.conformance.audit.rows import read_rows
    from sftspec.conformance.audit.shards import InputError
    from sftspec.conformance.commands.audit import AuditError
    from sftspec.conformance.report.printable import printable_json
    from sftspec.conformance.report.terminal import make_console, print_lines
    from sftspec.conformance.show.inputs import choose_template, load_tokenizer
    from sftspec.conversation import ConversationError
    from sftspec.spans import TemplateError

    if args.max_length is not None and args.max_length < 1:
        raise AuditError(f"--max-length {args.max_length}: give a positive number of tokens")
    tokens, template = load_tokenizer(args.tokenizer), choose_template(args.template, args.tokenizer)
    conventions = conventions_asked(args.convention)
    try:
        rows = read_rows(args.prepared, args.labels)
        run: Any = None
        verdicts: list[dict[str, Any]] = []
        if args.data:
            run, rows, verdicts = judged(args, rows, template, tokens, conventions)
    except (InputError, ConversationError, TemplateError, OSError) as error:
        raise AuditError(str(error)) from error
    found = row_findings(rows, tokens if args.tokenizer_given else None, template, args.max_length)
    failed = [item["id"] for item in verdicts if item["status"] == "fail" and item["level"] == "must"]
    document = make_document(args, rows, run, template, found, verdicts, failed)
    console = make_console(sys.stdout)
    print_lines(report(document, console.width), console)
    if args.json:
        args.json.write_text(
            printable_json(json.dumps(document, ensure_ascii=False, indent=1)) + "\n", encoding="utf-8"
        )
    if any(item["status"] == "error" for item in verdicts):
        return 2
    return 1 if failed or rows.bad or (run is None and not found.keys().isdisjoint(WRONG_ALONE)) else 0


def judged(args: Namespace, rows: Any, template: Any, tokens: Any, conventions: Any) -> tuple[Any, Any, list[dict]]:
    """The rows as a run, the rows with what was found out of their mask, and the verdicts as records."""
    from sftspec.conformance.audit.prepared import chosen_properties, judge_rows, ledger_of, place_of
    from sftspec.conformance.report.document import verdict_record
    from sftspec.conversation import load_conversations

    conversations = [item for path in args.data for item in load_conversations(path, args.drop_nulls)]
    run, rows = ledger_of(rows, conversations, template, tokens, args.policy, args.max_length, conventions)
    command = f"sftspec audit --prepared {' '.join(args.prepared)} --data {' '.join(args.data)}"
    records = []
    for verdict in judge_rows(run, rows, chosen_properties(), args.max_length).verdicts:
        record = verdict_record(verdict, command) | {"repro": command}
        if verdict.counterexample:
            record["counterexample"] |= {"scenario": place_of(rows, verdict.counterexample["subject"]), "settings": {}}
        records.append(record)
    return run, rows, records


def make_document(
    args: Namespace, rows: Any, run: Any, template: Any, found: dict, verdicts: list[dict], failed: list[str]
) -> dict[str, Any]:
    """What was found, as JSON; the report is printed from it."""
    from sftspec.conformance.audit.differences import as_records, differences
    from sftspec.conformance.audit.likely_template import likely_template
    from sftspec.conformance.audit.prepared import ROW_FINDINGS
    from sftspec.conformance.audit.summary import Found

    def finding(name: str) -> dict[str, Any]:
        item = found.get(name, Found())
        places = [(rows.rows[index].place if index >= 0 else "", note) for index, note in item.examples]
        examples = [{"place": place, "note": note} for place, note in places]
        return {"name": name, "effect": ROW_FINDINGS[name], "rows": item.conversations, "times": item.times,
                "examples": examples}  # fmt: skip

    differing, compared = ({}, None) if run is None else differences(run, rows)
    likely = ""
    if differing:
        every = [row.ids for row in rows.rows]
        likely = likely_template(every, run.job.conversations, template, run.job.tokenizer.backend_tokenizer)
    return {
        "form": FORM,
        "rows": len(rows.rows),
        "tokens": sum(len(row.ids) for row in rows.rows),
        "column": rows.column,
        "shifted": rows.shifted,
        "how": rows.how or "taken for that: rows alone cannot tell where a mask stands (--labels)",
        "template": template.name,
        "likely_template": likely,
        "policy": args.policy,
        "conventions": args.convention,
        "max_length": args.max_length if run is None else run.job.max_length,
        "longest": max(len(row.ids) for row in rows.rows),
        "packed": None if run is None else run.job.packing,
        "conversations": None if run is None else len(run.streams),
        "matched": None if run is None else len({row.example for row in run.rows} - {-1}),
        "distinct": None if run is None else len(run.copies),
        "bad_rows": [{"place": place, "reason": why} for place, why in rows.bad],
        "findings": [finding(name) for name in ROW_FINDINGS],
        "compared": compared,
        "differences": as_records(differing),
        "verdicts": verdicts,
        "failed": failed,
    }


def report(document: dict[str, Any], width: int) -> Iterator[Any]:
    """The lines of the report."""
    from rich.text import Text

    from sftspec.conformance.audit.progress import printable
    from sftspec.conformance.report.failures import failures, labelled
    from sftspec.conformance.report.terminal import area_table

    alone = document["conversations"] is None
    yield Text("prepared rows, without their conversations" if alone else "prepared rows on trial", "bold cyan")
    stands = "one place before its token" if document["shifted"] else "in line with its token"
    said = {
        "rows": f"{document['rows']:,}, {counted(document['tokens'], 'token')}, the longest {document['longest']:,}",
        "targets": f"{document['column']}, each {stands} ({document['how']})",
        "template": f"{document['template']}, policy {document['policy']}",
    }
    if not alone:
        kind = "packed" if document["packed"] else "one conversation each"
        cut = f", max_length {document['max_length']:,}" if document["max_length"] else ", none is cut"
        matched = f"{document['matched']:,} of {counted(document['distinct'], 'different conversation')}"
        said |= {"they are": kind + cut, "matched": matched}
    if likely := document["likely_template"]:
        said["mind"] = (
            f"the rows are those of {likely}, token for token: with --template {likely} the properties read your "
            "trainer, and not the difference of two templates"
        )
    for label, text in said.items():
        yield from labelled(label, printable(text), width)
    yield Text()
    for item in document["findings"]:
        if item["rows"]:
            yield Text(f"{item['rows']:>9,}  {item['name']:28}", "red").append(counted(item["times"], "time"), "dim")
            yield Text(f"{'':11}{item['effect']}", "dim")
            for example in item["examples"][:3]:
                yield Text(printable(f"{'':11}{example['place']}  {example['note']}"))
    nothing = ", ".join(item["name"] for item in document["findings"] if not item["rows"])
    yield from labelled("not found", nothing, width, "dim")
    yield from _differences(document, width)
    verdicts = [item for item in document["verdicts"] if item["status"] != "not-measured"]
    size = max((len(item["id"].partition("/")[2]) for item in verdicts), default=0)
    for area in ("masking", "packing"):
        if some := [item for item in verdicts if item["id"].startswith(area)]:
            yield from area_table(area, some, size, width)
    unread: dict[str, list[str]] = defaultdict(list)
    for item in document["verdicts"]:
        if item["status"] == "not-measured":
            unread[item["reason"]].append(item["id"].partition("/")[2])
    if unread:
        yield Text()
    for reason, names in unread.items():
        yield from labelled("not-measured", f"{reason}: {', '.join(names)}", width, "dim")
    yield from failures({"verdicts": verdicts, "baseline": None}, width)


def _differences(document: dict[str, Any], width: int) -> Iterator[Any]:
    """How the rows differ from what the reference makes of their conversations under these conventions."""
    from rich.text import Text

    from sftspec.conformance.audit.progress import printable

    if not document["compared"]:
        return
    count = len(document["differences"])
    yield Text()
    said = f"{counted(count, 'kind of difference')} from the reference" if count else "no difference from the reference"
    yield Text(f"{said}, in {counted(document['compared'], 'row')} of one conversation", "bold")
    for item in document["differences"]:
        line = Text(f"{item['rows']:>9,}  {item['where']}: {item['what']}", "yellow")
        yield line.append(f"  {counted(item['times'], 'time')}" if item["times"] != item["rows"] else "", "dim")
        for text, times in item["texts"]:
            yield Text(printable(f"{'':11}{times:,} × {text}")[: max(width, 60)], "dim")
        yield Text(printable(f"{'':11}{item['examples'][0]['place']}"), "dim")


def conventions_asked(texts: list[str]) -> Any:
    """Conventions from KEY=VALUE texts. Raises AuditError for one that is none."""
    from sftspec.conformance.commands.audit import AuditError
    from sftspec.masking import Conventions

    known = {field.name: field.type for field in dataclasses.fields(Conventions)}
    values: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            raise AuditError(f"--convention {text}: known are {', '.join(known)}")
        values[key] = value != "false" if known[key] == "bool" else value
    return Conventions(**values)
