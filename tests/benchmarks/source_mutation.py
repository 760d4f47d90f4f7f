"""Source mutation of masking, packing and step: how many changed operators and numbers do properties and tests see?

    pip install cosmic-ray; python tests/benchmarks/source_mutation.py [masking] [packing] [step] [--every N]

Mutants come from cosmic-ray's operators. Each is tried in a process forked after everything was imported, where the
code of the module's functions is exchanged: seconds of imports are paid once. The properties of functions are drawn
first, then the tests run until one fails; the one test that starts processes of its own is left out. A mutant whose
syntax tree, without annotations, is the module's own or an earlier one's is not counted. Prints the survivors as diffs,
to be looked at one by one, and the share that was killed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from sftspec import properties
from sftspec.conformance.judge import judge
from sftspec.trainer import Pipeline

TESTS = Path(__file__).parent.parent
SEEN_BY = {  # module: areas whose properties of functions are drawn, test files
    "masking": (
        ("masking", "template"),
        ("test_tokenization", "test_trainer", "test_data_distillation", "test_goldens"),
    ),
    "packing": (("packing",), ("test_packing", "test_collation")),
    "step": (("step", "masking"), ("test_trainer", "test_witness")),
}
SECONDS = 150


def without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


def mutants_of(source: str) -> Iterator[str]:
    """Every different program that one application of one operator makes."""
    seen = {without_annotations(source)}
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
                yield changed


def exchange(module: types.ModuleType, source: str) -> None:
    """Give the module's functions the code of another source; who imported them has them too."""
    fresh = types.ModuleType(module.__name__)
    sys.modules[module.__name__] = fresh  # dataclasses look themselves up there
    exec(compile(source, module.__file__ or "", "exec"), fresh.__dict__)
    sys.modules[module.__name__] = module
    for name, new in vars(fresh).items():
        old = vars(module).get(name)
        if getattr(new, "__module__", None) != module.__name__ or old is None:
            if not name.startswith("__") and not callable(new) and not isinstance(new, types.ModuleType):
                setattr(module, name, new)
        elif isinstance(new, type):
            for key, method in vars(new).items():
                _exchange_code(vars(old).get(key), method)
        else:
            _exchange_code(old, new)


def _exchange_code(old: object, new: object) -> None:
    old, new = (getattr(item, "fget", None) or getattr(item, "__wrapped__", item) for item in (old, new))
    if isinstance(old, types.FunctionType) and isinstance(new, types.FunctionType):
        if len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
            old.__code__ = new.__code__
        old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__


def trial(name: str, source: str) -> None:
    """In the child: exit code 0 if nothing fails."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        exchange(importlib.import_module(f"sftspec.{name}"), source)
    except Exception:
        os._exit(1)
    areas, files = SEEN_BY[name]
    for item in properties.load(*areas):
        if item.seam != "run" and judge(item, Pipeline(), []).status not in ("pass", "not-claimed"):
            os._exit(1)
    paths = [str(TESTS / f"{file}.py") for file in files]
    os._exit(min(1, pytest.main(["-x", "-q", "-k", "not two_processes", "-p", "no:cacheprovider", *paths])))


def survives(work: tuple[str, str]) -> bool:
    child = multiprocessing.get_context("fork").Process(target=trial, args=work)
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        return False
    return child.exitcode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(SEEN_BY))
    parser.add_argument("--every", type=int, default=1, help="try one mutant in N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for file in {file for name in arguments.modules for file in SEEN_BY[name][1]}:
        importlib.import_module(f"sftspec.tests.{file}")
    properties.load()
    for name in arguments.modules:
        path = Path(importlib.import_module(f"sftspec.{name}").__file__ or "")
        source, started = path.read_text(encoding="utf-8"), time.perf_counter()
        assert survives((name, source)), f"{name}: something fails on the unchanged source"
        tried = list(mutants_of(source))[:: arguments.every]
        alive = 0
        for changed in tried:
            if survives((name, changed)):
                alive += 1
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                print(f"{name}:", *(line for line in lines if line[:3] not in ("---", "+++")), sep="\n  ", flush=True)
        share = 100 * (1 - alive / len(tried))
        seconds = time.perf_counter() - started
        print(f"{name}: {len(tried) - alive} of {len(tried)} killed, {share:.1f} %, {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
