"""The pytest plugin: `pytest --sft-trainer my_trainer.py` adds a test for each property of the specification.

It does nothing without the option, and imports nothing heavy for it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sftspec.conformance.gate.shared_trial import TEST_RUN, forget

if TYPE_CHECKING:
    from sftspec.conformance.gate.properties_as_tests import Suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sftspec", "a trainer for supervised fine-tuning on trial, one test a property")
    group.addoption("--sft-trainer", metavar="TRAINER", help="as in `sftspec check`: a name, file.py:Name, module:Name")
    group.addoption("--sft-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the trainer")
    group.addoption("--sft-python", metavar="INTERPRETER", default="", help="of the trainer's own environment")
    group.addoption("--sft-select", metavar="AREA|ID", action="append", default=[], help="test only these")
    group.addoption("--sft-seed", metavar="N", type=int, default=0, help="of corpus, model and order (default 0)")
    group.addoption("--sft-baseline", metavar="FILE", type=Path, help="what is known to fail: expected failures")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the tests
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    suite = suite_of(config)
    if suite is not None:
        parent = Properties.from_parent(session, name="sftspec", nodeid="sftspec", suite=suite)
        items.extend(parent.collect())


@pytest.hookimpl(tryfirst=True)  # before xdist starts its workers
def pytest_sessionstart(session: pytest.Session) -> None:
    """With xdist: the test run has an id that its controller knows too, who asks first whether there is a trainer."""
    config = session.config
    if config.pluginmanager.hasplugin("dsession"):
        config.option.testrunuid = os.environ[TEST_RUN] = config.getoption("testrunuid") or uuid.uuid4().hex
        try:
            suite_of(config)
        except pytest.UsageError:
            forget(os.environ.pop(TEST_RUN))
            raise


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.pluginmanager.hasplugin("dsession"):
        forget(os.environ.pop(TEST_RUN, ""))


def suite_of(config: pytest.Config) -> Suite | None:
    """What the options ask for, if they ask for it. Raises pytest.UsageError for what cannot be had."""
    if config.getoption("--sft-trainer") is None:
        return None
    from sftspec.conformance.adapters import TrainerError
    from sftspec.conformance.environments.lock import PinnedError
    from sftspec.conformance.gate.baseline import BaselineError
    from sftspec.conformance.gate.on_trial import on_trial
    from sftspec.conformance.gate.properties_as_tests import Suite
    from sftspec.conformance.trial.selection import SelectionError, select

    asked = config.getoption("--sft-set")
    wrong = [text for text in asked if "=" not in text]
    if wrong:
        raise pytest.UsageError(f"--sft-set {wrong[0]}: write KEY=VALUE")
    try:
        chosen = tuple(config.getoption("--sft-select"))
        select(chosen)
        settings = dict(text.split("=", 1) for text in asked)
        trainer = on_trial(config.getoption("--sft-trainer"), settings, config.getoption("--sft-python"))
        suite = Suite(trainer, chosen, config.getoption("--sft-seed"), config.getoption("--sft-baseline"))
        suite.ids()  # where the trainer cannot be had, it is known now
        return suite
    except (TrainerError, SelectionError, BaselineError, PinnedError) as error:
        raise pytest.UsageError(str(error)) from None


class Properties(pytest.Collector):
    """The properties of one trainer."""

    def __init__(self, suite: Suite, **options: Any):
        super().__init__(**options)
        self.suite = suite

    def collect(self) -> list[pytest.Item]:
        return [PropertyItem.from_parent(self, name=name) for name in self.suite.ids()]


class PropertyItem(pytest.Item):
    """One property, or the conclusion."""

    def runtest(self) -> None:
        self.parent.suite.check(self.name)  # type: ignore[union-attr]

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"sftspec {self.name}"
