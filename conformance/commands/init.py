"""`sftspec init [PATH]`: an adapter for a loop one has, a CI workflow, and, with --check, the baseline."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from sftspec.conformance.gate.baseline import DEFAULT
from sftspec.conformance.gate.start import (
    ADAPTER,
    find_training,
    open_places,
    texts_for,
    write,
)
from sftspec.conformance.report.outcome import EXIT_BROKEN


def add_init_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "path", metavar="PATH", nargs="?", default=".", help="a folder or file, or file.py:name; default this folder"
    )
    command.add_argument("--force", action="store_true", help="write files anew that are there")
    command.add_argument("--check", action="store_true", help=f"put it on trial at once, and write {DEFAULT}")


def run_init(args: argparse.Namespace, baseline: Callable[[list[str]], int]) -> int:
    """Write the files and say what is next. baseline: runs `sftspec baseline` with these words.

    Exit code 2: with --check, a place is open or the trial broke, and there is no baseline.
    """
    place, _, name = args.path.partition(":") if ".py:" in args.path else (args.path, "", "")
    path = Path(place).resolve()
    found, unread = find_training(path, name)
    folder = path if path.is_dir() else path.parent
    texts = texts_for(found, folder)
    baseline_file = folder / DEFAULT
    write(texts, args.force, [baseline_file] if args.check else [])
    for line in unread:
        print(line)
    owner = f"{found.owner}.{found.method}" if found.method else found.owner or "the script"
    print(f"{found.file}:{found.line} trains ({found.kind}): {owner}")
    print(f"claims seen: {', '.join(found.claims) or 'none'}; also: {', '.join(found.notes) or 'nothing'}")
    count = 0
    for file, text in texts.items():
        print(f"written: {file}")
        for number, what in open_places(text):
            print(f"  fill in {file.name}:{number}  {what}")
            count += file.name == ADAPTER
    adapter, known = (os.path.relpath(file) for file in (folder / ADAPTER, baseline_file))
    command = ["baseline", "write", adapter, "--baseline", known]
    steps = [f"sftspec {shlex.join(command)}   (what fails today is known from then on)", "commit the files"]
    if count:
        steps.insert(0, f"fill in the {count} places above" if count > 1 else "fill in the place above")
    if not args.check:
        steps.insert(bool(count), f"sftspec check {shlex.quote(adapter)} --quick   (does it train at all?)")
    elif count:
        print(f"no baseline: {count} open in {ADAPTER}")
    else:
        code = baseline(command)
        if code:
            return code
        steps = ["read the reasons in the baseline and write your own", "commit the files"]
    print("next:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1)))
    return EXIT_BROKEN if args.check and count else 0
