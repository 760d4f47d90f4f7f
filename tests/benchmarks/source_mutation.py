"""Source mutation of masking, packing and step: how many changed operators and numbers do properties and tests see?

    pip install cosmic-ray
    python tests/benchmarks/source_mutation.py [masking] [packing] [step] [--every N] [--log FILE [--again]]

Mutants come from cosmic-ray's operators; one whose syntax tree, without annotations, is the module's own or an earlier
one's is not counted. Each is tried in a process forked after the libraries were imported: there the package is imported
afresh with the changed module in it, the properties of functions are drawn, then the tests run, until one fails or
takes too long. What killed mutants of the same line comes first, then what costs least. On the unchanged source
everything has to pass.

Prints the survivors as diffs, to be looked at one by one, and the share that was killed of the mutants that differ.
Those that were proven to differ in nothing stand in equivalent_mutants.py with the reason; they are tried all the same.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

import hypothesis
import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from equivalent_mutants import EQUIVALENT

TESTS = Path(__file__).parent.parent
SEEN_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # module: seams, test files
    "masking": (("encode",), ("test_masking", "test_trainer", "test_data_distillation", "test_goldens")),
    "packing": (("pack",), ("test_packing", "test_trainer")),
    "step": (("loss", "clip", "evaluate"), ("test_step", "test_trainer", "test_witness", "test_numeric_goldens")),
}
# Left out: tests that draw the properties of the reference once more, and one that reads nothing of these modules.
CHOSEN = "not holds_for_the_reference and not broken_packer and not declares_passes and not generator_makes"
SECONDS = 120  # for all properties and tests together, which take a sixth of it


def without_annotations(source: str) -> str:
    """The syntax tree without what only a type checker reads: annotations, and the values of names like `Lengths`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id.istitle():
            node.value = ast.Constant(None)
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


def mutants_of(source: str) -> Iterator[tuple[str, str]]:
    """Every different program that one application of one operator makes, each with its changed lines as a diff."""
    seen, named = {without_annotations(source)}, Counter[str]()
    for name in sorted(operator_names()):
        if "Variable" in name:
            continue
        operator, occurrence = get_operator(name)(), 0
        while (changed := mutate_code(source, operator, occurrence)) is not None:
            occurrence += 1
            try:
                tree = without_annotations(changed)
            except SyntaxError:
                continue
            if tree not in seen:
                seen.add(tree)
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                change = "\n".join(line for line in lines if line[:3] not in ("---", "+++") and line[0] in "+-")
                named[change] += 1
                yield change if named[change] == 1 else f"{change}  # place {named[change]}", changed


def reason(name: str, change: str) -> str:
    """Why this mutant differs in nothing; "" if that was not shown."""
    lines = [" ".join(line[1:].split()) for line in change.splitlines() if line.startswith("+")]
    return next((why for why, known in EQUIVALENT.get(name, {}).items() if "\n".join(lines) in known), "")


class Changed(SourceFileLoader):
    """Finds and loads one module of the package, with another source."""

    def __init__(self, name: str, source: str):
        self.source = source
        super().__init__(f"sftspec.{name}", str(TESTS.parent / "sftspec" / f"{name}.py"))

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


class Trial:
    """In the child: exit code 0 if nothing fails. What is tried, and from which second on, is written to the pipe.

    costs  CPU seconds of each property and test on the unchanged source: five times that, and two more, are too long
    order  by which they are sorted
    """

    def __init__(self, pipe: int, costs: dict[str, float], order: dict[str, float]):
        self.pipe, self.costs, self.order = pipe, costs, order

    def starts(self, name: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 2 + 5 * self.costs.get(name, 10.0))  # its signal ends the process
        os.write(self.pipe, f"{time.process_time()} {name}\n".encode())

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.starts(nodeid)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.order.get(item.nodeid, 0.0))

    def run(self, name: str, source: str) -> None:
        os.setsid()  # so that processes which a test starts end with this one
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        self.starts("import")
        # No shrinking, and a slow machine is no failure.
        settings, phases = hypothesis.settings, (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        settings.register_profile("quick", phases=phases, suppress_health_check=list(hypothesis.HealthCheck))
        settings.load_profile("quick")
        spawn = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
        torch.multiprocessing.spawn = spawn  # a process started from nothing would import the module unchanged
        for module in [module for module in sys.modules if module.partition(".")[0] == "sftspec"]:
            del sys.modules[module]
        sys.meta_path.insert(0, Changed(name, source))
        try:
            from sftspec import properties
            from sftspec.conformance.trial.judge import judge
            from sftspec.trainer import Pipeline
        except Exception:
            os._exit(1)
        seams, files = SEEN_BY[name]
        tests_first = "::" in min(self.order, key=self.order.__getitem__, default="")
        if tests_first and self.test(files):
            os._exit(1)
        drawn = [item for item in properties.load() if item.seam in seams and item.area in properties.AREAS[:4]]
        for item in sorted(drawn, key=lambda item: self.order.get(item.id, 0.0)):
            self.starts(item.id)
            if judge(item, Pipeline(), []).status != "pass":
                os._exit(1)
        if not tests_first and self.test(files):
            os._exit(1)
        self.starts("end")
        os._exit(0)

    def test(self, files: tuple[str, ...]) -> int:
        self.starts("pytest")
        paths = [str(TESTS / f"{file}.py") for file in files]
        return pytest.main(["-x", "-q", "-k", CHOSEN, "-p", "no:cacheprovider", *paths], plugins=[self])


def attempt(name: str, source: str, costs: dict[str, float], order: dict[str, float]) -> tuple[str, dict[str, float]]:
    """What killed the mutant ("" if nothing did), and the CPU seconds that each property and test took."""
    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=Trial(writing, costs, order).run, args=(name, source))
    child.start()
    os.close(writing)
    child.join(SECONDS)
    hangs = child.is_alive() or child.exitcode == -signal.SIGPROF
    if child.pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.join()
    with os.fdopen(reading) as pipe:
        started = [line.rstrip("\n").split(" ", 1) for line in pipe]
    times = [float(at) for at, _ in started]
    seconds = {what: end - start for (_, what), start, end in zip(started, times, times[1:], strict=False)}
    return "" if child.exitcode == 0 else f"{started[-1][1]}{' hangs' * hangs}", seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(SEEN_BY))
    parser.add_argument("--every", type=int, default=1, help="try one mutant in N")
    parser.add_argument("--log", type=Path, help="JSON lines, one a mutant; what stands there is not tried again")
    parser.add_argument("--again", action="store_true", help="but try the survivors of the log again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for file in {file for name in arguments.modules for file in SEEN_BY[name][1]}:
        importlib.import_module(f"sftspec.tests.{file}")  # for the libraries that it imports
    known: dict[tuple[str, str], str] = {}
    if arguments.log and arguments.log.exists():
        for line in arguments.log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            known[entry["module"], entry["change"]] = entry["killer"]
    for name in arguments.modules:
        source = Path(importlib.import_module(f"sftspec.{name}").__file__ or "").read_text(encoding="utf-8")
        killer, costs = attempt(name, source, {}, {})
        assert not killer, f"{name}: {killer} fails on the unchanged source"
        kills = Counter[tuple[str, str]]()  # by the line that was changed, and what killed
        tried = list(mutants_of(source))[:: arguments.every]
        for change, changed in tried:
            line = change.splitlines()[0]
            if known.get((name, change), "") or ((name, change) in known and not arguments.again):
                kills[line, known[name, change].removesuffix(" hangs")] += 1
                continue
            started = time.perf_counter()
            order = {what: cost / (1 + 100 * kills[line, what]) for what, cost in costs.items()}
            killer, _ = attempt(name, changed, costs, order)
            kills[line, killer.removesuffix(" hangs")] += 1
            known[name, change] = killer
            entry = {"module": name, "change": change, "killer": killer, "seconds": time.perf_counter() - started}
            if arguments.log:
                with arguments.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(entry) + "\n")
        summarise(name, {change: known[name, change] for change, _ in tried})
    return 0


def summarise(name: str, killers: dict[str, str]) -> None:
    proofs = {change: reason(name, change) for change in killers}
    alive = [change for change, killer in killers.items() if not killer]
    equal = [change for change in alive if proofs[change]]
    for change in alive:
        title = f"equivalent, {proofs[change]}" if proofs[change] else "survives"
        print(f"{name}: {title}", *change.splitlines(), sep="\n  ")
    for change, killer in killers.items():
        assert not (killer and proofs[change]), f"{name}: {change} is no equivalent, {killer} kills it"
    killed, differing = len(killers) - len(alive), len(killers) - len(equal)
    share = 100 * killed / differing
    print(
        f"{name}: {len(killers)} mutants, {len(equal)} equivalent; {killed} killed, {share:.1f} % of those that differ"
    )


if __name__ == "__main__":
    sys.exit(main())
