"""`sftspec mutants`: the kill matrix, as a table, as JSON and as a heat map; the gate of the suite's own CI.

The first seed gets the whole matrix: every property on every scenario. On the other seeds each mutant has to be killed
again by the properties that its entry names, on scenarios tried until they are; those of the first seed come first.
Exit code 1 if a mutant survives a property that it names, or if a property kills no mutant.
"""

from __future__ import annotations

import difflib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

SEEDS = (0, 1, 2)


class MutantsError(ValueError):
    """A mutant, an area or a file that does not exist; says what does."""


def add_mutants_arguments(command: ArgumentParser) -> None:
    command.add_argument("names", metavar="AREA|MUTANT", nargs="*", help="plant only these (default: all)")
    command.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=list(SEEDS),
        help="the first gets the whole matrix, the others the gate (default 0 1 2)",
    )  # fmt: skip
    command.add_argument("--workers", metavar="N", type=int, default=os.cpu_count() or 1, help="processes")
    command.add_argument("--json", metavar="FILE", type=Path, help="write the matrix there, too")
    command.add_argument("--html", metavar="FILE", type=Path, help="write a heat map there, too")


def chosen(names: list[str]) -> list[str]:
    """The mutants of these areas and names, all without one. Raises MutantsError."""
    from sftspec.conformance.sensitivity.mutants import AREAS, load_mutants

    known = [item.name for item in load_mutants()]
    for name in names:
        if name not in AREAS and name not in known:
            alike = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {', '.join(alike)}?" if alike else f"areas: {', '.join(AREAS)}"
            raise MutantsError(f"no mutant {name!r}; {hint}")
    return [item for item in known if not names or item in names or item.partition("/")[0] in names]


def run_mutants(args: Namespace) -> int:
    from sftspec.conformance.sensitivity import matrix, signatures
    from sftspec.conformance.sensitivity.html import page
    from sftspec.conformance.sensitivity.kill_checks import all_kills

    for path in (args.json, args.html):
        if path is not None and not path.parent.is_dir():
            raise MutantsError(f"{path}: there is no folder {path.parent}")
    if args.workers < 1:
        raise MutantsError(f"--workers {args.workers}: give 1 or more")
    names, first = chosen(args.names), args.seeds[0]
    rows: dict[str, signatures.Signature] = {}
    for count, (name, row) in enumerate(matrix.kill_matrix(names, first, args.workers), 1):
        rows[name] = row
        _say(f"seed {first}: {count} of {len(names)}: {name}")
    missed = {(name, first): ids for name, ids in matrix.survivors(rows).items()}
    for seed in args.seeds[1:]:
        for count, (name, killed) in enumerate(all_kills(names, seed, args.workers), 1):
            _say(f"seed {seed}: {count} of {len(names)}: {name}")
            if ids := [identifier for identifier, scenario in killed.items() if not scenario]:
                missed[name, seed] = ids
    _say("")
    idle = matrix.idle(rows) if not args.names else []
    print("\n".join(lines(rows, missed, idle, args.seeds)))
    if args.json is not None:
        signatures.save(rows, first, args.json)
    if args.html is not None:
        args.html.write_text(page(rows, first), encoding="utf-8")
    return 1 if missed or idle else 0


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def lines(rows: Mapping, missed: Mapping[tuple[str, int], list[str]], idle: list[str], seeds: list[int]) -> Iterator:
    """The table: what each mutant is killed by, those that its entry names first."""
    from sftspec.conformance.sensitivity.mutants import load_mutants

    entries = {item.name: item for item in load_mutants()}
    width = max((len(name) for name in rows), default=0)
    yield f"{'mutant':{width}}  kills  named, and others"
    for name, row in rows.items():
        named = entries[name].killed_by
        area = name.partition("/")[0] + "/"
        said = [("✓ " if item in row else "✗ ") + item.removeprefix(area) for item in named]
        others = [item.removeprefix(area) for item in row if item not in named]
        more = f"; {', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}" if others else ""
        yield f"{name:{width}}  {len(row):5}  {', '.join(said)}{more}"
    killers = {item for row in rows.values() for item in row}
    yield ""
    for (name, seed), ids in missed.items():
        yield f"SURVIVES {name} on seed {seed}: not killed by {', '.join(ids)}"
    for identifier in idle:
        yield f"IDLE {identifier}: kills no mutant"
    lived = len({name for name, _ in missed})
    alive = f"{len(rows) - lived} of {len(rows)} mutants killed by all that they name"
    yield f"{alive}, on seeds {', '.join(map(str, seeds))}; {len(killers)} properties kill"
