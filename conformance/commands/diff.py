"""`sftspec diff OLD.json NEW.json`: exit code 1 if a must got worse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sftspec.conformance.report.difference import changes, difference_lines, is_worse
from sftspec.conformance.report.form import read_document
from sftspec.conformance.report.terminal import make_console, print_lines


def add_diff_arguments(command: argparse.ArgumentParser) -> None:
    for name in ("old", "new"):
        command.add_argument(name, metavar=f"{name.upper()}.json", type=Path, help="what `check --json` wrote")


def run_diff(args: argparse.Namespace) -> int:
    old, new = read_document(args.old), read_document(args.new)
    console = make_console(sys.stdout)
    print_lines(difference_lines(old, new, console.width), console)
    return int(any(is_worse(*change) for _, *change in changes(old, new)))
