"""A trainer does a job while the witness listens: everything that is judged later is recorded here.

Recording comes in two parts. To perform is to train, once or (for a scenario with a twin) twice; to read is to turn
what was tapped into the ledger. The kill matrix reads only what differs from the reference's performance.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec import properties
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.trial.corpora import ALPHABET
from sftspec.conformance.trial.cut import as_cut
from sftspec.conformance.trial.forking import listen_to_ranks
from sftspec.conformance.trial.scenarios import GOLDENS, SCENARIOS, WITHOUT, Scenario, make_job, spare_of
from sftspec.conformance.witness.asked import even, said_by
from sftspec.conformance.witness.identity import SEQUENCE, claims_of, weights_told
from sftspec.conformance.witness.listening import Heard, listen
from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.recovery import WitnessError, build_run
from sftspec.conventions import TOLD
from sftspec.masking import Conventions
from sftspec.properties.ledger.run import Run


def require_known_claims(trainer: Any) -> None:
    """A claim with a typo would be reported as not claimed. Raises TrainerError with those that there are."""
    known = {"padding", "autocast", SEQUENCE, *WITHOUT.values()}.union(
        *(item.claims for item in SCENARIOS), (item.claim for item in properties.load())
    ) - {""}
    for claim in sorted(claims_of(trainer) - known):
        close = difflib.get_close_matches(claim, known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise TrainerError(f"the trainer claims {claim!r}, which is nothing; {hint}known: {', '.join(sorted(known))}")


@dataclass
class Performance:
    """What a trainer did with a scenario's job, tapped but not read yet.

    run      job, error, final parameters; no rows so far
    refused  number of conversations that the trainer's setting does not accept
    twin     the second performance, if the scenario has one
    """

    run: Run
    tap: Heard
    provenance: Provenance
    refused: int
    twin: Performance | None = None

    def read(self) -> Run:
        """The run with its ledger."""
        try:
            provenance = as_cut(self.run, rows_of(self.tap), self.provenance)
            build_run(self.run.job, self.tap, self.run, provenance)
        except WitnessError as error:
            self.run.error = self.run.error or f"witness: {error}"
        if self.twin is not None:
            self.run.twin = self.twin.read()
        return self.run


def perform(
    trainer: Any,
    scenario: Scenario,
    seed: int,
    workdir: Path,
    max_replays: int = 4,
    wants_twin: Callable[[Performance], bool] = lambda first: True,
) -> Performance:
    """Run the trainer once on a scenario (twice, if it has a twin, and that is wanted after the first).

    max_replays: how many model calls are made again with other tokens.
    """
    max_replays = replays_in(scenario, max_replays)
    performance = _perform_once(trainer, scenario, seed, workdir / "first", max_replays)
    if scenario.twin is not None and wants_twin(performance):
        performance.twin = _perform_once(trainer, scenario, seed, workdir / "twin", 0, **scenario.twin)
    return performance


def replays_in(scenario: Scenario, max_replays: int) -> int:
    """How many model calls are made again: none in the goldens, where nothing of what they show is read."""
    return 0 if scenario.name in GOLDENS else max_replays


def _perform_once(trainer, scenario, seed, workdir, max_replays, /, **changes) -> Performance:
    processes = getattr(trainer, "processes", 1)
    if processes > 1 and SEQUENCE not in claims_of(trainer):
        changes = {**changes, "world_size": processes}
    job, refused = make_job(scenario, trainer, seed, workdir, **changes)
    conventions = getattr(trainer, "conventions", None) or Conventions()
    if processes > 1:
        count, spare = len(job.conversations), spare_of(scenario, job, seed)
        del job.conversations[len(even(range(count), count - spare, job.batch_size * job.world_size)) :]
    run = Run(job, conventions, scenario=scenario.name, processes=processes, refused=refused)
    provenance = provenance_of(run)
    run.initial = {name: item.detach().clone() for name, item in job.model.named_parameters()}
    asked = copy.deepcopy(job.model.config)
    try:
        weights = weights_told(trainer, job)
    except Exception as error:
        return performed(run, Heard(error=f"conventions.weights: {said_by(error)}"), provenance, len(refused))
    hear = listen if processes == 1 else listen_to_ranks
    heard = hear(trainer, job, provenance, max_replays, seed)
    heard.reported = heard.reported | weights
    job.model.config = asked  # what a trainer writes into it (dropout, rope) is not what was asked
    return performed(run, heard, provenance, len(refused))


def provenance_of(run: Run) -> Provenance:
    streams = [stream.input_ids for stream in run.streams]
    return Provenance(streams, alphabet_of(run.job.tokenizer), run.pad, run.job.prefix)


def rows_of(heard: Heard) -> list[list[int]]:
    """The token ids of every row that the model was called with."""
    return [row for call in heard.calls for row in call.input_ids.tolist()]


def alphabet_of(tokenizer: Any) -> list[int]:
    """The tokens that nonces are made of: these alone are changed in a call that is made again."""
    return tokenizer.convert_tokens_to_ids(list(ALPHABET))


def performed(run: Run, heard: Heard, provenance: Provenance, refused: int) -> Performance:
    """A performance of what was heard, in this process or in another one."""
    run.error, run.traceback, run.final, run.job.reported = heard.error, heard.traceback, heard.final, heard.reported
    run.__dict__.pop("weights", None)
    if TOLD in heard.reported:  # what weighs nothing is no target
        run.__dict__.pop("streams", None)
    return Performance(run, heard, provenance, refused)
