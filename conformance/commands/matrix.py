"""`sftspec matrix`: trainers by settings, what came of it as JSON, as Markdown and as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from sftspec import SPEC_REVISION
from sftspec.conformance.adapters import BUILT_IN, TrainerError
from sftspec.conformance.matrix.settings import SETTINGS

RESULTS = Path("conformance") / "results"


def add_matrix_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trainers", metavar="NAMES", default="", help="only these, joined by commas (default: all)")
    command.add_argument(
        "--out", metavar="DIR", type=Path, default=RESULTS, help="of the results (default %(default)s)"
    )
    command.add_argument("--workers", metavar="N", type=int, default=1, help="trainers on trial at once (default 1)")
    command.add_argument("--again", action="store_true", help="try those too of which there is a result")
    command.add_argument("--quick", action="store_true", help="few scenarios of each")
    command.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=None, help="of one scenario (default: of `sftspec check`)"
    )
    command.add_argument("--page", action="store_true", help="try nothing, write the page of what there is")


def run_matrix_command(args: argparse.Namespace) -> int:
    from sftspec.conformance.matrix.page import markdown, page
    from sftspec.conformance.matrix.results import all_results
    from sftspec.conformance.matrix.run import in_a_process, run_matrix

    trainers = [name.strip() for name in args.trainers.split(",") if name.strip()] or list(SETTINGS)
    for name in trainers:
        if name not in BUILT_IN:
            raise TrainerError(f"unknown trainer {name!r}; known: {', '.join(BUILT_IN)}")
    if not args.page:
        given = [] if args.timeout is None else ["--timeout", f"{args.timeout:g}"]
        judge = in_a_process([*(["--quick"] if args.quick else []), *given])
        run_matrix(
            trainers, args.out, judge, args.workers, args.again, args.quick, lambda text: print(text, flush=True)
        )
    results, folder = all_results(args.out), args.out / SPEC_REVISION
    if not results:
        print(f"{folder}: there is no result")
        return 1
    for name, text in (("README.md", markdown(results, SPEC_REVISION)), ("index.html", page(results, SPEC_REVISION))):
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    return 0
