"""A trainer does a job while the witness listens: everything that is judged later is recorded here.

Recording comes in two parts. To perform is to train, once or (for a scenario with a twin) twice; to read is to turn
what was tapped into the ledger. The kill matrix reads only what differs from the reference's performance.
"""

from __future__ import annotations

import copy
import difflib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftspec import properties
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.trial.corpora import ALPHABET
from sftspec.conformance.trial.scenarios import GOLDENS, SCENARIOS, Scenario, make_job
from sftspec.conformance.witness.provenance import Provenance
from sftspec.conformance.witness.recovery import WitnessError, build_run
from sftspec.conformance.witness.tap import Tap
from sftspec.masking import Conventions
from sftspec.properties.ledger.run import Run, reference_stream


def claims_of(trainer: Any) -> frozenset[str]:
    """What a trainer claims; padding, where it says nothing. Raises TrainerError where that is no set of names."""
    claims = getattr(trainer, "claims", ())
    if not isinstance(claims, set | frozenset | tuple | list):
        raise TrainerError(f'claims is a {type(claims).__name__}: give a set of names, such as {{"padding", "adamw"}}')
    return frozenset(claims) or frozenset({"padding"})


def require_known_claims(trainer: Any) -> None:
    """A claim with a typo would be reported as not claimed. Raises TrainerError with those that there are."""
    known = {"padding"}.union(*(item.claims for item in SCENARIOS), (item.claim for item in properties.load())) - {""}
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
    tap: Tap
    provenance: Provenance
    refused: int
    twin: Performance | None = None

    def read(self) -> Run:
        """The run with its ledger."""
        try:
            build_run(self.run.job, self.tap, self.run, self.provenance)
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
    max_replays = 0 if scenario.name in GOLDENS else max_replays  # nothing of what they show is read there
    performance = _perform_once(trainer, scenario, seed, workdir / "first", max_replays)
    if scenario.twin is not None and wants_twin(performance):
        performance.twin = _perform_once(trainer, scenario, seed, workdir / "twin", 0, **scenario.twin)
    return performance


def _perform_once(trainer, scenario, seed, workdir, max_replays, /, **changes) -> Performance:
    import torch

    torch.set_num_threads(1)  # tensors are tiny: a second thread only waits, and may reorder sums
    job, refused = make_job(scenario, trainer, seed, workdir, **changes)
    conventions = getattr(trainer, "conventions", None) or Conventions()
    run = Run(job, conventions, scenario=scenario.name)
    provenance = Provenance(
        [reference_stream(job, conventions, conversation).input_ids for conversation in job.conversations],
        job.tokenizer.convert_tokens_to_ids(list(ALPHABET)),
        job.tokenizer.pad_token_id,
        job.max_length,
    )
    run.initial = {name: item.detach().clone() for name, item in job.model.named_parameters()}
    asked = copy.deepcopy(job.model.config)
    torch.manual_seed(seed)
    # What a trainer writes into its job, or into the conversations, changes nothing of what was asked of it.
    given = replace(job, conversations=copy.deepcopy(job.conversations), tokenizer=copy.deepcopy(job.tokenizer))
    with Tap(job, provenance, max_replays) as tap:
        try:
            trainer.train(given)
        except Exception as error:
            run.error = f"{type(error).__name__}: {error}"
            run.traceback = traceback.format_exc()
    job.reported["bytes_in_workdir"] = sum(
        item.stat().st_size for item in workdir.rglob("*") if item != job.path and item.is_file()
    )
    run.final = {name: item.detach().clone() for name, item in job.model.named_parameters()}
    job.model.config = asked  # what a trainer writes into it (dropout, rope) is not what was asked
    return Performance(run, tap, provenance, refused)
