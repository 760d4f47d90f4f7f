"""A function of a release on trial, run by the interpreter that has the release: `python -m … ADAPTER PROPERTY OUT`.

What stands at ADAPTER is a class with `parts`, as for `sftspec check`, or an Encoder (a library's renderer).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from sftspec.conformance.adapters import find, make
from sftspec.conformance.adapters.encoders import Encoder
from sftspec.conformance.trial.encoder import put_encoder_on_trial
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.selection import select


def main(place: str, identity: str, out: str) -> None:
    """Write the verdict of one property as JSON."""
    trainer, chosen = make(find(place), {}), select([identity])
    is_encoder = isinstance(trainer, Encoder)
    trial = put_encoder_on_trial(trainer, chosen) if is_encoder else put_on_trial(trainer, chosen)
    (verdict,) = [item for item in trial.verdicts if item.property.id == identity]
    note = (verdict.counterexample or {}).get("note") or verdict.reason
    found = {
        "version": trainer.version,
        "status": verdict.status,
        "evidence": sum(verdict.evidence.values()),
        "found": note,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
