"""The Python call: put a trainer on trial, and get the document that `sftspec check --json` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftspec.conformance.adapters import Candidate, candidate_for
from sftspec.conformance.gate.baseline import hold_against, read_baseline
from sftspec.conformance.trial.selection import select as properties_of

Progress = Callable[[str], None]


def silent(stage: str) -> None:
    """Nobody is told."""


def check(
    trainer: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    select: Sequence[str] = (),
    seed: int = 0,
    baseline: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Put a trainer on trial and return the verdicts as a document (conformance/report/schemas/verdicts.schema.json).

    trainer   an object with a method train(job), a class or a function that makes one, or a place that `sftspec check`
              takes, such as "trl" or "my_trainer.py:MyTrainer"
    settings  of the trainer, by name
    select    areas and ids, such as ["masking", "step/the-update-is-adamw"]; all without one
    seed      of the corpus, the model and the order
    baseline  a file of what is known to fail (`sftspec baseline write`)
    progress  is called with the name of what is being done

    Raises TrainerError, SelectionError or BaselineError, before anything runs, for what cannot be done.

    >>> document = sftspec.check(MyTrainer(), select=["masking"])  # doctest: +SKIP
    >>> document["totals"]["must"]["fail"], sftspec.exit_code(document)  # doctest: +SKIP
    (0, 0)
    """
    known = None if baseline is None else read_baseline(Path(baseline))
    candidate = candidate_for(trainer, settings or {})
    document = document_of(candidate, select, seed, progress)
    return document if known is None else hold_against(document, known)


def document_of(candidate: Candidate, select: Sequence[str], seed: int, progress: Progress = silent) -> dict[str, Any]:
    """The document of a candidate, without a baseline."""
    chosen = properties_of(select)
    from sftspec.conformance.report.document import identify, make_document
    from sftspec.conformance.trial.judge import put_on_trial

    # A single property is read off every scenario: the line that repeats a failure has to show it.
    areas = [] if any("/" in name for name in select) else select
    trial = put_on_trial(candidate.trainer, chosen, seed, progress=progress, areas=areas)
    identity = identify(candidate.trainer, candidate.setting)
    return make_document(trial, identity, f"{candidate.command} --seed {seed}", seed)
