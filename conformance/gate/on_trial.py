"""A trainer that tests ask for: what its tests are called, and the document of its trial.

`Apart`: another process makes it by its place, as in `sftspec check`. A trainer that exits, hangs or takes all memory
is then a sentence in the document, and no end of the process that tests. `Here`: it is only at hand as an object.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sftspec.conformance.adapters import Candidate, TrainerError, candidate_for, is_recipe
from sftspec.conformance.environments.build import python_of
from sftspec.conformance.gate.check import document_of
from sftspec.conformance.trial.quiet_output import ENVIRONMENT, ON_TRIAL
from sftspec.conformance.trial.selection import select as properties_of
from sftspec.conformance.witness.shadowing import FILE_PREFIX


@dataclass(frozen=True)
class Apart:
    """A trainer by its place, with settings as text, and the interpreter that it runs in; "" is this one."""

    place: str
    asked: Mapping[str, str] = field(default_factory=dict)
    python: str = ""

    @property
    def key(self) -> tuple:
        return self.place, sorted(self.asked.items()), self.python

    def ids(self, select: Sequence[str]) -> list[str]:
        """Raises TrainerError for a trainer that cannot be had."""
        with self._stage() as (_, trainer):
            return [item.id for item in offered(trainer, select)]

    def document(self, select: Sequence[str], seed: int) -> dict[str, Any]:
        """Raises TrainerError for a trainer that cannot be had, KeyboardInterrupt where it was interrupted."""
        from sftspec.conformance.report.document import make_document
        from sftspec.conformance.report.isolation import Isolation
        from sftspec.conformance.trial.evidence import scenarios_of
        from sftspec.conformance.trial.scenarios import scenarios_for
        from sftspec.conformance.trial.two_processes import put_on_trial_apart

        chosen, isolation = properties_of(select), Isolation()
        with self._stage() as (stage, trainer):
            has_runs = any(item.seam == "run" for item in chosen)
            scenarios = scenarios_of(select, scenarios_for(trainer.claims)) if has_runs else []
            trial = put_on_trial_apart(stage, trainer, chosen, scenarios, seed, keep=isolation.add)
            if trial.interrupted:
                raise KeyboardInterrupt(trial.interrupted)
            words = [*shlex.split(stage.said["command"]), *(["--python", self.python] if self.python else [])]
            command = shlex.join([*words, "--seed", str(seed)])
            identity, environment = stage.said["identity"], stage.said["environment"]
            return make_document(trial, identity, command, seed, environment, isolation.record())

    @contextmanager
    def _stage(self) -> Iterator[tuple[Any, Any]]:
        from sftspec.conformance.trial.two_processes import stage_of

        os.environ.update(ENVIRONMENT)
        with stage_of(self.place, self.asked, self.python) as stage:
            yield stage, stage.trainer()


@dataclass(frozen=True)
class Here:
    """A trainer that was made in this process."""

    candidate: Candidate

    @property
    def key(self) -> tuple:
        return self.candidate.place, sorted(self.candidate.setting.items(), key=str), id(self.candidate.trainer)

    def ids(self, select: Sequence[str]) -> list[str]:
        return [item.id for item in offered(self.candidate.trainer, select)]

    def document(self, select: Sequence[str], seed: int) -> dict[str, Any]:
        return document_of(self.candidate, select, seed)


def on_trial(trainer: Any, settings: Mapping[str, Any], python: str = "") -> Apart | Here:
    """A place, a class or function that an import finds again, or an object.

    Raises TrainerError for what cannot be had, PinnedError where its pinned environment is not there.
    """
    if isinstance(trainer, str):
        asked = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in settings.items()}
        return Apart(trainer, asked, python_of(trainer, python))
    if python:
        raise TrainerError('python: only a trainer that is named by its place, "file.py:Name", runs in another one')
    candidate = candidate_for(trainer, settings)
    is_found = is_importable(trainer) and all(isinstance(value, (bool, int, float, str)) for value in settings.values())
    return Apart(candidate.place, candidate.asked) if is_found else Here(candidate)


def is_importable(trainer: Any) -> bool:
    """Does `import` find this class or function again, in another process with the same path?"""
    module = getattr(trainer, "__module__", "__main__")
    if not is_recipe(trainer) or module == "__main__" or module.startswith(FILE_PREFIX):
        return False
    is_there = getattr(sys.modules.get(module), trainer.__qualname__, None) is trainer
    return is_there and importlib.util.find_spec(module) is not None


def is_a_trial() -> bool:
    """Is this the process of a trainer? It imports the module that its class stands in, and makes no tests of it."""
    return ON_TRIAL in os.environ


def offered(trainer: Any, select: Sequence[str]) -> Iterable[Any]:
    """The properties that can say something of a trainer: functions that it does not offer are left out."""
    from sftspec.conformance.trial.functions import part_of

    return [item for item in properties_of(select) if item.seam == "run" or part_of(trainer, item) is not None]
