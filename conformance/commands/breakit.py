"""`sftspec break`: list the experiments, or run one or all of them and say what happened."""

from __future__ import annotations

import difflib
import sys
import textwrap
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sftspec.conformance import breakit


class BreakError(ValueError):
    """An experiment that does not exist, or a folder that cannot be written; says what to do."""


def add_break_arguments(command: ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", nargs="?", help="an experiment, or all; without it they are listed")
    command.add_argument("--seed", type=int, default=0, help="of the corpus and the model (default 0)")
    command.add_argument("--out", metavar="DIR", type=Path, help="write a chart of each experiment there, as PNG")
    command.add_argument("--facts", action="store_true", help="print the numbers of published pipelines, with sources")


def run_break(args: Namespace) -> int:
    """Exit code 0: everything came out as expected; 1: a claim does not hold."""
    if args.facts:
        from sftspec.conformance.breakit.numbers import facts_as_text

        print(facts_as_text())
        return 0
    experiments = breakit.load()
    if args.name is None:
        for item in experiments.values():
            print(f"{item.name:24} {item.breaks}")
        print("\nsftspec break NAME|all [--seed N] [--out DIR] runs them; --facts prints published numbers")
        return 0
    if args.name != "all" and args.name not in experiments:
        close = difflib.get_close_matches(args.name, experiments, 1, 0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BreakError(f"unknown experiment {args.name!r}; known: all, {', '.join(experiments)}{hint}")
    if args.out is not None:
        _check_folder(args.out)
    chosen = experiments.values() if args.name == "all" else [experiments[args.name]]
    return max([show(item, args.seed, args.out) for item in chosen])


def _check_folder(folder: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise BreakError("--out writes PNG files with matplotlib: pip install 'sftspec[plots]', or leave --out away")
    if folder.exists() and not folder.is_dir():
        raise BreakError(f"--out {folder}: a file has this name; give a folder")
    folder.mkdir(parents=True, exist_ok=True)


def show(item: breakit.Experiment, seed: int, folder: Path | None) -> int:
    """Run one experiment and print it."""
    import torch
    from rich.console import Console

    from sftspec.conformance.breakit.charts import print_chart, save_png

    torch.set_num_threads(1)  # tensors are tiny: a second thread only waits
    console = Console(highlight=False)
    began = time.perf_counter()
    console.print(f"\n[bold]{item.name}[/]  {item.breaks}", soft_wrap=True)
    sys.stdout.flush()
    outcome = item.run(seed)
    seconds = time.perf_counter() - began
    width = min(console.width, 120)
    print(textwrap.fill(outcome.sentence, width))
    for chart in outcome.charts:
        print_chart(chart, console)
    for claim in outcome.claims:
        console.print(f"  {'[green]holds[/]' if claim.holds else '[bold red]FAILS[/]'}  {claim.text}", soft_wrap=True)
    print(textwrap.fill(item.nuance, width))
    origin = f"planted: {item.mutant}; " if item.mutant else ""
    print(f"{origin}caught by {item.caught_by} (`sftspec explain {item.caught_by}`); seed {seed}, {seconds:.1f} s")
    if folder is not None:
        path = folder / f"{item.name}-seed{seed}.png"
        save_png(outcome.charts, item.breaks, path)
        print(f"chart: {path}")
    return 0 if outcome.holds else 1
