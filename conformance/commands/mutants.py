"""`sftspec mutants`: the kill matrix, as a table, as JSON and as a heat map; the gate of the suite's own CI.

The first seed gets the whole matrix: every property on every scenario. On further seeds each mutant has to be killed
again by the properties that its entry names, on scenarios tried until they are; those of the first seed come first.
Exit code 1 if a mutant survives a property that it names, or if a property kills no mutant.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from pathlib import Path

from sftspec.counted import counted

EPILOG = """\
A row is a mutant with the properties that fail on it. With --json FILE each row is kept there as soon as it is known,
beside the rows of other mutants, which stay. A run that is stopped goes on from there when the same command is given
again, as long as neither code nor seed has changed; --anew makes all rows again. One seed makes the matrix; further
seeds (such as --seeds 0 1 2, before a release) take about as long again each. A mutant of a function runs no trainer.

examples:
  sftspec mutants best_of_n
  sftspec mutants --json matrix.json --html matrix.html
"""


class MutantsError(ValueError):
    """A mutant, an area or a file that does not exist; says what does."""


def add_mutants_arguments(command: ArgumentParser) -> None:
    command.epilog, command.formatter_class = EPILOG, RawDescriptionHelpFormatter
    command.add_argument("names", metavar="AREA|MUTANT", nargs="*", help="plant only these (default: all)")
    command.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[0],
        help="the first gets the whole matrix, further ones the gate (default 0)",
    )  # fmt: skip
    command.add_argument(
        "--workers", metavar="N", type=int, default=os.cpu_count() or 1,
        help="processes, of at most 1 GB each (default: one per processor)",
    )  # fmt: skip
    command.add_argument("--json", metavar="FILE", type=Path, help="merge the rows into this file, each as it is known")
    command.add_argument("--anew", action="store_true", help="make the rows again that a stopped run left in the file")
    command.add_argument("--html", metavar="FILE", type=Path, help="write a heat map of the rows there, too")


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
    from sftspec.conformance.sensitivity import matrix
    from sftspec.conformance.sensitivity.html import page
    from sftspec.conformance.sensitivity.kill_checks import all_kills
    from sftspec.conformance.sensitivity.matrix_file import MatrixFile, MatrixFileError

    for path in (args.json, args.html):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise MutantsError(f"{path}: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}")
    if args.workers < 1:
        raise MutantsError(f"--workers {args.workers}: give 1 or more")
    names, first = chosen(args.names), args.seeds[0]
    try:
        file = MatrixFile(args.json, first, chosen([]), names, args.anew)
        _go_on(file)
        progress = Progress(first, len(names), len(names) - len(file.left))
        for name, row in matrix.kill_matrix(file.left, first, args.workers):
            file.keep(name, row)
            progress.say(f"{name}, killed by {len(row)}")
        rows = file.finish()
        missed = {(name, first): ids for name, ids in matrix.survivors(rows).items()}
        for seed in args.seeds[1:]:
            progress = Progress(seed, len(names))
            for name, killed in all_kills(names, seed, args.workers):
                progress.say(name)
                if ids := [identifier for identifier, scenario in killed.items() if not scenario]:
                    missed[name, seed] = ids
    except (MatrixFileError, matrix.WorkerEnded) as error:
        raise MutantsError(str(error)) from error
    idle = matrix.idle(rows) if not args.names else []
    progress.end()
    print("\n".join(lines(rows, missed, idle, args.seeds)))
    if args.html is not None:
        args.html.write_text(page(rows, first), encoding="utf-8")
    return 1 if missed or idle else 0


def _go_on(file) -> None:
    """Say what is taken from the file, and what is left out of it."""
    if taken := len(file.asked) - len(file.left):
        print(f"{counted(taken, 'row')} of a stopped run in {file.path} (--anew makes them again)", file=sys.stderr)
    for name in file.gone:
        print(f"{name}: there is no such mutant any more, its row goes", file=sys.stderr)


class Progress:
    """What is done so far: a line that is written over on a terminal, a line for each mutant elsewhere."""

    def __init__(self, seed: int, total: int, done: int = 0):
        self.seed, self.total, self.done = seed, total, done
        self.began, self.lives = time.perf_counter(), sys.stderr.isatty()

    def say(self, text: str) -> None:
        self.done += 1
        said = f"seed {self.seed}: {self.done} of {self.total} in {time.perf_counter() - self.began:.0f} s: {text}"
        start, end = ("\r\x1b[K", "") if self.lives else ("", "\n")
        print(f"{start}{said}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.lives:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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
    alive = f"{len(rows) - lived} of {counted(len(rows), 'mutant')} killed by all that they name"
    kill = "kills" if len(killers) == 1 else "kill"
    yield f"{alive}, on seeds {', '.join(map(str, seeds))}; {counted(len(killers), 'property')} {kill}"
