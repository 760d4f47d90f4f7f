"""`sftspec baseline write|check`: the file of what is known to fail, written from a trial and held against one."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from sftspec.conformance.commands.outputs import add_output_arguments
from sftspec.conformance.gate.baseline import DEFAULT, BaselineError, hold_against, read_baseline, written
from sftspec.conformance.report.form import read_document
from sftspec.conformance.report.outcome import EXIT_BROKEN, exit_code


def add_baseline_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "action", choices=("write", "check"), help="write or renew the file; or hold a trial against it"
    )
    command.add_argument("trainer", metavar="TRAINER|FILE.json", help="a trainer, or what `check --json` wrote of it")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the trainer; may be repeated"
    )
    command.add_argument("--seed", type=int, default=0, help="of the corpus, the model and the order (default 0)")
    command.add_argument("--select", metavar="AREA|ID", action="append", default=[], help="judge only these")
    add_output_arguments(command)
    command.add_argument("--baseline", metavar="FILE", type=Path, default=Path(DEFAULT), help=f"default {DEFAULT}")


def baseline_of(path: Path | None, document: dict[str, Any]) -> dict[str, Any]:
    """The document held against the baseline at a path, if one was asked for."""
    return document if path is None else hold_against(document, read_baseline(path))


def document_at(args: argparse.Namespace, make: Any) -> dict[str, Any]:
    """What a trial wrote, or what comes of one now. make: puts the trainer on trial."""
    if not args.trainer.endswith(".json"):
        return make(args)
    if args.set or args.select or args.seed:
        raise BaselineError(f"{args.trainer} is a trial that is over: --set, --seed and --select belong to its run")
    return read_document(Path(args.trainer))


def write_baseline(document: dict[str, Any], path: Path) -> int:
    """Write or renew the file. A run that broke says nothing of what fails."""
    if exit_code(document) == EXIT_BROKEN:
        print(f"{path} stays as it is: the run broke")
        return EXIT_BROKEN
    old, line_end = "", "\n"
    if path.exists():
        read_baseline(path)
        old = path.read_text(encoding="utf-8-sig")
        line_end = "\r\n" if b"\r\n" in path.read_bytes() else "\n"  # an editor of Windows wrote it
    text = written(document, old, path.name, f"{document['command']} --baseline {shlex.quote(path.name)}")
    try:
        path.write_text(text, encoding="utf-8", newline=line_end)
    except OSError as error:
        raise BaselineError(f"{path} cannot be written: {error.strerror}") from None
    entries = read_baseline(path).entries
    state = "as it was" if text == old else "written"
    print(f"{path} {state}: {len(entries)} known to fail; check with: {document['command']} --baseline {path}")
    for known in entries.values():
        print(f"  {known.id}: {known.reason}")
    return 0
