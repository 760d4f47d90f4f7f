"""Where each token of a recording comes from: found anew in the rows that the model was given.

Which conversation a token belongs to, and in which tokens a conversation was read, decides what a trainer is charged
with. A folder that says it otherwise than the rows do is refused: a wrong origin is a way to a wrong pass.
"""

from __future__ import annotations

from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.trial.cut import as_cut
from sftspec.conformance.trial.performer import provenance_of
from sftspec.properties.ledger.run import Run


def require_origins(run: Run, place: str) -> None:
    """Raise RecordingError where `cut`, `recut` or the origin of a row is not what the witness finds."""
    table = [row for call in run.forwards for row in call.input_ids]
    if not table:
        return
    seen = Run(run.job, run.conventions, scenario=run.scenario)
    provenance = as_cut(seen, table, provenance_of(seen))
    for name in ("cut", "recut"):
        said, found = dict(getattr(run, name)), dict(getattr(seen, name))
        if said != found:
            raise RecordingError(f"{place}: {name} is {str(said)[:80]}; its model calls say {str(found)[:80]}")
    resolved = iter(provenance.resolve(table))
    origins = [[next(resolved) for _ in call.input_ids] for call in run.forwards]
    for number, row in enumerate(run.rows):
        example, offset = origins[row.forward][row.row][row.column]
        if (row.example, row.offset) != (example, offset):
            where = f"rows[{number}] is token {row.offset} of conversation {row.example}"
            raise RecordingError(f"{place}: {where}; its model call says token {offset} of {example}")
