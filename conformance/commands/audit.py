"""`sftspec audit`: what files of conversations train, what is wrong with them, and where.

Exit codes: 0 nothing that --fail-on names was found; 1 something was; 2 the command or a file makes no sense. Without
--fail-on, what cannot be read or rendered fails: a data set that lost lines is not the one that was meant.
"""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sftspec.conformance.commands.show import POLICIES, ShowError, lines_asked

DEFAULT_GATES = ("bad-lines", "refused")


class AuditError(ShowError):
    """A file, an option or a finding that makes no sense; says which and what to do."""


def add_audit_arguments(command: ArgumentParser) -> None:
    add = command.add_argument
    add("files", metavar="FILE", nargs="*", help="JSONL, JSON, Parquet, Arrow, also packed; a folder; - for a pipe")
    add("--template", metavar="NAME|PATH", help="a named variant, a .jinja file or a tokenizer folder")
    add("--tokenizer", metavar="DIR|FILE", help="a folder, a tokenizer.json, or small (default)")
    add("--policy", choices=POLICIES, default="all", help="which messages are trained (default all)")
    add("--max-length", metavar="N", type=int, help="cut after so many tokens")
    add("--drop-nulls", action="store_true", help="leave out nulls in tool calls and tools, which Arrow puts there")
    add("--line", metavar="N[-M]", action="append", default=[], help="only these lines (rows, records)")
    add("--grep", metavar="REGEX", help="only records whose text matches")
    add("--sample", metavar="SHARE", help="only a share of the records, such as 1%% or 0.01, the same ones each time")
    add("--where", metavar="FINDING", help="list every record with this finding")
    add("--fail-on", metavar="FINDING[>SHARE]", action="append", default=[],
        help="exit with 1 if it is found (in more than a share of the records); none: never; "
        "default bad-lines and refused")  # fmt: skip
    add("--limit", metavar="N", type=int, default=50, help="bad lines and places to print (default 50)")
    add("--json", metavar="FILE", type=Path, help="write the audit as JSON")
    add("--html", metavar="FILE", type=Path, help="write it as one page")
    add("--good", metavar="FILE", type=Path, help="write the rows that can be trained on, as JSON Lines")
    add("--bad", metavar="FILE", type=Path,
        help="write the other rows: unreadable, refused, with a finding of --fail-on (not duplicates)")  # fmt: skip
    add("--prepared", metavar="ROWS", nargs="+", help="judge rows of input_ids with labels or a mask instead")
    add("--data", metavar="FILE", nargs="+", help="the conversations that the rows of --prepared were made of")
    add("--labels", choices=("auto", "aligned", "shifted"), default="auto",
        help="of --prepared: in line with their tokens, or shifted already (default: found out)")  # fmt: skip
    add("--convention", metavar="KEY=VALUE", action="append", default=[],
        help="of --prepared: what the trainer is free to choose, such as separator=true")  # fmt: skip
    add("--workers", metavar="N", type=int, help="processes (default: one for each core)")
    add("--engine", choices=("local", "ray"), default="local", help="who runs it (default local)")
    add("--address", metavar="ADDRESS", help="of a Ray cluster; without it Ray runs on this machine")


def run_audit(args: Namespace) -> int:
    """Audit, print, write. Returns the exit code."""
    from sftspec.conformance.audit.batch import Auditor, Settings
    from sftspec.conformance.audit.document import Gate, Places, make_document, write_document
    from sftspec.conformance.audit.engines import cores, run_local, run_ray
    from sftspec.conformance.audit.findings import FindingError, finding_named
    from sftspec.conformance.audit.html import page
    from sftspec.conformance.audit.progress import Progress
    from sftspec.conformance.audit.shards import InputError, cut, find_sources, total_bytes
    from sftspec.conformance.audit.summary import Summary
    from sftspec.conformance.audit.terminal import print_audit
    from sftspec.conformance.report.terminal import make_console
    from sftspec.conformance.show.showing import remarks_on

    args.tokenizer_given = args.tokenizer is not None
    args.tokenizer = args.tokenizer or "small"
    _check(args)
    if args.prepared:
        from sftspec.conformance.commands.prepared import run_prepared

        return run_prepared(args)
    started = time.perf_counter()
    try:
        asked = [text for text in args.fail_on or DEFAULT_GATES if text != "none"]
        gates = [Gate.parse(text) for text in asked]
        settings = Settings(
            sources=tuple(find_sources(args.files)), template=args.template, tokenizer=args.tokenizer,
            policy=args.policy, max_length=args.max_length, drop_nulls=args.drop_nulls, lines=lines_asked(args.line),
            grep=args.grep, sample=_share(args.sample), where=args.where and finding_named(args.where),
            failing=frozenset(gate.finding for gate in gates), apart=bool(args.good or args.bad),
        )  # fmt: skip
        auditor = Auditor(settings)
        template = auditor.examiner.template
        units: dict[int, str] = {}
        places = Places(settings.sources, units)
        workers = args.workers or cores()
        shards = _noting_units(cut(list(settings.sources)), units)
        if args.engine == "ray":
            batches = run_ray(shards, settings, workers, args.address)
        else:
            batches = run_local(shards, auditor, workers)
        summary = Summary()
        progress = Progress(total_bytes(list(settings.sources)), places)
        with ExitStack() as stack:
            stack.callback(progress.stop)
            stack.callback(batches.close)  # an interrupt ends the workers too
            good, bad = (stack.enter_context(path.open("wb")) if path else None for path in (args.good, args.bad))
            for batch in batches:
                progress.add(batch)
                summary += batch.summary
                for file, rows in ((good, batch.good), (bad, batch.bad)):
                    if file:
                        file.writelines(text for _, text in sorted(rows))
    except (InputError, FindingError) as error:
        raise AuditError(str(error)) from error
    if not summary.records:
        asked_for = "matches --line, --grep and --sample" if args.line or args.grep or args.sample else "holds a record"
        raise AuditError(f"{', '.join(args.files)}: nothing {asked_for}")
    document = make_document(
        summary, settings, places, gates, template.name, auditor.tokenizer.name, time.perf_counter() - started,
        remarks_on(template, auditor.tokenizer), engine=args.engine, workers=workers,
    )  # fmt: skip
    print_audit(document, args.limit, make_console(sys.stdout))
    if args.json:
        write_document(document, args.json)
    if args.html:
        args.html.write_text(page(document), encoding="utf-8")
        print(f"\npage: {args.html}")
    return 1 if document["failed"] else 0


def _check(args: Namespace) -> None:
    """What can be known to be wrong before anything is read."""
    if bool(args.files) == bool(args.prepared):
        raise AuditError("give files of conversations, or --prepared ROWS with --data CONVERSATIONS")
    if args.data and not args.prepared:
        raise AuditError("--data names the conversations of --prepared ROWS; files to audit stand without a flag")
    if args.max_length is not None and args.max_length < 1:
        raise AuditError(f"--max-length {args.max_length}: give a positive number of tokens")
    if args.workers is not None and args.workers < 1:
        raise AuditError(f"--workers {args.workers}: give a positive number of processes")
    for name in ("json", "html", "good", "bad"):
        path = getattr(args, name)
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            fault = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise AuditError(f"--{name} {path}: {fault}")
        if path is not None and any(
            Path(file).exists() and path.exists() and path.samefile(file) for file in args.files
        ):
            raise AuditError(f"--{name} {path}: that is a file to be read; name another")
    if args.engine == "ray" and (args.good or args.bad):
        raise AuditError("--good and --bad keep the order of the rows, which --engine ray does not")
    if args.grep is not None:
        try:
            re.compile(args.grep)
        except re.error as error:
            raise AuditError(f"--grep {args.grep}: no regular expression ({error})") from None


def _share(text: str | None) -> float:
    try:
        share = 1.0 if text is None else float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise AuditError(f"--sample {text}: write a share above 0 and up to 1, such as 1% or 0.01")
    return share


def _noting_units(shards: Iterator[Any], units: dict[int, str]) -> Iterator[Any]:
    for shard in shards:
        units[shard.file] = shard.unit
        yield shard
