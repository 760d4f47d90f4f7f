"""`sftspec timemachine`: releases with a known bug, and those that fixed it, are put on trial again."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EPILOG = """\
Each release is installed by pip into an environment of its own (2.6 GB in all, torch is shared), and judged on
the property that names the bug. What was seen is kept in the JSON file, and is not asked again while the case is the
same: a run that is stopped goes on from there. Exit code 0: every release came out as expected.

examples:
  sftspec timemachine --list
  sftspec timemachine trl-jsd-swapped
  sftspec timemachine --json seen.json
"""


class TimeMachineError(ValueError):
    """A case that does not exist; says what does."""


def add_timemachine_arguments(command: ArgumentParser) -> None:
    command.epilog, command.formatter_class = EPILOG, RawDescriptionHelpFormatter
    command.add_argument("names", metavar="CASE|PACKAGE", nargs="*", help="only these (default: all)")
    command.add_argument("--list", action="store_true", help="show the cases, and run none")
    command.add_argument(
        "--at", metavar="DIR", type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sftspec" / "releases",
        help="where the environments are kept (default %(default)s)",
    )  # fmt: skip
    command.add_argument("--json", metavar="FILE", type=Path, help="keep what was seen in this file, and a page beside")
    command.add_argument("--anew", action="store_true", help="run also what the file has already")


def run_timemachine(args: Namespace) -> int:
    """Exit code 0: all as expected; 1: a release was judged otherwise; 2: one could not be run."""
    from sftspec.conformance.timemachine.cases import CASES
    from sftspec.conformance.timemachine.environments import PinsError
    from sftspec.conformance.timemachine.replay import replay
    from sftspec.conformance.timemachine.results import is_current, read, write

    cases = chosen(args.names, CASES)
    if args.list:
        for case in cases:
            print(f"{case.name:40} {case.broken.name} has it, {case.fixed.name} does not  {case.issue}")
            print(f"{'':40} {case.property}\n{'':40} {case.bug}")
        return 0
    records = read(args.json) if args.json else {}
    codes = [0]
    for case in cases:
        for release, expected in case.releases:
            key = (case.name, release.name)
            record = records.get(key)
            if record is None or args.anew or not is_current(case, release, expected, record):
                try:
                    record = replay(case, release, expected, args.at).record()
                except PinsError as error:
                    print(f"{case.name:40} {release.name:24} not run: {error}")
                    codes.append(2)
                    continue
                records[key] = record
                if args.json:
                    write(args.json, records)
            codes.append(outcome(record))
            said = "as expected" if codes[-1] == 0 else f"expected {expected}"
            print(f"{case.name:40} {release.name:24} {record['status']:12} {said:14} {case.property}", flush=True)
            if record["found"]:
                print(f"{'':40} {record['found'][:200]}", flush=True)
    return max(codes)


def outcome(record: Mapping[str, Any]) -> int:
    """0: as expected, 1: judged otherwise, 2: not judged, or another version was imported than was meant."""
    meant = record["release"].partition(" ")[2]
    if record["status"] not in ("pass", "fail") or record["version"].partition("+")[0] != meant:
        return 2
    return 0 if record["status"] == record["expected"] else 1


def chosen(names: list[str], cases: tuple) -> list:
    """The cases of these names and packages. Raises TimeMachineError."""
    known = {case.name: case for case in cases}
    packages = {case.name.partition("-")[0] for case in cases}
    for name in names:
        if name not in known and name not in packages:
            alike = difflib.get_close_matches(name, [*known, *packages], 3, 0.4)
            said = f"did you mean {', '.join(alike)}?" if alike else f"packages: {', '.join(sorted(packages))}"
            raise TimeMachineError(f"no case {name!r}; {said}")
    return [case for case in cases if not names or {case.name, case.name.partition("-")[0]} & set(names)]
