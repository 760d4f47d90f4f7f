"""`sftspec mutants`: is every planted bug killed? The kill matrix, printed, as JSON and as a heat map.

A mutant has to be killed by the properties that its entry names: scenarios are tried until they are, those that the
committed matrix knows first. A whole row has all else as well: every property on every scenario.
Exit code 1 if a mutant survives a property that it names, or, in a whole matrix, if a property kills no mutant.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sftspec.counted import counted

if TYPE_CHECKING:
    from sftspec.conformance.sensitivity.signatures import Signature

EPILOG = """\
Each mutant is planted, on each seed, until the properties that its entry names have failed on it; a mutant of a
function runs no trainer. With --whole a row has every property that fails on the mutant, on the first seed, which
takes ten times as long: `check` likens a trainer that fails to such rows. --json FILE keeps the rows of the first
seed, each as soon as it is known, beside the rows of other mutants, which stay. A run that is stopped goes on from
there when the same command is given again, as long as neither code nor seed has changed; --anew makes all rows again.

examples:
  sftspec mutants best_of_n
  sftspec mutants --seeds 0 1 2
  sftspec mutants --json matrix.json --html matrix.html
  sftspec mutants masking/header-trained --whole --json conformance/sensitivity/mutants/matrix.json
"""


class MutantsError(ValueError):
    """A mutant, an area or a file that does not exist; says what does."""


def add_mutants_arguments(command: ArgumentParser) -> None:
    command.epilog, command.formatter_class = EPILOG, RawDescriptionHelpFormatter
    command.add_argument("names", metavar="AREA|MUTANT", nargs="*", help="plant only these (default: all)")
    command.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[0],
        help="plant them on each of these (default 0)",
    )  # fmt: skip
    command.add_argument(
        "--workers", metavar="N", type=int, default=os.cpu_count() or 1,
        help="processes, of at most 1 GB each (default: one per processor)",
    )  # fmt: skip
    command.add_argument("--whole", action="store_true", help="every property that fails, and not only what is named")
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
    from sftspec.conformance.sensitivity.mutants import load_mutants

    for path in (args.json, args.html):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise MutantsError(f"{path}: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}")
    if args.workers < 1:
        raise MutantsError(f"--workers {args.workers}: give 1 or more")
    names, idle = chosen(args.names), []
    entries = {item.name: item.killed_by for item in load_mutants()}
    missed: dict[tuple[str, int], list[str]] = {}
    try:
        for seed in args.seeds:
            is_kept = seed == args.seeds[0]
            whole, path = args.whole and is_kept, args.json if is_kept else None
            file = MatrixFile(path, seed, chosen([]), names, args.anew, whole)
            _go_on(file)
            progress = Progress(seed, len(names), len(names) - len(file.left))
            for name, row in (matrix.kill_matrix if whole else all_kills)(file.left, seed, args.workers):
                file.keep(name, row)
                progress.say(name)
                print(kill_line(name, entries[name], row), flush=True)
            progress.end()
            rows = file.finish()
            missed |= {(name, seed): ids for name, ids in matrix.survivors(rows).items()}
            idle += matrix.idle(rows) if whole and not args.names else []
            if args.html is not None and is_kept:
                args.html.write_text(page(rows, seed, whole), encoding="utf-8")
    except (MatrixFileError, matrix.WorkerEnded) as error:
        raise MutantsError(str(error)) from error
    print("\n".join(summary(len(names), missed, idle, args.seeds)))
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


def kill_line(name: str, named: Sequence[str], row: Signature) -> str:
    """A mutant, and what kills it where: a scenario, or "drawn" for a function. What its entry names stands first."""
    area = name.partition("/")[0] + "/"
    said = [
        f"✓ {item.removeprefix(area)} ({next(iter(row[item].scenarios))})" if item in row else f"✗ {item}"
        for item in named
    ]
    others = [item.removeprefix(area) for item in row if item not in named]
    more = f"; {', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}" if others else ""
    return f"{name}: {', '.join(said)}{more}"


def summary(planted: int, missed: Mapping[tuple[str, int], list[str]], idle: list[str], seeds: list[int]) -> Iterator:
    """What survives, what kills nothing, and how many are killed by all that they name."""
    yield ""
    for (name, seed), ids in missed.items():
        yield f"SURVIVES {name} on seed {seed}: not killed by {', '.join(ids)}"
    for identifier in idle:
        yield f"IDLE {identifier}: kills no mutant"
    killed, on = planted - len({name for name, _ in missed}), ", ".join(map(str, seeds))
    yield f"{killed} of {counted(planted, 'mutant')} killed by all that they name, on seeds {on}"
