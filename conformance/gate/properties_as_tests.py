"""Properties as tests of a trainer: one test for each, and one for the conclusion.

    @sftspec.parametrize_with_properties(MyTrainer)
    def test_my_trainer(check):
        check()

A test passes, fails or is skipped as its property does; what is known to fail (baseline), a failing `should`, and a
property newer than the baseline are expected failures. The test `conclusion` fails where the run broke, where too
little was measured, and where an entry of the baseline is wrong: all are green exactly if `sftspec check` exits with 0.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec.conformance.gate.baseline import hold_against, read_baseline
from sftspec.conformance.gate.on_trial import Apart, Here, is_a_trial, on_trial
from sftspec.conformance.gate.shared_trial import document_once

CONCLUSION = "conclusion"
WIDTH = 100


@dataclass(frozen=True)
class Suite:
    """A trainer and what is asked of it, as tests."""

    trainer: Apart | Here
    select: Sequence[str] = ()
    seed: int = 0
    baseline: Path | None = None

    def __post_init__(self) -> None:
        if self.baseline is not None:
            read_baseline(self.baseline)  # refused before anything runs

    def ids(self) -> list[str]:
        """The properties that can say something of the trainer (functions that it does not offer are left out), and
        the conclusion. Raises TrainerError for one that cannot be had.
        """
        found = document_once(f"ids of {self.key}", lambda: {"ids": self.trainer.ids(self.select)})
        return [*found["ids"], CONCLUSION]

    @property
    def document(self) -> dict[str, Any]:
        """The document of its trial, made once, under its baseline."""
        document = document_once(self.key, lambda: self.trainer.document(self.select, self.seed))
        return document if self.baseline is None else hold_against(document, read_baseline(self.baseline))

    @property
    def key(self) -> str:
        return repr((self.trainer.key, list(self.select), self.seed))

    def check(self, identifier: str) -> None:
        """Pass, or raise as pytest wants it: a failure, a skip or an expected failure."""
        import pytest

        outcome, text = outcome_of(self.document, identifier)
        if outcome == "fail":
            pytest.fail(text, pytrace=False)
        if outcome == "skip":
            pytest.skip(text)
        if outcome == "xfail":
            pytest.xfail(text)


@dataclass(frozen=True)
class Check:
    """What a test calls."""

    suite: Suite = field(repr=False)
    id: str

    def __call__(self) -> None:
        self.suite.check(self.id)


def parametrize_with_properties(
    trainer: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    select: Sequence[str] = (),
    seed: int = 0,
    baseline: str | Path | None = None,
    python: str = "",
) -> Callable[[Callable], Callable]:
    """Make a test function into one test for each property: its argument `check` is called, and passes or fails.

    trainer, settings, select, seed, baseline  as in `sftspec.check`
    python  the interpreter of the trainer's own environment, for a trainer that is named by its place

    A place, and a class that an import finds, is put on trial in a process of its own; an object in this one.

    >>> @parametrize_with_properties("trl", settings={"packing": "bfd"}, select=["packing"])  # doctest: +SKIP
    ... def test_trl(check):
    ...     check()
    """
    import pytest

    if is_a_trial():
        return pytest.mark.parametrize("check", [])
    known = Path(baseline) if baseline else None
    suite = Suite(on_trial(trainer, settings or {}, python), tuple(select), seed, known)
    return pytest.mark.parametrize("check", [pytest.param(Check(suite, name), id=name) for name in suite.ids()])


def outcome_of(document: Mapping[str, Any], identifier: str) -> tuple[str, str]:
    """(pass, fail, skip or xfail; what there is to say) of a property, or of the conclusion."""
    if identifier == CONCLUSION:
        return _conclusion(document)
    verdict = next(item for item in document["verdicts"] if item["id"] == identifier)
    status = verdict["status"]
    if status == "pass":
        return "pass", ""
    if status in ("not-claimed", "not-measured", "blocked"):
        return "skip", f"{status}: {verdict['reason']}"
    if status == "known-fail":
        return "xfail", verdict["reason"]
    text = explained(document, verdict)
    newer = document["baseline"] is not None and identifier in document["baseline"]["newer"]
    is_red = status in ("error", "stale") or (verdict["level"] == "must" and not newer)
    return ("fail" if is_red else "xfail"), text


def explained(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """The failure as the report prints it."""
    from sftspec.conformance.report.failures import failures
    from sftspec.conformance.report.terminal import make_console

    if verdict["status"] != "fail":
        return f"{verdict['id']} {verdict['status']}: {verdict['reason']}"
    stream = io.StringIO()
    console = make_console(stream)
    for line in failures({**document, "verdicts": [verdict]}, WIDTH):
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
    return stream.getvalue().strip("\n")


def _conclusion(document: Mapping[str, Any]) -> tuple[str, str]:
    """It fails for what no single property says: broken scenarios, too little measured, wrong entries."""
    from sftspec.conformance.report.outcome import EXIT_BROKEN, EXIT_INCONCLUSIVE, exit_code
    from sftspec.conformance.report.terminal import conclusion

    code = exit_code(document)
    wrong = [f"{item['id']}: {item['what']}" for item in (document["baseline"] or {"problems": []})["problems"]]
    broken = [f"{item['name']}: {item['error']}" for item in document["scenarios"] if item["error"]]
    if code in (EXIT_BROKEN, EXIT_INCONCLUSIVE) or wrong:
        return "fail", "\n".join([conclusion(document), *broken, *wrong])
    return "pass", ""
