"""The `>>>` examples of docstrings run, and every public function of the reference has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import sftspec

MODULES = [f"sftspec.{module.name}" for module in pkgutil.iter_modules(sftspec.__path__) if not module.ispkg]
OTHERS = [
    "properties.laws", "properties.articles", "conformance.book.places", "conformance.book.prose",
    "conformance.gate.check", "conformance.gate.properties_as_tests", "conformance.report.printable",
    "conformance.witness.shrink",
]  # fmt: skip


def public_functions(module):
    """The functions of a module's own whose names do not begin with an underscore."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
        and inspect.isroutine(inspect.unwrap(value))
    }


def without_example(functions):
    return [name for name, function in functions.items() if ">>>" not in (inspect.getdoc(function) or "")]


@pytest.mark.parametrize("name", [*MODULES, *(f"sftspec.{other}" for other in OTHERS)])
def test_the_examples_of_a_module_run(name):
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_of_the_reference_has_an_example(name):
    missing = without_example(public_functions(importlib.import_module(name)))
    assert not missing, f"{name}: {', '.join(missing)} in want of a >>> example"


def test_every_exported_name_has_an_example():
    exported = {name: getattr(sftspec, name) for name in sftspec.__all__}
    functions = {name: value for name, value in exported.items() if inspect.isroutine(inspect.unwrap(value))}
    assert len(functions) >= 20 and not without_example(functions)


def test_a_function_without_an_example_is_noticed():
    def bare():
        """Nothing to see."""

    assert without_example({"bare": bare}) == ["bare"]
