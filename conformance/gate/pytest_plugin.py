"""The pytest plugin: `pytest --sft-trainer my_trainer.py` adds a test for each property of the specification.

It does nothing without the option, and imports nothing heavy for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sftspec.conformance.gate.properties_as_tests import Suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sftspec", "a trainer for supervised fine-tuning on trial, one test a property")
    group.addoption("--sft-trainer", metavar="TRAINER", help="as in `sftspec check`: a name, file.py:Name, module:Name")
    group.addoption("--sft-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the trainer")
    group.addoption("--sft-select", metavar="AREA|ID", action="append", default=[], help="test only these")
    group.addoption("--sft-seed", metavar="N", type=int, default=0, help="of corpus, model and order (default 0)")
    group.addoption("--sft-baseline", metavar="FILE", type=Path, help="what is known to fail: expected failures")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the tests
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--sft-trainer") is not None:
        suite = suite_of(config)
        parent = Properties.from_parent(session, name="sftspec", nodeid="sftspec", suite=suite)
        items.extend(parent.collect())


def pytest_sessionfinish(session: pytest.Session) -> None:
    test_run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or getattr(session.config.option, "testrunuid", None)
    if test_run and not hasattr(session.config, "workerinput"):
        from sftspec.conformance.gate.shared_trial import forget

        forget(test_run)


def suite_of(config: pytest.Config) -> Suite:
    """What the options ask for. Raises pytest.UsageError for what cannot be had."""
    from sftspec.conformance.adapters import TrainerError, resolve
    from sftspec.conformance.gate.baseline import BaselineError
    from sftspec.conformance.gate.properties_as_tests import Suite
    from sftspec.conformance.trial.selection import SelectionError, select

    asked = config.getoption("--sft-set")
    wrong = [text for text in asked if "=" not in text]
    if wrong:
        raise pytest.UsageError(f"--sft-set {wrong[0]}: write KEY=VALUE")
    try:
        chosen = tuple(config.getoption("--sft-select"))
        select(chosen)
        candidate = resolve(config.getoption("--sft-trainer"), dict(text.split("=", 1) for text in asked))
        return Suite(candidate, chosen, config.getoption("--sft-seed"), config.getoption("--sft-baseline"))
    except (TrainerError, SelectionError, BaselineError) as error:
        raise pytest.UsageError(str(error)) from None


class Properties(pytest.Collector):
    """The properties of one trainer."""

    def __init__(self, suite: Suite, **options: Any):
        super().__init__(**options)
        self.suite = suite

    def collect(self) -> list[pytest.Item]:
        return [PropertyItem.from_parent(self, name=name) for name in self.suite.ids]


class PropertyItem(pytest.Item):
    """One property, or the conclusion."""

    def runtest(self) -> None:
        self.parent.suite.check(self.name)  # type: ignore[union-attr]

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"sftspec {self.name}"
